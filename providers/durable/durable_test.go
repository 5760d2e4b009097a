package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("DURABLE_TEST_HOLD"); dir != "" { // this is the other process of a test
		hold(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// hold takes a lock, says so, and keeps it until it is killed.
func hold(dir string) {
	if _, err := Lock(context.Background(), dir); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("held")
	time.Sleep(time.Hour)
}

func TestWhatIsWrittenIsReadByItsOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, text := range []string{"first", "a longer second", "3", ""} {
		if err := Write(dir, "file", []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := Read(filepath.Join(dir, "file"))
		if err != nil || string(got) != text {
			t.Fatalf("read %q, %v; wrote %q", got, err, text)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "file")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("more than the file is left: %v", names)
	}
}

func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for size, fine := range map[int]bool{0: true, 1: true, MaxFile: true, MaxFile + 1: false, 10 * MaxFile: false} {
		if err := Replace(dir, "file", bytes.Repeat([]byte("x"), size), false); err != nil {
			t.Fatal(err)
		}
		got, err := Read(filepath.Join(dir, "file"))
		if (err == nil) != fine || fine && len(got) != size {
			t.Errorf("a file of %d bytes: %d bytes, %v", size, len(got), err)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestAReaderSeesWholeFilesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	texts := [][]byte{bytes.Repeat([]byte("a"), 20_000), bytes.Repeat([]byte("b"), 40_000)}
	if err := Replace(dir, "file", texts[0], false); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	go func() {
		var err error
		for n := range 300 {
			err = errors.Join(err, Replace(dir, "file", texts[n%2], false))
		}
		wrote <- err
	}()
	for {
		got, err := Read(filepath.Join(dir, "file"))
		if err != nil || !bytes.Equal(got, texts[0]) && !bytes.Equal(got, texts[1]) {
			t.Errorf("read %d bytes of something else: %v", len(got), err)
		}
		select {
		case err := <-wrote:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

func TestAWriteThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "file", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, "file", []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("a half-made file is left: %v", names)
	}
	if err := Write(filepath.Join(dir, "none"), "file", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestOneAtATimeHoldsALock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if Locked(dir) {
		t.Fatal("locked by nobody")
	}
	unlock, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if !Locked(dir) {
		t.Error("not locked")
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Lock(short, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that somebody holds: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		again, err := Lock(t.Context(), dir)
		if err == nil {
			again()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatal("two hold one lock:", err)
	case <-time.After(20 * time.Millisecond):
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if Locked(dir) {
		t.Error("still locked")
	}
}

func TestALockOfNothingSaysSo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := Lock(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if Locked(dir) {
		t.Error("what is not there is locked")
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
