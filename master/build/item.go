package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/worker/proto"
)

// done is what an ended item has yielded. It is saved, so it holds no secret.
type done struct {
	RC   int    `json:"rc"`
	Why  string `json:"why,omitempty"`  // the agent's failure reason
	Text string `json:"text,omitempty"` // the agent's own error, or the item's
	Out  string `json:"out,omitempty"`  // captured standard output
	Mode int64  `json:"mode,omitempty"` // of a stat
}

func (d done) ok() bool { return d.RC == 0 && d.Why == "" }

// cmd is one command as a step's program wants it.
type cmd struct {
	name      string
	args      map[string]any
	show      string // line for the log
	capture   bool   // keep standard output
	commit    bool   // that is the name of a commit, in which a short secret may be by chance
	again     bool   // doing it twice is harmless: after a restart it is done anew under another ID, because it cannot be taken over
	upload    io.Writer
	maxUpload int64
	download  io.Reader
}

// saveError marks an error of saving: the build cannot go on, and must not pretend to.
type saveError struct{ error }

func (e *saveError) Unwrap() error { return e.error }

// item runs one item of the step's program, unless it was done by an earlier master. What do returns is remembered; an error of do ends the
// step. do is told whether it may have been started before. It must count exactly two of the master's lines, with head and note; empty ones
// are not written.
func (s *step) item(again bool, do func(item int, resume bool) (done, error)) (done, error) {
	k := s.next
	s.next++
	if k < len(s.st.Done) {
		s.lines += 2
		return s.st.Done[k], nil
	}
	resume := s.resumed
	s.resumed = false
	switch {
	case resume && again:
		for try := 0; try <= s.st.Tries; try++ {
			s.Commands.Forget(s.job.Worker, s.commandID(k, try))
		}
		s.st.Tries++
		if err := s.save(); err != nil {
			return done{}, &saveError{err}
		}
	case k > 0 && !resume: // before the first one, the step's start was saved
		if err := s.save(); err != nil {
			return done{}, &saveError{err}
		}
	}
	d, err := do(k, resume && !again)
	if err != nil {
		return done{}, err
	}
	if err := s.log.Flush(); err != nil { // nobody asks again for the output of an item that is done
		return done{}, err
	}
	s.st.Done = append(s.st.Done, d)
	s.st.Tries, s.st.Out, s.st.OutEnd, s.st.Torn = 0, nil, 0, false
	return d, nil
}

// command runs one command as one item.
func (s *step) command(c cmd) (done, error) {
	return s.item(c.again, func(item int, resume bool) (done, error) {
		line := c.show
		if c.name == "shell" || c.name == "rmdir" {
			line = "" // the agent says what it runs, and where
		}
		if err := s.head(line); err != nil {
			return done{}, err
		}
		d, err := s.send(s.commandID(item, s.st.Tries), c, resume)
		if err != nil {
			return done{}, err
		}
		return d, s.note(ending(c.name, d))
	})
}

// ending is the last line of a command in the log.
func ending(name string, d done) string {
	switch {
	case name == "shell":
		return fmt.Sprintf("program finished with exit code %d", d.RC)
	case d.ok():
		return ""
	case d.Text != "":
		return fmt.Sprintf("%s failed: %s", name, d.Text)
	}
	return fmt.Sprintf("%s failed (%d)", name, d.RC)
}

// send runs one command on the worker. The outcome of a command that was interrupted is not looked at.
func (s *step) send(id string, c cmd, resume bool) (done, error) {
	if resume && s.st.Torn {
		return done{}, fmt.Errorf("%w: what it had printed could not be stored, since it might have been a secret", session.ErrLost)
	}
	if s.ctx.Err() != nil && !resume {
		return done{}, context.Cause(s.ctx)
	}
	command := session.Command{ID: id, Name: c.name, Args: c.args, Upload: c.upload, MaxUpload: c.maxUpload, Download: c.download,
		Output: s.output(c), Durable: s.durable()}
	s.ids = append(s.ids, id)
	fresh := true
	if resume {
		if at := s.log.Position(); at>>lineShift >= s.lines {
			command.Pos = at & posMask
			fresh = command.Pos == 0 && s.st.OutEnd == 0
			s.low = command.Pos
		}
		command.Resume = true
	}
	out, err := s.Commands.Run(s.ctx, s.job.Worker, command)
	if resume && fresh && errors.Is(err, session.ErrLost) && s.ctx.Err() == nil {
		// Nothing ever came of the command: the old master died before it was sent. The agent knows each ID once, so that it cannot run twice.
		command.Resume = false
		out, err = s.Commands.Run(s.ctx, s.job.Worker, command)
	}
	switch {
	case s.ctx.Err() != nil:
		return done{}, context.Cause(s.ctx)
	case err != nil:
		return done{}, err
	}
	d := done{RC: out.RC, Why: out.FailureReason, Text: s.clean(out.Text)}
	if c.capture {
		d.Out = s.captured(c, strings.ToValidUTF8(string(s.st.Out), replacement))
	}
	if d.RC == 0 && d.Text != "" {
		d.RC = -1 // the agent could not do it, and has no exit code to tell
	}
	if v := out.Updates["stat"]; len(v) > 0 {
		d.Mode = statMode(v[len(v)-1])
	}
	return d, nil
}

