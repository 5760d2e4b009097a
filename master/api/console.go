package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rouse-ci/rouse/master/model"
)

// Consoles are the engine's, if it has any.
type Consoles interface {
	ReadConsole(ctx context.Context, key model.InstanceKey, follow bool, w io.Writer) error
}

func (s *Server) registerConsole() {
	o := op(http.MethodGet, "/instances/{key}/console", "readConsole", "instances", "Read what a living instance has printed; its token is masked", 404)
	o.Responses = map[string]*huma.Response{"200": {Description: "The console's bytes, as far as its provider keeps them", Content: map[string]*huma.MediaType{"text/plain": {}}}}
	huma.Register(s.api, o, s.readConsole)
}

func (s *Server) readConsole(ctx context.Context, in *struct {
	Key    string `path:"key" maxLength:"120"`
	Follow bool   `query:"follow" doc:"go on until the instance ends"`
}) (*huma.StreamResponse, error) {
	c, ok := s.o.Engine.(Consoles)
	if !ok {
		return nil, problem(http.StatusNotImplemented, "This master shows no consoles.")
	}
	leave := func() {}
	if in.Follow {
		if err := s.enter(); err != nil {
			return nil, err
		}
		leave = s.leave
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer leave()
		r, w := humago.Unwrap(hc)
		out := &lateWriter{w: w, rc: http.NewResponseController(w)}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		go func() {
			select {
			case <-s.quit: // a quiet console would hold up the stop
				cancel(errStopping)
			case <-ctx.Done():
			}
		}()
		err := c.ReadConsole(ctx, model.InstanceKey(in.Key), in.Follow, out)
		if err != nil && errors.Is(context.Cause(ctx), errStopping) {
			err = problem(http.StatusServiceUnavailable, "The master is stopping; ask again when it is back.")
		}
		switch {
		case err != nil && !out.begun: // nothing was sent yet, so it can still be said
			err = s.failed(err, "instance "+in.Key)
			_ = huma.WriteErr(s.api, hc, statusOf(err), err.Error())
		case err != nil && r.Context().Err() == nil:
			s.o.Log.Debug("reading a console ended", "instance", in.Key, "err", err)
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		case err == nil:
			out.begin() // nothing was printed, and that is an answer, too
		}
	}}, nil
}

func statusOf(err error) int {
	var e huma.StatusError
	if errors.As(err, &e) {
		return e.GetStatus()
	}
	return http.StatusInternalServerError
}

// lateWriter sends its headers with the first bytes, and each piece at once: somebody is watching.
type lateWriter struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	begun bool
}

func (l *lateWriter) begin() {
	if l.begun {
		return
	}
	l.begun = true
	// What a machine prints is hostile: no browser shall take it for a page.
	l.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	l.w.Header().Set("X-Content-Type-Options", "nosniff")
	l.w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
}

func (l *lateWriter) Write(p []byte) (int, error) {
	l.begin()
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeLimit))
	n, err := l.w.Write(p)
	if err == nil {
		_ = l.rc.Flush()
	}
	return n, err
}
