package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Compute makes the plan. It does not fail: what is wrong with the fleet or the providers is among the Diagnostics.
func Compute(in Input) *Plan {
	p := &Plan{
		FormatVersion: FormatVersion, Master: in.Master, Base: in.Base, Next: in.Base, CreatedAt: in.Now, Offline: in.Offline, Refreshed: in.Refreshed,
		Changes: []Change{}, Instances: []Instance{}, Work: []Work{}, Resolved: []Resolved{}, Drift: []Drift{}, Diagnostics: []Diagnostic{},
		Summary: Summary{Instances: map[Fate]int{}},
	}
	if !p.Empty() {
		p.Next++
	}
	p.ID = p.digest()
	return p
}

// digest identifies the plan whenever it was made.
func (p *Plan) digest() string {
	c := *p
	c.ID, c.CreatedAt = "", time.Time{}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // plain values only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
