package build

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

// Sources of properties, in Buildbot's words.
const (
	fromBuilder = "Builder"
	fromWorker  = "Worker"
	fromBuild   = "Build"
	fromSource  = "Source"
	fromStep    = "SetProperty Step"
	fromTrigger = "Trigger"
)

// startProperties are the properties of a new build. The order is Buildbot's: the request's (which carry their scheduler's), the builder's,
// the worker's, the build's own; later ones win. A worker's default_properties count only where nothing else is said.
func (b *run) startProperties(info map[string]any, inst model.Instance) model.Properties {
	def := b.def.Builder
	p := make(model.Properties, 16+len(b.req.Properties)+len(def.Properties))
	maps.Copy(p, b.req.Properties)
	set := func(source, name string, v any) { p[name] = model.Property{Value: v, Source: source} }

	for k, v := range def.Properties {
		set(fromBuilder, k, v)
	}
	set(fromBuilder, "buildername", def.Name)

	for k, v := range info {
		if k == "basedir" || k == "numcpus" || strings.HasPrefix(k, "os_") {
			if v, ok := plain(v); ok {
				set(fromWorker, k, v)
			}
		}
	}
	w := b.def.Workers[b.job.Worker]
	if w != nil {
		for k, v := range w.Properties {
			set(fromWorker, k, v)
		}
	}
	set(fromWorker, "workername", b.job.Worker)
	if inst.ProviderID != "" {
		set(fromWorker, "instance", inst.ProviderID)
	}
	if base, ok := info["basedir"].(string); ok && usable(base) {
		set(fromWorker, "builddir", path.Join(base, b.buildDir()))
	}

	set(fromBuild, "buildnumber", float64(b.job.ID))
	src := &b.req.Source
	set(fromBuild, "branch", src.Branch)
	set(fromBuild, "revision", src.Revision)
	set(fromBuild, "repository", src.Repository)
	set(fromBuild, "project", src.Project)
	set(fromBuild, "codebase", src.Codebase)

	if w != nil {
		for k, v := range w.DefaultProperties {
			if _, there := p[k]; !there {
				set(fromWorker, k, v)
			}
		}
	}
	return p
}

// buildDir is the builder's directory, on a worker and among the artifacts.
func (b *run) buildDir() string {
	if d := b.def.Builder.BuildDir; d != "" {
		return d
	}
	return b.def.Builder.Name
}

// workdir is a directory on the worker. Commands get absolute paths if the agent has told its base directory.
func (b *run) workdir(dir string) string {
	if path.IsAbs(dir) {
		return path.Clean(dir)
	}
	if base, ok := b.props["builddir"].Value.(string); ok && b.props["builddir"].Source == fromWorker {
		return path.Join(base, dir)
	}
	return path.Join(b.buildDir(), dir)
}

const maxInfo = 4096 // bytes of one value that an agent tells

func usable(s string) bool {
	return s != "" && len(s) <= maxInfo && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// plain returns a value that an agent told as JSON would have it, if it is a scalar of bearable size.
func plain(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, v == "" || usable(v)
	case bool, float64:
		return v, true
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	}
	return nil, false
}

// setProperty changes one property; it is saved with the next flush.
func (b *run) setProp(name, source string, v any) {
	b.props[name] = model.Property{Value: v, Source: source}
	b.scope.Prop[name] = v
	b.dirty = true
}

// startScope makes what the steps' expressions see.
func (b *run) startScope(info map[string]any, inst model.Instance) {
	src := &b.req.Source
	b.scope.Build = map[string]any{
		"id": float64(b.job.ID), "number": float64(b.job.ID), "builder": b.def.Builder.Name, "request": float64(b.req.ID), "reason": b.req.Reason,
		"attempt": float64(b.job.Attempt), "started_at": b.job.StartedAt.UTC().Format(time.RFC3339), "owner": b.req.Owner, "scheduler": b.req.Scheduler,
	}
	b.scope.Source = map[string]any{"repository": src.Repository, "branch": src.Branch, "revision": src.Revision, "project": src.Project, "codebase": src.Codebase}
	b.scope.Prop = make(map[string]any, len(b.props))
	for k, p := range b.props {
		b.scope.Prop[k] = p.Value
	}
	about := make(map[string]any, len(info))
	for _, k := range slices.Sorted(maps.Keys(info)) {
		if v, ok := plain(info[k]); ok && len(about) < 100 && usable(k) {
			about[k] = v
		}
	}
	b.scope.Worker = map[string]any{"name": b.job.Worker, "info": about}
	b.scope.Instance = map[string]any{"key": string(inst.Key), "provider": inst.Provider, "provider_id": inst.ProviderID}
	for _, k := range []string{"image", "type", "market", "zone", "address"} { // what the provider does not say is null
		if v, known := inst.Facts[k]; known {
			b.scope.Instance[k] = v
		}
	}
	b.scope.Step = map[string]any{}
}

// scopeStep adds what changes from step to step.
func (b *run) scopeStep(n int, def *hcl.Step) {
	b.scope.Build["result"] = b.tally.result.String()
	b.scope.Step["name"], b.scope.Step["number"] = def.Name, float64(n)
}
