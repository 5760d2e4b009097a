package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/rouse-ci/rouse/master/store"
)

// A list that is asked for by a name is empty if nothing of that name has happened yet, and an error if there is and was no such name: else a misspelt one
// would look like one that has nothing to do.

// knownBuilder is nil if there is a builder of this name, or builds of one that there was.
func (s *Server) knownBuilder(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return s.failed(err, "builder "+name)
	}
	var names []string
	for i := range snap.Builders {
		names = append(names, snap.Builders[i].Name)
	}
	for _, b := range s.o.Catalog().Builders {
		names = append(names, b.Name)
	}
	rows, err := s.o.Records.Builds(ctx, store.BuildFilter{Builder: name, Limit: 1})
	if err != nil {
		return s.failed(err, "builder "+name)
	}
	return unlessKnown("builder", name, names, len(rows) > 0)
}

// knownWorker is nil if there is a worker of this name, or builds or instances of one that there was.
func (s *Server) knownWorker(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return s.failed(err, "worker "+name)
	}
	var names []string
	for i := range snap.Workers {
		names = append(names, snap.Workers[i].Worker.Name)
	}
	builds, err := s.o.Records.Builds(ctx, store.BuildFilter{Worker: name, Limit: 1})
	if err != nil {
		return s.failed(err, "worker "+name)
	}
	instances, err := s.o.Records.Instances(ctx, name, 1)
	if err != nil {
		return s.failed(err, "worker "+name)
	}
	return unlessKnown("worker", name, names, len(builds)+len(instances) > 0)
}

func unlessKnown(noun, name string, names []string, inRecords bool) error {
	if inRecords || slices.Contains(names, name) {
		return nil
	}
	return problem(http.StatusNotFound, "There is no %s %q, and the records have none.%s", noun, name, didYouMean(name, distinct(names)))
}

// distinct keeps the first of equal names.
func distinct(names []string) (out []string) {
	seen := map[string]bool{}
	for _, n := range names {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}
