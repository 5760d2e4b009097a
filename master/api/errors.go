package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/store"
)

// problem is an error for the client, with what it should do.
func problem(status int, format string, args ...any) error {
	return huma.NewError(status, fmt.Sprintf(format, args...))
}

// reportLocation marks the part of a problem that holds the mistakes of a configuration, which its text shows, too.
const reportLocation = "configuration"

// failed turns an error of the engine or the store into a problem. what names the thing that was asked for.
func (s *Server) failed(err error, what string) error {
	var known huma.StatusError
	var refused *Refused
	switch {
	case errors.As(err, &refused) && refused.Report != nil:
		return huma.NewError(refused.Status, refused.Text, &huma.ErrorDetail{Location: reportLocation, Message: "the configuration has mistakes", Value: refused.Report})
	case errors.As(err, &refused):
		return problem(refused.Status, "%s", refused.Text)
	case errors.As(err, &known):
		return err
	case errors.Is(err, store.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return problem(http.StatusNotFound, "There is no %s.", what)
	case errors.Is(err, store.ErrNoSpace):
		return problem(http.StatusInsufficientStorage, "The disk of the master's state directory is full; nothing was changed. Make space and try again.")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return problem(http.StatusServiceUnavailable, "The master did not answer in time about %s; it may have been done. Look before you repeat it.", what)
	}
	if s.o.Ready != nil {
		if trouble := s.o.Ready(); trouble != nil {
			return problem(http.StatusServiceUnavailable, "The master cannot do that now about %s: %s. Try again later.", what, trouble)
		}
	}
	s.o.Log.Error("api call failed", "what", what, "err", err)
	return problem(http.StatusInternalServerError, "%s: %s", what, err)
}

// maxEcho is how much of a value that was refused is said back, in bytes of JSON.
const maxEcho = 200

// briefly leaves out of a problem the values that were refused, where they are long: they may be whole requests.
func briefly(_ huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*huma.ErrorModel); ok {
		for _, d := range p.Errors {
			if b, err := json.Marshal(d.Value); d.Location != reportLocation && (err != nil || len(b) > maxEcho) {
				d.Value = nil
			}
		}
	}
	return v, nil
}

// writeProblem answers with a problem outside of huma's operations.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(&huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, http.StatusNotFound, fmt.Sprintf("Nothing is at %s %s. See /openapi.json for what there is.", r.Method, r.URL.Path))
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if check != nil {
			if err := check(); err != nil {
				writeProblem(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	}
}

func withLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callLimit)
}
