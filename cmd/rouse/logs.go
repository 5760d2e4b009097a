package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

type logOptions struct {
	follow bool
	stream string
	from   int64
	lines  int
	log    string
}

func newLogsCmd(a *app) *cobra.Command {
	o := &logOptions{}
	c := &cobra.Command{
		Use:   "logs BUILD [STEP]",
		Short: "Print what a build's steps printed",
		Long: `Print the logs of a build: of all its steps, or of one, which is named by its name or number. When its instance failed the build, the last step, which
nobody configured, has what that has printed.

With -json each line is one object on a line of its own: the build, the step's number, the log's name, the line's number in it ("n", from 0), its stream ("s") and
its text ("t").`,
		Example: `  rouse logs 12
  rouse logs 12 test -f                # goes on until the step ends
  rouse logs 12 test -stream=stderr
  rouse logs 12 test -from=-50         # the last 50 lines`,
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.complete(buildNumbers, stepNames),
	}
	fl := c.Flags()
	fl.BoolVarP(&o.follow, "follow", "f", false, "go on as the logs grow, until the build (or step) ends")
	fl.StringVar(&o.stream, "stream", "", "only this `STREAM`: stdout, stderr or header")
	fl.Int64Var(&o.from, "from", 0, "begin with line `N`; negative: counted from the end")
	fl.IntVar(&o.lines, "lines", 0, "at most this `NUMBER` of lines of each log (default: all)")
	fl.StringVar(&o.log, "log", stdio, "`NAME` of the log")
	_ = c.RegisterFlagCompletionFunc("stream", cobra.FixedCompletions([]string{"stdout", "stderr", "header"}, cobra.ShellCompDirectiveNoFileComp))
	return a.clientCmd(c, func(ctx context.Context, s *session, given []string) error {
		if o.lines < 0 {
			return usagef("-lines %d: it is a number of lines; for the last ones say -from=%d", o.lines, o.lines)
		}
		if o.stream != "" && !slices.Contains([]string{"stdout", "stderr", "header"}, o.stream) {
			return usagef("-stream %q: it is stdout, stderr or header", o.stream)
		}
		_, id, err := number(given[:1], "build")
		if err != nil {
			return err
		}
		p := s.newLogPrinter(model.BuildID(id))
		p.stream = o.stream
		if len(given) == 2 {
			return s.stepLog(ctx, p, given[1], o)
		}
		p.titles = true
		return s.buildLogs(ctx, p, o)
	})
}

// stdio is the log that every command has, console what is kept of an instance that failed a build.
const (
	stdio   = "stdio"
	console = "console"
)

// pick is the log of a step that was asked for: if nobody said which, what there is of those two. "" if there is none.
func (o *logOptions) pick(st api.Step) string {
	switch {
	case slices.Contains(st.Logs, o.log):
		return o.log
	case o.log == stdio && slices.Contains(st.Logs, console):
		return console
	}
	return ""
}

// logPrinter prints lines of logs: their text, or with -json objects.
type logPrinter struct {
	s      *session
	w      *bufio.Writer
	stream string
	titles bool // name each step before its lines
	build  model.BuildID

	terminal bool // nothing but styles may drive it; a file or a pipe gets what the build has printed
}

func (s *session) newLogPrinter(build model.BuildID) *logPrinter {
	return &logPrinter{s: s, w: bufio.NewWriter(s.stdout), build: build, terminal: isTerminal(s.stdout)}
}

func (p *logPrinter) title(st api.Step) {
	if p.titles && !p.s.json {
		fmt.Fprintln(p.w, p.s.paint(p.s.stdout, "1", clean(fmt.Sprintf("=== step %d %s", st.Number, st.Name))))
	}
}

// logLine is a line of a log as -json prints it: n begins again with each log, so it says which one this is.
type logLine struct {
	Build model.BuildID `json:"build"`
	Step  int           `json:"step"`
	Log   string        `json:"log"`
	api.Line
}

func (p *logPrinter) line(l logLine) error {
	if p.stream != "" && l.Stream != p.stream {
		return nil
	}
	if p.s.json {
		return json.NewEncoder(p.w).Encode(l)
	}
	if p.terminal {
		l.Text = visible(l.Text, p.s.colour(p.s.stdout))
	}
	switch l.Stream {
	case "stderr":
		fmt.Fprintln(p.w, p.s.paint(p.s.stdout, "31", l.Text))
	case "header":
		fmt.Fprintln(p.w, p.s.paint(p.s.stdout, "90", l.Text))
	default:
		fmt.Fprintln(p.w, l.Text)
	}
	return nil
}

// style is a sequence that sets colours and the like (ECMA-48, 8.3.117): the only one that a log may send to a terminal.
var style = regexp.MustCompile("\x1b\\[[0-9;:]*m")

// visible is a line of a log without what would drive a terminal: a build may be made of a stranger's text.
func visible(line string, styles bool) string {
	var b strings.Builder
	if styles {
		for _, at := range style.FindAllString(line, -1) {
			before, after, _ := strings.Cut(line, at)
			b.WriteString(plain(before))
			b.WriteString(at)
			line = after
		}
	}
	b.WriteString(plain(line))
	return b.String()
}

