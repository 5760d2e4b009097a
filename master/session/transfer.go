package session

import (
	"errors"
	"fmt"
	"io"

	"github.com/rouse-ci/rouse/worker/proto"
)

// transfer handles one message of size bytes of an upload or a download. done, if not nil, is to be called when the result has been sent.
func (s *session) transfer(m *proto.Message, size int) (result any, done func(), err error) {
	r := s.run(m.CommandID)
	if r == nil {
		return nil, nil, fmt.Errorf("no command %q is running", clip(m.CommandID, 80))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.counts(s):
		return nil, nil, fmt.Errorf("command %q has ended", clip(m.CommandID, 80))
	case r.err != nil:
		return nil, nil, r.err
	}
	switch m.Op {
	case proto.OpUploadFileWrite, proto.OpUploadDirectoryWrite:
		err = r.upload(m.Fields["args"])
	case proto.OpUploadFileUtime:
		r.keep("utime", []any{m.Fields["access_time"], m.Fields["modified_time"]}, size)
	case proto.OpReadFile:
		length, _ := m.Fields["length"].(int64)
		result, done, err = r.download(length)
	}
	var bad *protocolError
	if err != nil && !errors.As(err, &bad) {
		r.fail(err)
	}
	return result, done, err
}

// upload takes one block. run.mu is held.
func (r *run) upload(block any) error {
	var p []byte
	switch v := block.(type) {
	case []byte:
		p = v
	case string:
		p = []byte(v)
	default:
		return protocolErrorf("an uploaded block is a %T, want bytes", block)
	}
	if r.c.Upload == nil {
		return fmt.Errorf("command %s is not an upload", r.c.ID)
	}
	if r.uploaded += int64(len(p)); r.uploaded > r.c.MaxUpload {
		return fmt.Errorf("the upload is larger than the limit of %d bytes", r.c.MaxUpload)
	}
	_, err := r.c.Upload.Write(p)
	return err
}

// download gives the next block, which is empty at the end. run.mu is held.
func (r *run) download(length int64) (any, func(), error) {
	if length <= 0 {
		return nil, nil, protocolErrorf("a block of %d bytes was asked for", length)
	}
	if r.c.Download == nil {
		return nil, nil, fmt.Errorf("command %s is not a download", r.c.ID)
	}
	size := int(min(length, proto.MaxOutput)) // a short block is fine
	buf := buffers.Get().(*[]byte)
	if cap(*buf) < size {
		*buf = make([]byte, size)
	}
	n, err := io.ReadFull(r.c.Download, (*buf)[:size])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		buffers.Put(buf)
		return nil, nil, err
	}
	return (*buf)[:n:n], func() { buffers.Put(buf) }, nil
}
