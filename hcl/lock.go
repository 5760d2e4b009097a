package hcl

import (
	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

var lockSchema = &hcl2.BodySchema{Attributes: attributes("max", "scope")}

func (l *loader) lockBlocks(blocks hcl2.Blocks) {
	for _, b := range blocks {
		if !l.declare("lock", b.Labels[0], b, 0) {
			continue
		}
		content, diags := b.Body.Content(lockSchema)
		l.diags = append(l.diags, diags...)
		a := &attrs{m: content.Attributes, ctx: l.base, diags: &l.diags}
		lock := Lock{Name: b.Labels[0], Max: 1, Range: b.DefRange}
		scope := "master"
		a.integer("max", &lock.Max, 1, 1_000_000)
		a.oneOf("scope", &scope, "master", "worker")
		lock.PerWorker = scope == "worker"
		l.cfg.Locks = append(l.cfg.Locks, lock)
	}
}

// lockValue is what lock.db is in an expression; lock.db.exclusive is the same use, exclusively.
func lockValue(name string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"name": cty.StringVal(name),
		"exclusive": cty.ObjectVal(map[string]cty.Value{
			"name": cty.StringVal(name),
			"mode": cty.StringVal("exclusive"),
		}),
	})
}

// accesses reads a list of uses of locks: lock.db, lock.db.exclusive, or a lock's name as a string (counting).
func (l *loader) accesses(a *attrs, dst *[]Access) {
	seen := map[string]bool{}
	var one func(item cty.Value, r *hcl2.Range)
	one = func(item cty.Value, r *hcl2.Range) {
		var use Access
		switch ty := item.Type(); {
		case item.IsNull():
			l.errorf(r, unsuitableLocks, "A lock is null.")
			return
		case ty.IsTupleType() || ty.IsListType() || ty.IsSetType():
			for _, e := range item.AsValueSlice() {
				one(e, r)
			}
			return
		case ty == cty.String:
			use.Lock = item.AsString()
		case ty.IsObjectType() && ty.HasAttribute("mode"):
			use = Access{Lock: toGo(item.GetAttr("name")).(string), Exclusive: true}
		case ty.IsObjectType() && ty.HasAttribute("exclusive") && ty.HasAttribute("name"):
			use.Lock = toGo(item.GetAttr("name")).(string)
		default:
			l.errorf(r, unsuitableLocks, "A list such as [lock.db, lock.disk.exclusive] is needed here.")
			return
		}
		if _, ok := l.blocks["lock"][use.Lock]; !ok {
			l.errorf(r, "Unknown lock", "There is no lock %q.%s", use.Lock, didYouMean(use.Lock, l.known("lock")))
			return
		}
		if seen[use.Lock] {
			l.errorf(r, unsuitableLocks, "The lock %q is listed twice; nobody could ever take it twice at once.", use.Lock)
			return
		}
		seen[use.Lock] = true
		*dst = append(*dst, use)
	}
	a.elements("locks", one)
}

const unsuitableLocks = `Unsuitable value for "locks"`
