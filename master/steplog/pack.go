package steplog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rouse-ci/rouse/master/model"
)

// packer compresses closed logs, one after the other. Its queue holds names only; a log that is in it is complete and readable as it is.
type packer struct {
	dir *Dir
	ctx context.Context // done: stop at the next frame
	end context.CancelFunc
	run sync.WaitGroup

	mu      sync.Mutex
	cond    *sync.Cond
	queue   []ID
	busy    bool
	closing bool
}

func (k *packer) start(d *Dir) {
	k.dir = d
	k.cond = sync.NewCond(&k.mu)
	k.ctx, k.end = context.WithCancel(context.Background())
	k.busy = true // with what an earlier process left
	k.run.Go(k.loop)
}

func (k *packer) add(id ID, size int64) {
	if size < k.dir.opt.PackFrom {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closing {
		k.queue = append(k.queue, id)
		k.cond.Broadcast()
	}
}

func (k *packer) idle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for (k.busy || len(k.queue) > 0) && k.ctx.Err() == nil {
		k.cond.Wait()
	}
}

func (k *packer) stop(wait time.Duration) {
	k.mu.Lock()
	k.closing = true
	k.cond.Broadcast()
	k.mu.Unlock()
	t := time.AfterFunc(wait, k.end)
	k.run.Wait()
	t.Stop()
	k.end()
}

func (k *packer) loop() {
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.end()
		k.cond.Broadcast()
	}()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(frameSize), zstd.WithLowerEncoderMem(true))
	if err != nil { // only wrong options
		k.dir.log.Error("logs are not compressed", "error", err)
		return
	}
	k.leftovers(enc)
	for {
		k.mu.Lock()
		k.busy = false
		k.cond.Broadcast()
		for len(k.queue) == 0 && !k.closing {
			k.cond.Wait()
		}
		if len(k.queue) == 0 {
			k.mu.Unlock()
			return
		}
		id := k.queue[0]
		k.queue = k.queue[1:]
		k.busy = true
		k.mu.Unlock()
		k.try(enc, id)
	}
}

func (k *packer) try(enc *zstd.Encoder, id ID) {
	if k.ctx.Err() != nil {
		return
	}
	if err := k.one(enc, id); err != nil && k.ctx.Err() == nil {
		k.dir.log.Warn("a log could not be compressed, it stays as it is", "error", err)
	}
}

// leftovers finishes what an earlier process did not: closed logs that are not packed, and files that it was making.
func (k *packer) leftovers(enc *zstd.Encoder) {
	err := k.dir.walk(k.ctx, func(f file) error {
		if f.temp {
			return k.dir.root.Remove(f.path)
		}
		if f.ext == extLive && f.size >= k.dir.opt.PackFrom && k.dir.endMarked(f) {
			k.try(enc, f.id)
		}
		return nil
	})
	if err != nil && k.ctx.Err() == nil {
		k.dir.log.Warn("looking for logs to compress", "error", err)
	}
}

// endMarked tells whether the file ends with an end mark.
func (d *Dir) endMarked(f file) bool {
	h, err := d.root.Open(f.path)
	if err != nil {
		return false
	}
	defer func() { _ = h.Close() }()
	c := liveCursor{f: h, off: f.size - headLen}
	defer c.idle()
	_, r, err := c.next(f.size)
	return err == nil && r.stream == endStream
}

// one packs one log, if it is closed and not packed.
func (k *packer) one(enc *zstd.Encoder, id ID) (err error) {
	k.dir.mu.Lock()
	st, err := k.dir.state(id)
	k.dir.mu.Unlock()
	if err != nil {
		return err
	}
	defer k.dir.release(st)
	root := k.dir.root

	st.mu.Lock()
	src, packed, err := st.openForm()
	if errors.Is(err, fs.ErrNotExist) {
		st.mu.Unlock()
		return nil // removed
	}
	if err != nil {
		st.mu.Unlock()
		return err
	}
	defer func() { _ = src.Close() }()
	if packed { // a crash came before the growing form was removed
		err = ignoreMissing(root.Remove(st.base + extLive))
		st.mu.Unlock()
		return err
	}
	s, err := st.load(src)
	reopens, writer := st.reopens, st.writer
	st.mu.Unlock()
	if err != nil || writer || !s.ended {
		return err
	}

	temp := st.base + extPacked + extTemp
	dst, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temp)
		}
	}()
	err = pack(k.ctx, dst, &liveCursor{f: src, off: int64(len(liveMagic))}, s, enc)
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("steplog: compress %s/%s: %w", k.dir.path, st.base, err)
	}

	st.mu.Lock()
	defer st.mu.Unlock()
	if _, err := root.Stat(st.base + extLive); st.reopens != reopens || err != nil {
		_ = root.Remove(temp) // it was resumed or removed meanwhile
		return nil
	}
	if fi, serr := src.Stat(); serr == nil { // retention goes by when the step ended
		_ = root.Chtimes(temp, fi.ModTime(), fi.ModTime())
	}
	if err = root.Rename(temp, st.base+extPacked); err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	if err := root.Remove(st.base + extLive); err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pack writes the packed form of what the cursor reads, in constant memory but for the index.