// Positions in a step's log. The agent counts the output bytes of each command from 0; the log wants positions that grow over all commands
// and tell which of the master's own lines are there. So a position is the number of the master's lines before it, and in the low bits the
// agent's position.
const (
	lineShift = 40 // 1 TiB of output per command
	posMask   = 1<<lineShift - 1
)

// head writes the line before a command, and note a line anywhere else. A line that an earlier master wrote is not repeated.
func (s *step) head(line string) error {
	s.low = 0
	return s.note(line)
}

func (s *step) note(line string) error {
	s.lines++
	end := s.lines<<lineShift | s.low
	if line == "" || s.log.Position()>>lineShift >= s.lines {
		return nil
	}
	s.hear()
	return s.log.Write(proto.Header, []byte(strings.ToValidUTF8(line, replacement)+"\n"), end)
}

// output returns the function that takes a command's output to the log. Bytes that the log already has are dropped.
func (s *step) output(c cmd) func(proto.Stream, []byte, int64) error {
	base := s.lines << lineShift
	return func(stream proto.Stream, p []byte, end int64) error {
		s.hear()
		if end > posMask || end < int64(len(p)) {
			return fmt.Errorf("the agent says that its output is at position %d", end)
		}
		if c.capture && stream == proto.Stdout {
			if err := s.capture(c, p, end); err != nil {
				return err
			}
		}
		have := s.log.Position() - base
		switch {
		case have >= end:
			return nil
		case have > end-int64(len(p)):
			p = p[have-(end-int64(len(p))):]
		}
		s.low = end
		return s.log.Write(stream, valid(p), base|end)
	}
}

// durable returns the function that says how much of a command's output is in the log: with secrets to mask, the log holds back what may
// begin one.
func (s *step) durable() func() int64 {
	base := s.lines << lineShift
	return func() int64 { return min(max(s.log.Position()-base, 0), posMask) }
}

// maxCapture bounds captured standard output.
const maxCapture = 64 << 10

// capture keeps standard output, and saves what it has before the log has it: after a restart the agent sends only what the log lacks.
func (s *step) capture(c cmd, p []byte, end int64) error {
	start := end - int64(len(p))
	if start < s.st.OutEnd {
		if end <= s.st.OutEnd {
			return nil
		}
		p = p[s.st.OutEnd-start:]
	}
	room := maxCapture + 1 - len(s.st.Out) // one more than allowed shows that it was too much
	if room <= 0 {
		return nil
	}
	out := []byte(s.captured(c, string(append(s.st.Out, p[:min(room, len(p))]...))))
	s.st.OutEnd = end
	whole := len(out)
	if begun := s.masker.Begins(out); begun >= hcl.Masked { // fewer bytes tell nothing, and most ends of lines might begin one of many secrets
		whole -= begun
	}
	s.st.Out, s.st.Torn = out[:whole], whole < len(out)
	err := s.save()
	s.st.Out = out
	if err != nil {
		return &saveError{err}
	}
	return nil
}

var partOfObjectName = regexp.MustCompile(`^[0-9a-f]{0,64}\r?\n?$`)

// captured is what is kept of captured output.
func (s *step) captured(c cmd, out string) string {
	if c.commit && partOfObjectName.MatchString(out) {
		return out
	}
	return s.mask(out)
}

const replacement = "\uFFFD"

// valid replaces what is not UTF-8. Agents send UTF-8, but a chunk may begin or end within a character, which is left alone.
func valid(p []byte) []byte {
	if utf8.Valid(p) {
		return p
	}
	a, z := 0, len(p)
	for a < z && a < utf8.UTFMax-1 && !utf8.RuneStart(p[a]) {
		a++
	}
	for i := z - 1; i >= a && i > z-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:z]) {
				z = i
			}
			break
		}
	}
	if utf8.Valid(p[a:z]) {
		return p
	}
	out := bytes.ToValidUTF8(p[a:z], []byte(replacement))
	return append(append(bytes.Clone(p[:a]), out...), p[z:]...)
}

// statMode is the file mode in the answer to a stat command: the first of the ten numbers of Python's os.stat; 0 if it is not there.
func statMode(v any) int64 {
	l, ok := v.([]any)
	if !ok || len(l) == 0 {
		return 0
	}
	switch m := l[0].(type) {
	case int64:
		return m
	case int:
		return int64(m)
	case uint64:
		return int64(m & 0xffffffff)
	case float64:
		return int64(m)
	}
	return 0
}
