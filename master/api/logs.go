package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// LogPath is exported since huma fills no other embedded structs.
type LogPath struct {
	ID   int64  `path:"id" minimum:"1" doc:"number of the build"`
	Step int    `path:"step" minimum:"0" maximum:"1000000" doc:"number of the step, from 0"`
	Name string `path:"name" maxLength:"200" doc:"name of the log, as in \"stdio\""`
}

func (p LogPath) String() string {
	return fmt.Sprintf("log %q of step %d of build %d", p.Name, p.Step, p.ID)
}

const logsPath = "/builds/{id}/steps/{step}/logs/{name}"

func (s *Server) registerLogs() {
	huma.Register(s.api, stream(op(http.MethodGet, logsPath, "readLog", "logs", "Read lines of a log: one JSON object per line", 404)), s.readLog)
	huma.Register(s.api, stream(op(http.MethodGet, logsPath+"/follow", "followLog", "logs",
		"Follow a log to its end: one JSON object per line, or server-sent events if that is accepted; an event's id is its line's number", 404)), s.followLog)
	raw := op(http.MethodGet, logsPath+"/raw", "readRawLog", "logs", "Read a log as it came", 404)
	raw.Responses = map[string]*huma.Response{"200": {Description: "The log's bytes", Content: map[string]*huma.MediaType{"text/plain": {}}}}
	huma.Register(s.api, raw, s.rawLog)
	s.registerConsole()
}

func (s *Server) openLog(ctx context.Context, p LogPath) (Log, error) {
	if _, err := s.o.Records.Build(ctx, BuildPath{p.ID}.id()); err != nil {
		return nil, s.failed(err, BuildPath{p.ID}.String())
	}
	l, err := s.o.Logs.OpenLog(BuildPath{p.ID}.id(), p.Step, p.Name)
	if err != nil {
		return nil, s.failed(err, p.String())
	}
	return l, nil
}

func (s *Server) readLog(ctx context.Context, in *struct {
	LogPath
	From  int64 `query:"from" doc:"first line; negative: counted from the end"`
	Lines int   `query:"lines" minimum:"1" maximum:"100000" default:"1000"`
}) (*huma.StreamResponse, error) {
	l, err := s.openLog(ctx, in.LogPath)
	if err != nil {
		return nil, err
	}
	return s.streamLog(l, func(ctx context.Context, out *feed) error {
		return l.Lines(ctx, in.From, in.Lines, func(line Line) error { return out.send(line.N, line) })
	})
}

func (s *Server) followLog(ctx context.Context, in *struct {
	LogPath
	From   int64  `query:"from" doc:"first line; negative: counted from the end"`
	Last   string `header:"Last-Event-ID" maxLength:"20" doc:"goes on after this line; overrides from"`
	Accept string `header:"Accept" maxLength:"1000"`
}) (*huma.StreamResponse, error) {
	from := in.From
	if in.Last != "" {
		n, err := strconv.ParseInt(in.Last, 10, 64)
		if err != nil || n < 0 {
			return nil, problem(http.StatusBadRequest, "Last-Event-ID is the number of a line, not %q.", in.Last)
		}
		from = n + 1
	}
	l, err := s.openLog(ctx, in.LogPath)
	if err != nil {
		return nil, err
	}
	return s.streamLog(l, func(ctx context.Context, out *feed) error {
		return l.Follow(ctx, from, func(line Line) error { return out.send(line.N, line) })
	})
}

func (s *Server) rawLog(ctx context.Context, in *struct {
	LogPath
	Stream string `query:"stream" enum:"stdout,stderr,header" doc:"only what this stream printed"`
}) (*huma.StreamResponse, error) {
	l, err := s.openLog(ctx, in.LogPath)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer closeLog(l)
		r, w := humago.Unwrap(hc)
		// Output of builds is hostile: no browser shall take it for a page.
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
		if err := l.WriteText(r.Context(), &slowWriter{w: w, rc: http.NewResponseController(w)}, in.Stream); err != nil {
			s.o.Log.Debug("reading a log ended", "log", in.String(), "err", err)
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		}
	}}, nil
}

// streamLog is stream, and closes the log in the end.
func (s *Server) streamLog(l Log, run func(ctx context.Context, out *feed) error) (*huma.StreamResponse, error) {
	resp, err := s.stream(func(ctx context.Context, out *feed) error {
		defer closeLog(l)
		return run(ctx, out)
	})
	if err != nil {
		closeLog(l)
	}
	return resp, err
}

func closeLog(l io.Closer) { _ = l.Close() }

func wantsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}
