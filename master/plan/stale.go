package plan

import (
	"errors"
	"fmt"
	"strings"
)

// ErrStale says that a plan does not hold any more.
var ErrStale = errors.New("the saved plan is stale")

// Stale holds a saved plan against one that was made now from the same files. It returns an error that wraps ErrStale and says what has moved: the plan is another
// master's, another configuration was applied since, or what an instance would be made from has changed. That builds have begun or ended, and instances
// with them, is no reason: a plan says what happens to them by rules, not by name.
func (p *Plan) Stale(now *Plan) error {
	const again = "Make a new plan and look at it"
	switch {
	case p.Master != now.Master:
		return fmt.Errorf("%w: it was made for the master %s, and this is %s. %s", ErrStale, name(p.Master), name(now.Master), again)
	case p.Base != now.Base:
		return fmt.Errorf("%w: it starts from generation %d, and generation %d is in force. %s", ErrStale, p.Base, now.Base, again)
	case !p.Refreshed || !now.Refreshed:
		return nil
	}
	type part struct{ worker, attr string }
	was := make(map[part]string, len(p.Resolved))
	for _, r := range p.Resolved {
		was[part{r.Worker, r.Attr}] = r.After
	}
	var moved []string
	for _, r := range now.Resolved {
		before, ok := was[part{r.Worker, r.Attr}]
		if delete(was, part{r.Worker, r.Attr}); !ok || before != r.After {
			moved = append(moved, fmt.Sprintf("%s of worker.%s was %s and is %s", r.Attr, r.Worker, name(before), name(r.After)))
		}
	}
	for _, r := range p.Resolved {
		if before, ok := was[part{r.Worker, r.Attr}]; ok {
			moved = append(moved, fmt.Sprintf("%s of worker.%s was %s and is not known now", r.Attr, r.Worker, name(before)))
		}
	}
	if len(moved) == 0 {
		return nil
	}
	text := strings.Join(moved[:min(3, len(moved))], "; ")
	if more := len(moved) - 3; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Errorf("%w: %s. %s", ErrStale, text, again)
}

func name(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
