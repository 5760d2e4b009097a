package worker

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/worker/proto"
)

// TestSpoolGivesBackWhatWasPut compares a spool with a plain byte slice over random sequences of what a command and a master do to it.
func TestSpoolGivesBackWhatWasPut(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("é漢x🎉 plain ", 20_000)
	full, onFile := 0, 0
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 2))
		s := spool{path: filepath.Join(t.TempDir(), "s"), maxMem: 100_000 << rng.IntN(3), maxFile: 200_000}
		var all []byte
		var streams []proto.Stream
		var scratch []byte
		for range 200 {
			switch rng.IntN(6) {
			default: // put
				p := []byte(text[:rng.IntN(1<<(8+rng.IntN(9)))])
				for len(p) > 0 && !utf8.Valid(p) {
					p = p[:len(p)-1]
				}
				stream := proto.Stream(1 + rng.IntN(2))
				err := s.put(stream, p, rng.IntN(4) == 0)
				if errors.Is(err, errFull) {
					full++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, p...)
				for range p {
					streams = append(streams, stream)
				}
			case 1: // get
				if s.from == s.to {
					continue
				}
				pos := s.from + rng.Int64N(s.to-s.from)
				stream, p, err := s.get(&scratch, pos, 4+rng.Int64N(70_000))
				if err != nil || len(p) == 0 || !bytes.Equal(p, all[pos:pos+int64(len(p))]) || stream != streams[pos] {
					t.Fatalf("seed %d: get %d: %d bytes of stream %d, error %v", seed, pos, len(p), stream, err)
				}
				if end := pos + int64(len(p)); end < s.to && streams[end-1] != stream || end < int64(len(all)) && !utf8.RuneStart(all[end]) {
					t.Fatalf("seed %d: get %d ends inside a rune or in another stream", seed, pos)
				}
			case 2:
				s.trim(s.from + rng.Int64N((s.to-s.from)/2+1))
			}
			if s.onFile > 0 {
				onFile++
			}
			if s.to != int64(len(all)) || s.mem > s.maxMem+extentSize || s.fileEnd > s.maxFile {
				t.Fatalf("seed %d: to %d of %d, memory %d, file %d", seed, s.to, len(all), s.mem, s.fileEnd)
			}
		}
		s.trim(s.to)
		if s.mem != 0 || s.onFile != 0 || len(s.extents) != 0 {
			t.Errorf("seed %d: an empty spool holds %d bytes, %d extents in the file", seed, s.mem, s.onFile)
		}
		s.close()
		if _, err := os.Stat(s.path); err == nil {
			t.Error("the file is still there")
		}
	}
	if onFile == 0 || full == 0 {
		t.Errorf("the file was used %d times, the spool was full %d times", onFile, full)
	}
}

func TestSpoolBoundsItsBookkeeping(t *testing.T) {
	t.Parallel()
	s := spool{path: filepath.Join(t.TempDir(), "s"), maxMem: 1 << 30, maxFile: 1 << 30}
	defer s.close()
	n := 0
	for ; n < 10*maxExtents; n++ {
		if err := s.put(proto.Stream(1+n%2), []byte{'x'}, false); err != nil {
			break
		}
	}
	if n > maxExtents+1 {
		t.Errorf("%d extents", n)
	}
}