func pack(ctx context.Context, w io.Writer, c *liveCursor, s scanned, enc *zstd.Encoder) error {
	defer c.idle()
	p := &packed{pos: s.pos, size: int64(len(liveMagic))}
	at := int64(len(packedMagic))
	if _, err := io.WriteString(w, packedMagic); err != nil {
		return err
	}
	sp := splitter{}
	text := make([]byte, 0, maxFrame) // records of the frame, the last one still growing
	var out []byte
	first := sp.entry(p.size)
	last, head := record{}, -1 // the growing record and where its head is in text
	endRecord := func() error {
		if head < 0 {
			return nil
		}
		data := text[head+headLen:]
		last.data = data
		appendHead(text[:head], last)
		err := sp.feed(p.size+int64(head), last.stream, data)
		head = -1
		return err
	}
	endFrame := func() error {
		if err := endRecord(); err != nil || len(text) == 0 {
			return err
		}
		out = enc.EncodeAll(text, out[:0])
		if _, err := w.Write(out); err != nil {
			return err
		}
		p.frames = append(p.frames, frame{at: at, stored: int64(len(out)), off: p.size, size: int64(len(text))})
		p.entries = append(p.entries, first)
		at += int64(len(out))
		p.size += int64(len(text))
		first = sp.entry(p.size)
		text = text[:0]
		return ctx.Err()
	}
	for {
		_, r, err := c.next(s.good)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if head >= 0 && (last.stream != r.stream || len(text)-head-headLen+len(r.data) > maxRecord) {
			if err := endRecord(); err != nil {
				return err
			}
			if len(text) >= frameSize {
				if err := endFrame(); err != nil {
					return err
				}
			}
		}
		if head < 0 {
			head = len(text)
			last.stream = r.stream
			text = appendHead(text, last)
		}
		last.end = r.end
		text = append(text, r.data...)
	}
	if err := endFrame(); err != nil {
		return err
	}
	_ = sp.flush() // only counts
	p.lines = sp.line
	index := p.appendIndex(nil)
	_, err := w.Write(append(index, appendTrailer(nil, at, index)...))
	return err
}

// unpack makes the growing form of a packed log again, so that it can go on. The caller holds st.mu.
func (st *state) unpack() (err error) {
	root := st.dir.root
	src, err := root.Open(st.base + extPacked)
	if err != nil {
		return ignoreMissing(err)
	}
	defer func() { _ = src.Close() }()
	temp := st.base + extLive + extTemp
	defer func() {
		if err != nil {
			_ = root.Remove(temp)
			err = fmt.Errorf("steplog: unpack %s/%s%s: %w", st.dir.path, st.base, extPacked, err)
		}
	}()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	p, err := openPacked(src, fi.Size(), st.dir.decoder)
	if err != nil {
		return err
	}
	dst, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(unpackTo(dst, p), dst.Sync(), dst.Close()); err != nil {
		return err
	}
	if err = root.Rename(temp, st.base+extLive); err != nil {
		return err
	}
	st.g = nil // a new file: readers of an older one keep theirs
	return root.Remove(st.base + extPacked)
}

func unpackTo(w io.Writer, p *packed) error {
	if _, err := io.WriteString(w, liveMagic); err != nil {
		return err
	}
	c := packedCursor{p: p, off: int64(len(liveMagic))}
	var b []byte
	for {
		off, r, err := c.next(p.size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("at offset %d: %w", off, err)
		}
		b = appendRecord(b[:0], r)
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	_, err := w.Write(appendRecord(b[:0], record{stream: endStream, end: p.pos}))
	return err
}

// file is one of the directory's.
type file struct {
	id   ID
	ext  string
	temp bool
	path string
	size int64
	mod  time.Time
}

// walk calls fn for each file of a log, build by build.
func (d *Dir) walk(ctx context.Context, fn func(file) error) error {
	builds, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	for _, b := range builds {
		n, err := strconv.ParseInt(b.Name(), 10, 64)
		if err != nil || !b.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.walkBuild(model.BuildID(n), fn); err != nil {
			return err
		}
	}
	return nil
}

// Last returns the greatest number of a build that has a directory here, or 0. Names that no build will reach are nobody's.
func (d *Dir) Last() (last model.BuildID, err error) {
	builds, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("steplog: %w", err)
	}
	for _, b := range builds {
		if n, err := strconv.ParseInt(b.Name(), 10, 48); err == nil && b.IsDir() {
			last = max(last, model.BuildID(n))
		}
	}
	return last, nil
}

func (d *Dir) walkBuild(build model.BuildID, fn func(file) error) error {
	dir := strconv.FormatInt(int64(build), 10)
	entries, err := fs.ReadDir(d.root.FS(), dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // removed meanwhile, or not ours
		}
		f := file{path: path.Join(dir, e.Name()), size: info.Size(), mod: info.ModTime()}
		name := e.Name()
		if strings.HasSuffix(name, extTemp) {
			f.temp, name = true, strings.TrimSuffix(name, extTemp)
		}
		var ok bool
		if f.id, f.ext, ok = parseFile(build, name); !ok {
			continue
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}
