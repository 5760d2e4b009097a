// Package run carries out the commands that a master gives: programs in process groups of their own, file transfers, and the small
// file-system commands of Buildbot's protocol (version 3.3 of them). It knows nothing of connections: output and results go to a Sink,
// blocks of files through a Master.
package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/worker/proto"
)

// Version is the version of every command, as Buildbot's masters compare it. 3.3 has failure_reason and max_lines.
const Version = "3.3"

// Sink receives what a command produces. Output is called from several goroutines at a time, Update from one.
type Sink interface {
	// Output takes valid UTF-8 that ends at a rune's end; p is valid only during the call. It may block: the command's pipes then
	// fill, and that time does not count as time without output.
	Output(s proto.Stream, p []byte)
	// Update takes a result that is not output: rc (int64), elapsed (float64, seconds), files, stat, failure_reason.
	Update(key string, value any)
}

// Master does one request of a transfer and returns the response's result. It fails when the connection is lost.
type Master interface {
	Call(ctx context.Context, op string, fields map[string]any) (any, error)
}

// Command is one command to run.
type Command struct {
	Name    string
	Args    map[string]any  // as decoded by package proto
	Basedir string          // absolute; relative paths in Args start here
	Env     []string        // NAME=value, set in every program's environment after everything else
	Master  Master          // for transfers
	Kill    <-chan struct{} // closed when the agent ends: programs get SIGKILL at once, without the ladder. May be nil
}

type job struct {
	Command
	sink  Sink
	start time.Time
}

type handler struct {
	do   func(*job, context.Context) error
	need []string // arguments that must be there
}

var handlers = map[string]handler{
	"shell":            {(*job).shell, []string{"workdir", "command"}},
	"upload_file":      {(*job).uploadFile, []string{"path"}},
	"upload_directory": {(*job).uploadDirectory, []string{"path"}},
	"download_file":    {(*job).downloadFile, []string{"path"}},
	"mkdir":            {(*job).mkdir, []string{"paths"}},
	"rmdir":            {(*job).rmdir, []string{"paths"}},
	"cpdir":            {(*job).cpdir, []string{"from_path", "to_path"}},
	"stat":             {(*job).stat, []string{"path"}},
	"glob":             {(*job).glob, []string{"path"}},
	"listdir":          {(*job).listdir, []string{"path"}},
	"rmfile":           {(*job).rmfile, []string{"path"}},
}

// aliases are Buildbot's older names: masters look for them in the worker's information even where they send the new ones.
var aliases = map[string]string{"uploadFile": "upload_file", "uploadDirectory": "upload_directory", "downloadFile": "download_file"}

func lookup(name string) (handler, bool) {
	if n, ok := aliases[name]; ok {
		name = n
	}
	h, ok := handlers[name]
	return h, ok
}

// Commands returns every command's name and version, for the worker's information.
func Commands() map[string]string {
	m := make(map[string]string, len(handlers)+len(aliases))
	for n := range handlers {
		m[n] = Version
	}
	for n := range aliases {
		m[n] = Version
	}
	return m
}

// Check says whether Run can begin: the command's name is known and its arguments are there.
func Check(c Command) error {
	h, ok := lookup(c.Name)
	if !ok {
		return fmt.Errorf("unrecognized WorkerCommand %q", c.Name)
	}
	var missing []string
	for _, n := range h.need {
		if c.Args[n] == nil {
			missing = append(missing, n)
		}
	}
	if missing != nil {
		return fmt.Errorf("command %s is missing args: %s", c.Name, strings.Join(missing, ", "))
	}
	return nil
}

// Run runs one command to its end and reports everything to sink. A cancelled ctx interrupts the command as its arguments say (a ladder of
// signals for programs; transfers end at the next block). The error means that the command could not be carried out; a program that
// fails is an rc, not an error.
func Run(ctx context.Context, c Command, sink Sink) (err error) {
	if err := Check(c); err != nil {
		return err
	}
	h, _ := lookup(c.Name)
	return h.do(&job{Command: c, sink: sink, start: time.Now()}, ctx)
}

func (j *job) header(format string, a ...any) { j.text(proto.Header, format, a...) }

func (j *job) text(s proto.Stream, format string, a ...any) {
	j.sink.Output(s, []byte(strings.ToValidUTF8(fmt.Sprintf(format, a...), "\uFFFD")))
}

func (j *job) rc(code int) { j.sink.Update("rc", int64(code)) }

func (j *job) elapsed() { j.sink.Update("elapsed", time.Since(j.start).Seconds()) }

// path makes an argument an absolute path: "~/" is the home directory, what is relative starts in the base directory.
func (j *job) path(p string) string {
	if rest, ok := strings.CutPrefix(p, "~"); ok && (rest == "" || rest[0] == '/') {
		if home, err := os.UserHomeDir(); err == nil {
			p = home + rest
		}
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(j.Basedir, p)
	}
	return p
}

// Arguments come from a peer that may be written in any language: text may be str or bin, numbers int or float, truth 0 or 1.

func (j *job) str(key string) (string, error) {
	s, ok := asText(j.Args[key])
	if !ok && j.Args[key] != nil {
		return "", fmt.Errorf("argument %s is a %T, want a string", key, j.Args[key])
	}
	return s, nil
}

func (j *job) pathArg(key string) (string, error) {
	s, err := j.str(key)
	if err == nil && (s == "" || strings.ContainsRune(s, 0)) {
		err = fmt.Errorf("argument %s: %q is not a path", key, s)
	}
	return j.path(s), err
}

func (j *job) pathsArg(key string) ([]string, error) {
	list, ok := j.Args[key].([]any)
	if !ok {
		list = []any{j.Args[key]}
	}
	out := make([]string, len(list))
	for i, e := range list {
		s, ok := asText(e)
		if !ok || s == "" || strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("argument %s[%d]: %v is not a path", key, i, e)
		}
		out[i] = j.path(s)
	}
	return out, nil
}

func (j *job) flag(key string, otherwise bool) (bool, error) {
	switch v := j.Args[key].(type) {
	case nil:
		return otherwise, nil
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	default:
		return false, fmt.Errorf("argument %s is a %T, want a boolean", key, v)
	}
}

// seconds gives 0 for an argument that is not there or nil.
func (j *job) seconds(key string) (time.Duration, error) {
	var s float64
	switch v := j.Args[key].(type) {
	case nil:
		return 0, nil
	case int64:
		s = float64(v)
	case float64:
		s = v
	default:
		return 0, fmt.Errorf("argument %s is a %T, want seconds", key, v)
	}
	const most = 10 * 365 * 24 * 3600
	if !(s >= 0 && s <= most) {
		return 0, fmt.Errorf("argument %s: %g is not a number of seconds from 0 to %d", key, s, most)
	}
	return max(time.Duration(s*float64(time.Second)), 1), nil
}

// count gives -1 for an argument that is not there or nil.
func (j *job) count(key string) (int64, error) {
	switch v := j.Args[key].(type) {
	case nil:
		return -1, nil
	case int64:
		if v >= 0 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("argument %s: %v is not a number from 0", key, j.Args[key])
}

func asText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	}
	return "", false
}
