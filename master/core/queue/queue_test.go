package queue

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rouse-ci/rouse/master/model"
)

// TestCompareIsATotalOrder holds for a queue that must serve everybody: no two requests are equal, and none is before itself by way of others.
func TestCompareIsATotalOrder(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) *Item {
		return &Item{ID: model.RequestID(rapid.IntRange(1, 4).Draw(t, "id")), Priority: rapid.IntRange(-1, 1).Draw(t, "priority"),
			At: time.Unix(int64(rapid.IntRange(0, 2).Draw(t, "at")), 0)}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := gen.Draw(t, "a"), gen.Draw(t, "b"), gen.Draw(t, "c")
		if Compare(a, b) != -Compare(b, a) {
			t.Fatalf("not antisymmetric: %+v %+v", a, b)
		}
		if Compare(a, b) < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
			t.Fatalf("not transitive: %+v %+v %+v", a, b, c)
		}
		same := a.ID == b.ID && a.Priority == b.Priority && a.At.Equal(b.At)
		if (Compare(a, b) == 0) != same {
			t.Fatalf("equal although different: %+v %+v", a, b)
		}
	})
}

func TestHigherPriorityComesFirstThenTheOlderOne(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(0, 0)
	want := []*Item{{ID: 3, Priority: 5, At: t0.Add(9)}, {ID: 2, At: t0}, {ID: 4, At: t0}, {ID: 1, At: t0.Add(1)}}
	got := []*Item{want[3], want[1], want[0], want[2]}
	slices.SortFunc(got, Compare)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestPoolServesLikeASortedList drives a pool and a plain list with the same random orders.
func TestPoolServesLikeASortedList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := NewPool("p")
		var all []*Item
		lane := map[*Item][2]string{}
		var id model.RequestID
		best := func(skip map[[2]string]bool) *Item {
			var b *Item
			for _, it := range all {
				if !skip[lane[it]] && (b == nil || Compare(it, b) < 0) {
					b = it
				}
			}
			return b
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				id++
				it := &Item{ID: id, Priority: rapid.IntRange(0, 2).Draw(t, "priority"), At: time.Unix(int64(rapid.IntRange(0, 3).Draw(t, "at")), 0),
					Key: rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(t, "key")}
				lane[it] = [2]string{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "builder"), rapid.SampledFrom([]string{"", "w"}).Draw(t, "worker")}
				p.Push(lane[it][0], lane[it][1], it)
				all = append(all, it)
			},
			"remove": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(all)-1).Draw(t, "i")
				p.Remove(all[i])
				all = slices.Delete(all, i, i+1)
			},
			"serve past held lanes": func(t *rapid.T) {
				skip := map[[2]string]bool{}
				for range rapid.IntRange(0, 3).Draw(t, "holds") {
					if l := p.Best(); l != nil {
						skip[[2]string{l.Builder, l.Worker}] = true
						p.Hold(l)
					}
				}
				want := best(skip)
				switch l := p.Best(); {
				case want == nil && l != nil, want != nil && (l == nil || l.Top() != want):
					t.Fatalf("best is not %+v", want)
				case want != nil && rapid.Bool().Draw(t, "take"):
					p.Remove(want)
					all = slices.DeleteFunc(all, func(it *Item) bool { return it == want })
				}
				p.Release()
			},
			"": func(t *rapid.T) {
				if p.Len() != len(all) {
					t.Fatalf("%d items, want %d", p.Len(), len(all))
				}
				tops := map[*Item]bool{}
				for _, it := range p.Tops() {
					tops[it] = true
				}
				for _, it := range all {
					first := !slices.ContainsFunc(all, func(o *Item) bool { return lane[o] == lane[it] && Compare(o, it) < 0 })
					if tops[it] != first {
						t.Fatalf("%+v among the tops: %v, first of its lane: %v", it, tops[it], first)
					}
				}
				want := best(nil)
				if l := p.Best(); (l == nil) != (want == nil) || l != nil && l.Top() != want {
					t.Fatalf("best is not %+v", want)
				}
				if want == nil || want.Key == "" {
					return
				}
				n := 0
				for _, it := range all {
					if it != want && lane[it] == lane[want] && it.Key == want.Key {
						n++
					}
				}
				if got := len(want.Lane().Same(want)); got != n {
					t.Fatalf("%d collapse, want %d", got, n)
				}
			},
		})
	})
}
