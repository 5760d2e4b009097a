package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

const (
	maxName  = 200   // bytes of a property's name
	maxDepth = 16    // nesting of a property's value
	maxNodes = 10000 // values in one property's value
)

// request makes a build request of an order, if the catalog lets it: a force scheduler must reach the builder, and the worker must be one of
// the builder's. Properties of the scheduler give way to the order's.
func (c *Catalog) request(f Force) (model.Request, error) {
	i := slices.IndexFunc(c.Builders, func(b Builder) bool { return b.Name == f.Builder })
	if i < 0 {
		return model.Request{}, problem(http.StatusNotFound, "There is no builder %q.%s", f.Builder, didYouMean(f.Builder, c.builderNames()))
	}
	sched, err := c.forceScheduler(f)
	if err != nil {
		return model.Request{}, err
	}
	if ws := c.Builders[i].Workers; f.Worker != "" && !slices.Contains(ws, f.Worker) {
		return model.Request{}, problem(http.StatusUnprocessableEntity, "Builder %q does not use worker %q; it uses %s.", f.Builder, f.Worker, list(ws))
	}
	if hcl.HoldsPassword(f.Repository) {
		return model.Request{}, problem(http.StatusUnprocessableEntity, "The repository's address holds a password, and would be stored and shown. Leave the password out; the step's env can give git the credential.")
	}
	r := model.Request{Builder: f.Builder, Scheduler: sched.Name, Priority: sched.Priority, Reason: f.Reason, Owner: f.Owner, Worker: f.Worker,
		Source:     model.Source{Repository: f.Repository, Branch: f.Branch, Revision: f.Revision, Project: f.Project},
		Properties: model.Properties{}, Result: model.NoResult}
	if f.Priority != nil {
		r.Priority = *f.Priority
	}
	for name, v := range sched.Properties {
		r.Properties[name] = model.Property{Value: v, Source: "Scheduler"}
	}
	for name, v := range f.Properties {
		nodes := 0
		if name == "" || len(name) > maxName {
			return r, problem(http.StatusUnprocessableEntity, "A property's name has 1 to %d bytes; %.40q has %d.", maxName, name, len(name))
		}
		if !bounded(v, maxDepth, &nodes) {
			return r, problem(http.StatusUnprocessableEntity, "The value of property %q is nested more than %d deep or has more than %d parts.", name, maxDepth, maxNodes)
		}
		r.Properties[name] = model.Property{Value: v, Source: "Force Build"}
	}
	return r, nil
}

func (c *Catalog) forceScheduler(f Force) (*Scheduler, error) {
	var reach, force []string
	for i := range c.Schedulers {
		s := &c.Schedulers[i]
		if s.Kind != "force" {
			continue
		}
		force = append(force, s.Name)
		if !slices.Contains(s.Builders, f.Builder) {
			continue
		}
		if f.Scheduler == "" || f.Scheduler == s.Name {
			return s, nil
		}
		reach = append(reach, s.Name)
	}
	switch {
	case f.Scheduler == "":
		return nil, problem(http.StatusUnprocessableEntity, "No force scheduler reaches builder %q. Add it to the builders of a `scheduler \"force\"` block in the configuration.", f.Builder)
	case !slices.Contains(force, f.Scheduler):
		return nil, problem(http.StatusNotFound, "There is no force scheduler %q.%s", f.Scheduler, didYouMean(f.Scheduler, force))
	default:
		return nil, problem(http.StatusUnprocessableEntity, "Force scheduler %q does not reach builder %q; %s.", f.Scheduler, f.Builder, whoDoes(reach))
	}
}

func whoDoes(names []string) string {
	if len(names) == 0 {
		return "no force scheduler does"
	}
	return list(names) + " does"
}

func (c *Catalog) builderNames() []string {
	var names []string
	for _, b := range c.Builders {
		names = append(names, b.Name)
	}
	return names
}

// forceFor names the force schedulers that reach a builder.
func (c *Catalog) forceFor(builder string) []string {
	names := []string{}
	for _, s := range c.Schedulers {
		if s.Kind == "force" && slices.Contains(s.Builders, builder) {
			names = append(names, s.Name)
		}
	}
	return names
}

// bounded says whether a value of JSON is small enough to be kept.
func bounded(v any, depth int, nodes *int) bool {
	if *nodes++; depth == 0 || *nodes > maxNodes {
		return false
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if !bounded(e, depth-1, nodes) {
				return false
			}
		}
	case map[string]any:
		for _, e := range v {
			if !bounded(e, depth-1, nodes) {
				return false
			}
		}
	}
	return true
}

// list joins at most ten names.
func list(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// didYouMean offers the names that the word may have been meant to be: the nearest, or all if they are few.
func didYouMean(word string, names []string) string {
	for _, n := range names {
		if strings.EqualFold(n, word) || len(word) >= 3 && (strings.HasPrefix(n, word) || strings.HasPrefix(word, n)) || swapped(n, word) {
			return " Did you mean \"" + n + "\"?"
		}
	}
	if len(names) == 0 {
		return " There are none."
	}
	return " There are: " + list(names) + "."
}

// swapped says whether two words differ by one letter: changed, missing, added, or two that changed places.
func swapped(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(b) && a[i] == b[i] {
		i++
	}
	a, b = a[i:], b[i:]
	switch len(a) - len(b) {
	case 0:
		return len(a) > 0 && (a[1:] == b[1:] || len(a) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:])
	case 1:
		return a[1:] == b
	}
	return false
}
