package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"time"

	"github.com/rouse-ci/rouse/hcl"
)

// Compute makes the plan. It does not fail: what is wrong with the fleet or the providers is among the Diagnostics.
func Compute(in Input) *Plan {
	pl := &planner{Input: in, old: in.Old, redefined: map[string]bool{}, p: &Plan{
		FormatVersion: FormatVersion, Master: in.Master, Base: in.Base, Next: in.Base, CreatedAt: in.Now.UTC(), Offline: in.Offline, Refreshed: in.Refreshed,
		Changes: []Change{}, Instances: []Instance{}, Work: []Work{}, Resolved: []Resolved{}, Drift: []Drift{}, Diagnostics: []Diagnostic{},
		Summary: Summary{Instances: map[Fate]int{}},
	}}
	if pl.old == nil {
		pl.old = &hcl.Config{Master: hcl.DefaultMaster()}
	}
	pl.inputs = &inputs{old: pl.old, new: in.New, same: in.Old == nil || hcl.SameInputs(pl.old, in.New)}
	pl.oldSecrets, pl.newSecrets = pl.old.SensitiveValues(), in.New.SensitiveValues()
	pl.oldWorkers, pl.newWorkers = workersOf(pl.old), workersOf(in.New)
	pl.p.SourceChanged = in.Old == nil || !maps.EqualFunc(pl.old.Files, in.New.Files, func(a, b []byte) bool { return string(a) == string(b) }) ||
		!maps.Equal(pl.old.Variables, in.New.Variables)

	pl.lookAtFleet()
	pl.resources()
	pl.byAddress = make(map[string]*Change, len(pl.p.Changes))
	for i := range pl.p.Changes {
		pl.byAddress[pl.p.Changes[i].Address] = &pl.p.Changes[i]
	}
	pl.instances()
	pl.work()
	pl.cost()
	pl.warnings()
	pl.summarise()
	if !pl.p.Empty() || pl.p.SourceChanged { // a text that means the same is kept as a generation, too
		pl.p.Next++
	}
	pl.scrub()
	pl.p.ID = pl.p.digest()
	return pl.p
}

func workersOf(cfg *hcl.Config) map[string]*hcl.Worker {
	m := make(map[string]*hcl.Worker, len(cfg.Workers))
	for i := range cfg.Workers {
		m[cfg.Workers[i].Name] = &cfg.Workers[i]
	}
	return m
}

func (pl *planner) summarise() {
	s := &pl.p.Summary
	for i := range pl.p.Changes {
		switch pl.p.Changes[i].Action {
		case Create:
			s.Add++
		case Update:
			s.Change++
		case Replace:
			s.Replace++
		case Remove:
			s.Remove++
		default:
			s.NoOp++
			pl.p.Changes[i].Range = nil // nobody looks for what stays, and there are thousands
		}
	}
	for i := range pl.p.Instances {
		s.Instances[pl.p.Instances[i].Fate]++
	}
	for _, d := range pl.p.Diagnostics {
		if d.Severity == "error" {
			s.Errors++
		} else {
			s.Warnings++
		}
	}
}

// scrub is the last line of defence: what providers and the outside say is text that may quote a value.
func (pl *planner) scrub() {
	secrets := append(append([]string{}, pl.oldSecrets...), pl.newSecrets...)
	if len(secrets) == 0 {
		return
	}
	clean := func(s *string) { *s = masked(*s, secrets) }
	for i := range pl.p.Diagnostics {
		d := &pl.p.Diagnostics[i]
		clean(&d.Summary)
		clean(&d.Detail)
	}
	for i := range pl.p.Drift {
		clean(&pl.p.Drift[i].Text)
	}
	for i := range pl.p.Resolved {
		clean(&pl.p.Resolved[i].Detail)
	}
	for i := range pl.p.Instances {
		clean(&pl.p.Instances[i].Reason)
	}
}

// digest identifies the plan whenever it was made.
func (p *Plan) digest() string {
	c := *p
	c.ID, c.CreatedAt = "", time.Time{}
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(c); err != nil {
		panic(err) // plain values only, and no number that JSON does not know
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
