package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rouse-ci/rouse/master/model"
)

const (
	flushEvery = 50 * time.Millisecond // how long something sent may stay in our buffer
	beatEvery  = 15 * time.Second      // an empty line this often, so that a dead connection is noticed on both sides
	watchEvery = 250 * time.Millisecond
)

// stream marks an operation whose answer is a stream.
func stream(o huma.Operation) huma.Operation {
	o.Responses = map[string]*huma.Response{"200": {Description: "A stream of JSON objects, one per line. Empty lines keep the connection alive. A last object " +
		"with the field \"error\" says that the stream broke off.",
		Content: map[string]*huma.MediaType{"application/x-ndjson": {}, "text/event-stream": {}}}}
	return o
}

// slowWriter gives the client a fresh deadline for every write.
type slowWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (s *slowWriter) Write(p []byte) (int, error) {
	if err := s.rc.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return s.w.Write(p)
}

// feed sends JSON objects as lines, or as server-sent events. What is sent reaches the client within flushEvery.
type feed struct {
	mu     sync.Mutex
	w      *bufio.Writer
	rc     *http.ResponseController
	events bool
	dirty  bool
	err    error
}

func (f *feed) send(id int64, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.dirty = true
	if f.events {
		_, f.err = fmt.Fprintf(f.w, "id: %d\ndata: %s\n\n", id, b)
		return f.err
	}
	if _, f.err = f.w.Write(b); f.err == nil {
		f.err = f.w.WriteByte('\n')
	}
	return f.err
}

// broken is the last object of a stream that broke off.
type broken struct {
	Error string `json:"error"`
	Again bool   `json:"again,omitempty"` // the same can be asked for when the master is back
}

// end tells a client of server-sent events that nothing more will come, since it would connect again otherwise.
func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && err != nil {
		b, _ := json.Marshal(broken{err.Error(), errors.Is(err, errStopping)})
		if f.events {
			_, f.err = fmt.Fprintf(f.w, "event: error\ndata: %s\n\n", b)
		} else {
			_, f.err = fmt.Fprintf(f.w, "%s\n", b)
		}
	}
	if f.err == nil && f.events && err == nil {
		_, f.err = io.WriteString(f.w, "event: end\ndata: {}\n\n")
	}
	f.dirty = true
	f.flush()
}

func (f *feed) flush() {
	if !f.dirty || f.err != nil {
		return
	}
	f.dirty = false
	if f.err = f.w.Flush(); f.err == nil {
		f.err = f.rc.Flush()
	}
}

// beat flushes and keeps alive until ctx ends. It calls lost when the client is gone.
func (f *feed) beat(ctx context.Context, lost func()) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			f.mu.Lock()
			if now.Sub(last) >= beatEvery && f.err == nil {
				last, f.dirty = now, true
				if f.events {
					_, f.err = io.WriteString(f.w, ":\n\n")
				} else {
					f.err = f.w.WriteByte('\n')
				}
			}
			f.flush()
			err := f.err
			f.mu.Unlock()
			if err != nil {
				lost()
				return
			}
		}
	}
}

// errStopping ends streams when the master stops.
var errStopping = errors.New("the master is stopping; ask again when it is back")

// enter takes one of the places for streams, which the stream gives back at its end.
func (s *Server) enter() error {
	select {
	case s.streams <- struct{}{}:
		return nil
	default:
		return problem(http.StatusServiceUnavailable, "The master serves %d streams already. End some, or ask without following.", maxStreams)
	}
}

func (s *Server) leave() { <-s.streams }

// stream answers with what run sends. The run ends when the client is gone or the server stops.
func (s *Server) stream(run func(ctx context.Context, out *feed) error) (*huma.StreamResponse, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer s.leave()
		r, w := humago.Unwrap(hc)
		rc := http.NewResponseController(w)
		f := &feed{w: bufio.NewWriterSize(&slowWriter{w: w, rc: rc}, 32<<10), rc: rc, events: wantsEvents(r), dirty: true}
		w.Header().Set("Content-Type", "application/x-ndjson")
		if f.events {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		ctx, cancel := context.WithCancelCause(r.Context())
		var wg sync.WaitGroup
		wg.Go(func() { f.beat(ctx, func() { cancel(io.ErrClosedPipe) }) })
		wg.Go(func() {
			select {
			case <-s.quit:
				cancel(errStopping)
			case <-ctx.Done():
			}
		})
		err := run(ctx, f)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		wg.Wait()
		f.end(err)
	}}, nil
}

// watch follows a request: an object at once, one whenever it changes, and a last one when it is done.
func (s *Server) watch(ctx context.Context, in *RequestPath) (*huma.StreamResponse, error) {
	first, err := s.request(ctx, in.id())
	if err != nil {
		return nil, err
	}
	return s.stream(func(ctx context.Context, out *feed) error {
		wait, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			_, _ = s.o.Engine.Wait(wait, in.id())
			close(ended)
		})
		t := time.NewTicker(watchEvery)
		defer t.Stop()
		shown := first
		for n := int64(0); ; {
			if n == 0 || changed(shown, first) {
				if err := out.send(n, first); err != nil {
					return err
				}
				shown = first
				n++
			}
			if first.State == model.RequestDone {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-ended: // look at once; an error of Wait is no news, since the records say what is true
				ended = nil
			case <-t.C:
			}
			if first, err = s.request(ctx, in.id()); err != nil {
				return err
			}
		}
	})
}

// changed says whether there is something to tell: everything but the time that goes by.
func changed(a, b Request) bool {
	return a.Phase != b.Phase || a.Build != b.Build || a.OnWorker != b.OnWorker || a.Step != b.Step || a.StepNumber != b.StepNumber || a.Attempts != b.Attempts || a.Text != b.Text
}
