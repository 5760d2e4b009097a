package plan

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A plan file is one line of text, which says what follows, and then JSON:
//
//	rouse plan 1 sha256:HEX BYTES
//
// The checksum finds accidents and edits by hand, not forgers: whoever can write the file can write the line. That is why a saved plan is never carried
// out as it stands: it is made again from the files in it, and must say the same of what is (Stale).

// MaxFile bounds a plan file, in bytes.
const MaxFile = 128 << 20

const magic = "rouse plan "

// maxHeader is longer than any first line.
const maxHeader = 200

// File is a saved plan with what it was made from.
type File struct {
	Plan      *Plan             `json:"plan"`
	Files     map[string][]byte `json:"files"`               // of hcl.Config
	Variables map[string]string `json:"variables,omitempty"` // given values of those that are not sensitive
	Sensitive []string          `json:"sensitive_variables,omitempty"`
	Dir       string            `json:"dir,omitempty"` // where the files were read
}

// What is wrong with a plan file. The errors of Read wrap one of these and say what to do.
var (
	ErrNoPlan    = errors.New("this is no plan file")
	ErrTruncated = errors.New("this plan file is cut short")
	ErrEdited    = errors.New("this plan file was changed after it was written")
	ErrVersion   = errors.New("this plan file is of another version of rouse")
	ErrTooLarge  = errors.New("this plan file is too large")
)

// Write writes a plan file.
func (f *File) Write(w io.Writer) error {
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	if len(body) > MaxFile {
		return fmt.Errorf("%w: it would have %d bytes, and %d is the limit", ErrTooLarge, len(body), MaxFile)
	}
	sum := sha256.Sum256(body)
	if _, err := fmt.Fprintf(w, "%s%d sha256:%s %d\n", magic, FormatVersion, hex.EncodeToString(sum[:]), len(body)); err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// again is what to do about most of what can be wrong.
const again = "Make it again with `rouse plan -out FILE`."

// Read reads a plan file. What it returns is whole, and as Write has written it.
func Read(r io.Reader) (*File, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	header, err := firstLine(br)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(header)
	version, err := strconv.Atoi(words[0])
	if err != nil {
		return nil, fmt.Errorf("%w. %s", ErrNoPlan, again)
	}
	if version != FormatVersion {
		return nil, fmt.Errorf("%w: it has format %d, and this one reads %d. %s", ErrVersion, version, FormatVersion, again)
	}
	if len(words) != 3 || !strings.HasPrefix(words[1], "sha256:") {
		return nil, fmt.Errorf("%w: its first line is not as it was written. %s", ErrEdited, again)
	}
	size, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil || size < 2 {
		return nil, fmt.Errorf("%w: its first line is not as it was written. %s", ErrEdited, again)
	}
	if size > MaxFile {
		return nil, fmt.Errorf("%w: it has %d bytes, and %d is the limit", ErrTooLarge, size, int64(MaxFile))
	}
	var buf bytes.Buffer // grows with what is there, not with what the first line claims
	if _, err := io.Copy(&buf, io.LimitReader(br, size+1)); err != nil {
		return nil, fmt.Errorf("read the plan file: %w", err)
	}
	switch n := int64(buf.Len()); {
	case n < size:
		return nil, fmt.Errorf("%w: it has %d of %d bytes. %s", ErrTruncated, n, size, again)
	case n > size:
		return nil, fmt.Errorf("%w: something was added to it. %s", ErrEdited, again)
	}
	sum := sha256.Sum256(buf.Bytes())
	if "sha256:"+hex.EncodeToString(sum[:]) != words[1] {
		return nil, fmt.Errorf("%w: its checksum is not that of its content. %s", ErrEdited, again)
	}
	f := &File{}
	if err := json.Unmarshal(buf.Bytes(), f); err != nil {
		return nil, fmt.Errorf("%w: %w. %s", ErrEdited, err, again)
	}
	if f.Plan == nil || f.Plan.FormatVersion != FormatVersion || len(f.Files) == 0 {
		return nil, fmt.Errorf("%w: it holds no plan. %s", ErrEdited, again)
	}
	return f, nil
}

// firstLine returns what follows the magic word; there is at least one word of it.
func firstLine(br *bufio.Reader) (string, error) {
	start, err := br.Peek(len(magic))
	if string(start) != magic {
		switch {
		case err == nil || !errors.Is(err, io.EOF):
		case len(start) == 0:
			return "", fmt.Errorf("%w: it is empty. %s", ErrTruncated, again)
		case strings.HasPrefix(magic, string(start)):
			return "", fmt.Errorf("%w. %s", ErrTruncated, again)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the plan file: %w", err)
		}
		return "", fmt.Errorf("%w. %s", ErrNoPlan, again)
	}
	line, err := io.ReadAll(io.LimitReader(&untilNewline{r: br}, maxHeader))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the plan file: %w", err)
	case len(line) == maxHeader:
		return "", fmt.Errorf("%w: its first line is too long. %s", ErrNoPlan, again)
	case !bytes.HasSuffix(line, []byte("\n")):
		return "", fmt.Errorf("%w: it ends in its first line. %s", ErrTruncated, again)
	}
	rest := strings.TrimPrefix(string(line), magic)
	if len(strings.Fields(rest)) == 0 {
		return "", fmt.Errorf("%w. %s", ErrNoPlan, again)
	}
	return rest, nil
}

// untilNewline reads up to the first newline, and not one byte more.
type untilNewline struct {
	r    *bufio.Reader
	done bool
}

func (u *untilNewline) Read(p []byte) (int, error) {
	if u.done || len(p) == 0 {
		return 0, io.EOF
	}
	b, err := u.r.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	u.done = b == '\n'
	return 1, nil
}
