package libvirt

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

func TestOnlyOldHalfWrittenRecordsAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if r, err := openRecords(dir, false); err != nil {
		t.Fatal(err)
	} else if err := r.save("k-1", record{Worker: "w", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	fresh, old := filepath.Join(dir, ".k-2.json-1"), filepath.Join(dir, ".k-3.json-1")
	for _, name := range []string{fresh, old} {
		if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * keepHalf)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	r, err := openRecords(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if rec, ok := r.load("k-1"); !ok || rec.Host != "h" || len(r.all) != 1 {
		t.Errorf("records: %+v", r.all)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("somebody's who may be writing it: %v", err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("an old one is left")
	}
}

func TestAPoolIsRememberedForAsLongAsTheEndIsAskedFor(t *testing.T) {
	t.Parallel()
	h := newFakeHost()
	p := opened(t, t.TempDir(), config(), h.dial)
	if _, err := p.Create(t.Context(), asked("me-w1-1", good())); err != nil {
		t.Fatal(err)
	}
	h.fail["DeleteVolume"] = &linkError{failed, "busy"}
	if err := p.Destroy(t.Context(), "me-w1-1"); err == nil {
		t.Fatal("its disk is there")
	}
	p.records.mu.Lock()
	rec := p.records.all["me-w1-1"]
	p.records.mu.Unlock()
	rec.EndedAt = rec.EndedAt.Add(-2 * keepEnded)
	if err := p.records.save("me-w1-1", rec); err != nil {
		t.Fatal(err)
	}
	h.down = &linkError{unreachable, "no"}
	h.cut()
	if err := p.Destroy(t.Context(), "me-w1-1"); err == nil || providers.ClassOf(err) == providers.NotFound {
		t.Fatalf("%v", err)
	}
	p.records.tidy()
	if rec, ok := p.records.load("me-w1-1"); !ok || rec.Pool != "default" || rec.Host != "host" {
		t.Errorf("%+v, %v", rec, ok)
	}
}
