// Package steplog keeps what steps print: stdout, stderr and header kept apart and in order, in one file per log.
//
// It appends, repairs after a crash, follows, compresses, gives random access by line, masks secrets, and prunes. It knows nothing of
// builds beyond their numbers, of agents beyond their output positions, or of who reads. Nothing of it passes through the core.
//
// # Files
//
// DIR/<build>/<step>-<name>.log is the growing form, DIR/<build>/<step>-<name>.logz the packed one. The name is escaped as in URLs, so
// that names and files are one to one. When both exist, a crash came between making one and removing the other; then they are equal.
//
// # The growing form
//
// Eight bytes "rouselg1", then records, each with a head of 16 bytes, little endian:
//
//	crc    uint32  CRC-32C of the 12 bytes that follow and the payload
//	what   uint32  bits 0-3 stream (0 ends the log), 4-7 flags, 8-31 length of the payload, at most 64 KiB
//	end    int64   the agent's output position up to which everything is in the log once this record is
//
// Flag 1 (more): the record is the beginning of one Write whose rest follows; a Write that is not whole is cut off by Resume.
// Flag 2 (dropped): the log is full; the record has no payload, is overwritten in place, and only carries the position.
// A Write is in the file, by write(2), when it returns: it survives the death of the process. Close syncs: only then it survives a loss of
// power, which is enough since the agent keeps its output until the step's end is stored.
//
// # The packed form
//
// Eight bytes "rouselz1", then independent zstd frames of about 128 KiB of records (same heads, crc 0, since zstd has its own; neighbours of
// one stream joined), an index, and a trailer of 24 bytes: offset of the index (uint64), its length (uint32), its CRC-32C (uint32),
// "rouselix". See packed.go for the index.
//
// # What a line is
//
// A line belongs to one stream and is numbered, from 0, by where it ends: at its newline. Output of other streams does not cut it. But 64 KiB of
// output (of all streams) after a line's first byte it is broken off there: the piece is numbered as a line of its own and marked Part. So lines
// have a bounded length, a line without an end does not hide what was printed, and a line's number depends on nothing but the output
// before its end: never on how the bytes were cut into records, on whether the log is finished, or on its form. What is left when the log ends
// are its last lines, in the order of their first bytes. Raw reading (Records, WriteTo) knows no lines and changes nothing.
//
// # Locks
//
// Dir.mu guards the table of states and is held for no I/O but the removal of files; state.mu guards one log and is held while its
// form changes (open, repair, rename), never while bytes are appended, read, compressed or synced.
package steplog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rouse-ci/rouse/master/model"
)

var (
	// ErrBusy is returned for a log that has a writer, if the call would need another or would remove it.
	ErrBusy = errors.New("the log has a writer")
	// ErrClosed is returned by a Writer or Dir after Close.
	ErrClosed = errors.New("closed")
	// ErrCorrupt is wrapped by errors about files that are not as this package writes them. The message has the file and the offset.
	ErrCorrupt = errors.New("corrupt log")
)

// ID names one log.
type ID struct {
	Build model.BuildID
	Step  int
	Name  string
}

func (id ID) String() string {
	return fmt.Sprintf("%d/%d-%s", id.Build, id.Step, url.PathEscape(id.Name))
}

// base is the log's path in the directory, without extension.
func (id ID) base() (string, error) {
	name := url.QueryEscape(id.Name)
	if id.Build <= 0 || id.Step < 0 || id.Name == "" || len(name) > 200 {
		return "", fmt.Errorf("steplog: no log can be named %q of step %d of build %d", id.Name, id.Step, id.Build)
	}
	return fmt.Sprintf("%d/%d-%s", id.Build, id.Step, name), nil
}

// parseFile undoes base for one file of a build's directory; ext is extLive or extPacked.
func parseFile(build model.BuildID, file string) (id ID, ext string, ok bool) {
	dot := strings.LastIndexByte(file, '.')
	if dot < 0 {
		return ID{}, "", false
	}
	step, name, found := strings.Cut(file[:dot], "-")
	n, err := strconv.Atoi(step)
	text, err2 := url.QueryUnescape(name)
	ext = file[dot:]
	if !found || err != nil || err2 != nil || ext != extLive && ext != extPacked {
		return ID{}, "", false
	}
	return ID{Build: build, Step: n, Name: text}, ext, true
}

const (
	extLive   = ".log"
	extPacked = ".logz"
	extTemp   = ".tmp"
)

