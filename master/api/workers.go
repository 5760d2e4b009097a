package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/core"
)

type workerOrder struct {
	Name   string `path:"name" maxLength:"200" doc:"name of the worker"`
	Reason string `query:"reason" maxLength:"2000"`
}

func (s *Server) registerWorkers() {
	huma.Register(s.api, op(http.MethodGet, "/workers", "listWorkers", "workers", "List workers"), s.listWorkers)
	huma.Register(s.api, op(http.MethodPost, "/workers/{name}/pause", "pauseWorker", "workers", "Give a worker no more builds; running ones go on", 404), s.pauseWorker)
	huma.Register(s.api, op(http.MethodPost, "/workers/{name}/unpause", "unpauseWorker", "workers", "Give a worker builds again", 404), s.unpauseWorker)
	huma.Register(s.api, op(http.MethodPost, "/workers/{name}/end", "endWorker", "workers", "End a worker's instance whatever it does; its builds are tried again", 404, 409), s.endWorker)
}

func (s *Server) listWorkers(ctx context.Context, _ *struct{}) (*body[WorkerList], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "the workers")
	}
	out := WorkerList{Workers: []Worker{}}
	pools := s.o.Catalog().Pools
	for i := range snap.Workers {
		w := &snap.Workers[i]
		why, at := s.o.Refused(w.Worker.Name)
		backoff := w.BackoffUntil
		if !backoff.After(s.o.Now()) {
			backoff = time.Time{}
		}
		out.Workers = append(out.Workers, Worker{Name: w.Worker.Name, Pool: pools[w.Worker.Name], Provider: w.Worker.Provider, State: w.State, Attached: w.Attached, Instance: w.Instance,
			Builds: append(noBuilds, w.Builds...), MaxBuilds: w.Worker.MaxBuilds, Price: w.Worker.Price, Tries: w.Tries, BackoffUntil: backoff,
			LastError: w.LastError, FailClass: w.FailClass, ClassTries: w.ClassTries, Paused: w.Paused, Retired: w.Retired,
			AwaySince: w.AwaySince, AwayUntil: w.AwayUntil, Refused: why, RefusedAt: at})
	}
	return &body[WorkerList]{out}, nil
}

// worker finds one worker.
func (s *Server) worker(ctx context.Context, name string) (*core.WorkerView, error) {
	snap, err := s.o.Engine.Snapshot(ctx)
	if err != nil {
		return nil, s.failed(err, "worker "+name)
	}
	var names []string
	for i := range snap.Workers {
		if snap.Workers[i].Worker.Name == name {
			return &snap.Workers[i], nil
		}
		names = append(names, snap.Workers[i].Worker.Name)
	}
	return nil, problem(http.StatusNotFound, "There is no worker %q.%s", name, didYouMean(name, names))
}

// order finds a worker, gives an order about it, and says what was done.
func (s *Server) order(ctx context.Context, in *workerOrder, event func(*core.WorkerView) (core.Event, error), said string) (*body[Done], error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	w, err := s.worker(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	ev, err := event(w)
	if err != nil {
		return nil, err
	}
	if err := s.o.Engine.Do(ctx, ev); err != nil {
		return nil, s.failed(err, "worker "+in.Name)
	}
	return done(said, in.Name), nil
}

func (s *Server) pauseWorker(ctx context.Context, in *workerOrder) (*body[Done], error) {
	return s.order(ctx, in, func(*core.WorkerView) (core.Event, error) {
		return core.PauseAsked{Worker: in.Name, Reason: reason(ctx, in.Reason)}, nil
	}, "Worker %s is paused: it gets no new builds.")
}

func (s *Server) unpauseWorker(ctx context.Context, in *workerOrder) (*body[Done], error) {
	return s.order(ctx, in, func(*core.WorkerView) (core.Event, error) {
		return core.PauseAsked{Worker: in.Name}, nil
	}, "Worker %s gets builds again.")
}

func (s *Server) endWorker(ctx context.Context, in *workerOrder) (*body[Done], error) {
	return s.order(ctx, in, func(w *core.WorkerView) (core.Event, error) {
		if w.Instance == "" {
			if w.Worker.Provider == "" {
				return nil, problem(http.StatusConflict, "Worker %q is a standard one, which somebody else starts: it has no instance that could be ended. "+
					"To give it no more builds: pause; to end what it runs: cancel its builds.", in.Name)
			}
			return nil, problem(http.StatusConflict, "Worker %q has no instance now.", in.Name)
		}
		return core.EndAsked{Worker: in.Name, Reason: reason(ctx, in.Reason)}, nil
	}, "The instance of worker %s is being ended.")
}
