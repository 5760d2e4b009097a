package plan

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/hcl"
)

// sameWorker is the short way for thousands that stay. Instances are compared with their secrets, which the digest leaves out.
func sameWorker(o, n *hcl.Worker) bool {
	return o.Provider == n.Provider && o.Spec == n.Spec && o.MaxBuilds == n.MaxBuilds && o.KeepaliveInterval == n.KeepaliveInterval &&
		o.MissingTimeout == n.MissingTimeout && o.BuildWaitTimeout == n.BuildWaitTimeout && o.OrphanTimeout == n.OrphanTimeout && o.Price == n.Price &&
		o.Idle == n.Idle && secretName(o.Password) == secretName(n.Password) && slices.Equal(o.NotifyOnMissing, n.NotifyOnMissing) && slices.Equal(o.Locks, n.Locks) &&
		sameValues(o.Properties, n.Properties) && sameValues(o.DefaultProperties, n.DefaultProperties) && reflect.DeepEqual(o.Instance, n.Instance)
}

func sameValues(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || maps.EqualFunc(a, b, func(x, y any) bool { return reflect.DeepEqual(x, y) })
}

func secretName(s *hcl.Secret) string {
	if s == nil {
		return ""
	}
	return s.Name
}

// workerAttrs names what is not at its default.
func workerAttrs(cfg *hcl.Config, secrets []string, w *hcl.Worker) []attr {
	own := struct {
		MaxBuilds                                                          int
		Locks                                                              []hcl.Access
		NotifyOnMissing                                                    []string
		Price                                                              float64
		Properties, DefaultProperties                                      map[string]any
		Password                                                           *hcl.Secret
		KeepaliveInterval, MissingTimeout, BuildWaitTimeout, OrphanTimeout time.Duration
		Idle                                                               string
	}{w.MaxBuilds, w.Locks, w.NotifyOnMissing, w.Price, w.Properties, w.DefaultProperties, w.Password,
		w.KeepaliveInterval, w.MissingTimeout, w.BuildWaitTimeout, w.OrphanTimeout, w.Idle}
	missing := time.Hour
	if w.Provider != "" {
		missing = 20 * time.Minute
	}
	defaults := map[string]any{"keepalive_interval": duration(time.Hour), "missing_timeout": duration(missing), "build_wait_timeout": duration(10 * time.Minute),
		"orphan_timeout": duration(10 * time.Minute), "idle": "terminate"}
	list := flatten(nil, "", reflect.ValueOf(own), 0)
	for i := range list {
		if d, ok := defaults[list[i].path]; ok {
			list[i].zero = list[i].value == d
		}
	}
	if w.Provider == "" {
		return list
	}
	if p := providerOf(cfg, w); p != nil {
		list = append(list, attr{path: "provider", value: "provider." + p.Kind + "." + p.Name})
	}
	inst := flatten(nil, "instance", reflect.ValueOf(w.Instance), 0)
	inst = hide(inst, "instance", cfg.SensitiveInstance(w), secrets)
	markDefaults(inst, "instance", w.Attrs)
	inst = addWritten(inst, cfg, "instance", w.Attrs, cfg.SensitiveInstance(w), secrets)
	return append(list, inst...)
}

// judgeWorker tells a change of the machine from one that no machine notices.
func (pl *planner) judgeWorker(c *Change, o, n *hcl.Worker) {
	switch {
	case o.Provider != n.Provider || o.Spec != n.Spec:
		c.Action = Replace
		switch {
		case o.Provider == "":
			c.Reason = "it becomes latent: its machines are made by provider." + pl.providerAddress(pl.New, n)
		case n.Provider == "":
			c.Reason = "it is latent no more: somebody else starts it"
		case o.Provider != n.Provider:
			c.Reason = "another provider makes its machines"
		case reflect.DeepEqual(o.Instance, n.Instance):
			c.Reason = "provider." + pl.providerAddress(pl.New, n) + " changes"
		default:
			c.Reason = "its machines are made otherwise"
		}
		secretOnly := true
		for i := range c.Attributes {
			if a := &c.Attributes[i]; a.Path == "provider" || under(a.Path, "instance") {
				a.ForcesReplace, secretOnly = true, false
			}
		}
		if secretOnly && o.Provider == n.Provider && !reflect.DeepEqual(o.Instance, n.Instance) {
			c.Attributes = append(c.Attributes, Attribute{Path: "instance", Sensitive: true, ForcesReplace: true}) // a field that has no name outside
		}
	case c.Action == Update && slices.ContainsFunc(c.Attributes, func(a Attribute) bool { return strings.HasPrefix(a.Path, "instance") }):
		c.Note = "machines that run keep what they were given; the next ones get the new value"
	case c.Action == NoOp && n.Provider != "":
		pl.imageMoved(c, n)
	}
}

func (pl *planner) providerAddress(cfg *hcl.Config, w *hcl.Worker) string {
	if p := providerOf(cfg, w); p != nil {
		return p.Kind + "." + p.Name
	}
	return w.Provider
}

func attrRange(m map[string]hcl2.Range, attr string) *hcl.Range {
	for attr != "" {
		if r, ok := m[attr]; ok {
			return place(r)
		}
		i := strings.LastIndexByte(attr, '.')
		if i < 0 {
			break
		}
		attr = attr[:i]
	}
	return nil
}