// Options may be left zero.
type Options struct {
	MaxSize  int64 // bytes of one log's file after which output is dropped, with a note in the log; 0 is 4 GiB, negative is no limit
	PackFrom int64 // logs of fewer bytes are not compressed; 0 is 16 KiB
	Log      *slog.Logger
}

// Dir is a directory of logs. One process at a time may write to it. Its methods may be called concurrently.
type Dir struct {
	path string
	root *os.Root
	opt  Options
	log  *slog.Logger

	mu     sync.Mutex
	states map[ID]*state
	closed bool

	decoder *zstd.Decoder
	pack    packer
}

// Open opens the directory and makes it if there is none. What an earlier process left uncompressed is compressed in the background.
func Open(dir string, o Options) (*Dir, error) {
	if o.MaxSize == 0 {
		o.MaxSize = 4 << 30
	}
	if o.PackFrom == 0 {
		o.PackFrom = 16 << 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("steplog: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("steplog: %w", err)
	}
	d := &Dir{path: dir, root: root, opt: o, log: o.Log, states: map[ID]*state{}}
	d.decoder, err = newDecoder()
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	d.pack.start(d)
	return d, nil
}

// closeWait bounds how long Close lets the compression go on; what it does not reach, the next Open does.
const closeWait = 5 * time.Second

// Close waits for the compression of finished logs, but not longer than five seconds. Writers must have been closed or abandoned before;
// readers stay usable.
func (d *Dir) Close() error {
	d.mu.Lock()
	was := d.closed
	d.closed = true
	d.mu.Unlock()
	if was {
		return nil
	}
	d.pack.stop(closeWait)
	return d.root.Close()
}

// Idle waits until no compression is pending.
func (d *Dir) Idle() { d.pack.idle() }

// acquire returns the shared state of a log; release gives it back.
func (d *Dir) acquire(id ID) (*state, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("steplog: %s: %w", d.path, ErrClosed)
	}
	return d.state(id)
}

// state is acquire for the packer too, which works while the directory closes. The caller holds mu.
func (d *Dir) state(id ID) (*state, error) {
	base, err := id.base()
	if err != nil {
		return nil, err
	}
	st := d.states[id]
	if st == nil {
		st = &state{dir: d, id: id, base: base}
		d.states[id] = st
	}
	st.refs++
	return st, nil
}

func (d *Dir) release(st *state) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if st.refs--; st.refs == 0 && d.states[st.id] == st {
		delete(d.states, st.id)
	}
}

// state is what all users of one log in this process share.
type state struct {
	dir  *Dir
	id   ID
	base string
	refs int // under dir.mu

	mu      sync.Mutex
	g       *growth // of the growing form's file; nil if nobody has looked yet
	writer  bool    // there is a Writer
	reopens int     // counts writers; a compression that began before one discards its work
}

// growth is how far one file of the growing form is. When a packed log is unpacked again that is a new file with a new growth.
type growth struct {
	index lineIndex

	mu   sync.Mutex
	size int64         // bytes that are whole; readers go no further
	done bool          // the log was closed: nothing will follow
	bad  error         // what is wrong at size, found when no writer had the log
	wake chan struct{} // closed at the next change; nil if nobody waits
}

// publish lets readers see the file up to size.
func (g *growth) publish(size int64, done bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.size, g.done, g.bad = size, done, nil
	if g.wake != nil {
		close(g.wake)
		g.wake = nil
	}
}

// view returns how far a reader may read, whether that is all there will ever be, and what is closed when either changes.
func (g *growth) view() (size int64, done bool, bad error, wake <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wake == nil {
		g.wake = make(chan struct{})
	}
	return g.size, g.done, g.bad, g.wake
}

// load finds out what is whole in the growing form. The caller holds mu.
func (st *state) load(f *os.File) (scanned, error) {
	s, err := scanFile(f)
	if err != nil {
		return s, st.errorf("read", err)
	}
	if st.g == nil {
		st.g = &growth{size: s.good, done: s.ended}
		if s.bad != nil {
			st.g.bad = st.errorf("read", s.bad)
		}
	}
	return s, nil
}

func (st *state) errorf(what string, err error) error {
	return fmt.Errorf("steplog: %s %s/%s%s: %w", what, st.dir.path, st.base, extLive, err)
}

// openForm opens a log's file, the packed form if there is one.
func (st *state) openForm() (f *os.File, packed bool, err error) {
	for range 3 { // the form may change between the two attempts
		if f, err = st.dir.root.Open(st.base + extPacked); err == nil {
			return f, true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if f, err = st.dir.root.Open(st.base + extLive); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("steplog: %w", err)
	}
	return f, false, nil
}