// read prints one log of a step: what is there in pages, or with follow as it comes.
func (p *logPrinter) read(ctx context.Context, step int, log string, o *logOptions) error {
	defer p.w.Flush()
	const page = 10_000
	path := fmt.Sprintf("/builds/%d/steps/%d/logs/%s", p.build, step, url.PathEscape(log))
	c := &logCursor{p: p, step: step, log: log, next: o.from, left: o.lines}
	var since time.Time
	for {
		query := url.Values{"from": {strconv.FormatInt(c.next, 10)}}
		seen := c.seen
		var err error
		if o.follow {
			c.flush = true
			err = p.s.Stream(ctx, path+"/follow", query, c.line)
		} else {
			want := page
			if c.left > 0 {
				want = min(page, c.left-c.seen)
			}
			query.Set("lines", strconv.Itoa(want))
			err = p.s.Stream(ctx, path, query, c.line)
		}
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err == nil && (o.follow || c.seen-seen < page):
			return nil
		case err == nil:
			continue
		case !o.follow:
			return err
		}
		if c.seen > seen {
			since = time.Time{}
		}
		if err := p.s.away(ctx, err, &since); err != nil {
			return err
		}
	}
}

// logCursor is how far a log was printed.
type logCursor struct {
	p     *logPrinter
	step  int
	log   string
	next  int64 // number of the next line
	seen  int
	left  int // lines to print; 0: all
	flush bool
}

func (c *logCursor) line(b json.RawMessage) error {
	l := logLine{Build: c.p.build, Step: c.step, Log: c.log}
	if err := json.Unmarshal(b, &l.Line); err != nil {
		return err
	}
	if err := c.p.line(l); err != nil {
		return err
	}
	c.next = l.N + 1
	if c.seen++; c.seen == c.left {
		return errEnough
	}
	if c.flush {
		return c.p.w.Flush()
	}
	return nil
}

var errEnough = errors.New("enough lines")

// stepLog prints the log of one step. With -f it waits for the step to begin.
func (s *session) stepLog(ctx context.Context, p *logPrinter, step string, o *logOptions) error {
	id := p.build
	for {
		b, err := s.buildDetail(ctx, id, o.follow)
		if err != nil {
			return err
		}
		var names []string
		for _, st := range b.Steps {
			if st.Name == step || strconv.Itoa(st.Number) == step {
				if log := o.pick(st); log != "" {
					return p.read(ctx, st.Number, log, o)
				}
				if b.Phase == model.BuildDone || !o.follow {
					return fmt.Errorf("step %q of build %d has no log named %q; it has %s", st.Name, id, o.log, listed(st.Logs))
				}
			}
			names = append(names, st.Name)
		}
		if b.Phase == model.BuildDone || !o.follow {
			if _, err := strconv.Atoi(step); err == nil || !slices.Contains(names, step) {
				return fmt.Errorf("build %d has no step %q; it has %s", id, step, listed(names))
			}
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// buildLogs prints the logs of all steps in their order. With -f it goes on until the build ends.
func (s *session) buildLogs(ctx context.Context, p *logPrinter, o *logOptions) error {
	defer p.w.Flush()
	id := p.build
	found := false
	for next := 0; ; {
		b, err := s.buildDetail(ctx, id, o.follow)
		if err != nil {
			return err
		}
		for ; next < len(b.Steps); next++ {
			st := b.Steps[next]
			if o.follow && len(st.Logs) == 0 && st.FinishedAt.IsZero() && b.Phase != model.BuildDone {
				break // it has not printed anything yet
			}
			log := o.pick(st)
			if log == "" {
				continue
			}
			found = true
			p.title(st)
			if err := p.read(ctx, st.Number, log, o); err != nil {
				return err
			}
		}
		if !o.follow || b.Phase == model.BuildDone {
			if !found && o.log != stdio {
				var has []string
				for _, st := range b.Steps {
					for _, log := range st.Logs {
						if !slices.Contains(has, log) {
							has = append(has, log)
						}
					}
				}
				return fmt.Errorf("no step of build %d has a log named %q; they have %s", id, o.log, listed(has))
			}
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// buildDetail reads a build. With patient it outlasts a restart of the master.
func (s *session) buildDetail(ctx context.Context, id model.BuildID, patient bool) (b api.BuildDetail, err error) {
	var since time.Time
	for {
		err = s.Get(ctx, fmt.Sprintf("/builds/%d", id), nil, &b)
		if err == nil || !patient {
			return b, err
		}
		if err := s.away(ctx, err, &since); err != nil {
			return b, err
		}
	}
}

// pause waits before the master is asked again.
func pause(ctx context.Context) error {
	t := time.NewTimer(200 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return fmt.Sprintf("%q", names)
}

// follower prints the logs of one build after the other, beside whatever else its owner does.
type follower struct {
	s      *session
	build  model.BuildID
	cancel context.CancelFunc
	ended  chan error
}

// follow begins with a build, unless it is the one that is being followed.
func (f *follower) follow(ctx context.Context, build model.BuildID) {
	if f.build == build {
		return
	}
	_ = f.wait() // the earlier attempt has ended
	ctx, cancel := context.WithCancel(ctx)
	f.build, f.cancel, f.ended = build, cancel, make(chan error, 1)
	p := f.s.newLogPrinter(build)
	p.titles = true
	go func() { f.ended <- f.s.buildLogs(ctx, p, &logOptions{follow: true, log: stdio}) }()
}

func (f *follower) wait() error {
	if f.ended == nil {
		return nil
	}
	err := <-f.ended
	f.ended = nil
	return err
}

func (f *follower) stop() {
	if f.cancel != nil {
		f.cancel()
	}
	_ = f.wait()
}
