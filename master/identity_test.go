package master

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/hcl"
)

func TestSlowSecretHoldsNobodyElseUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, begun := filepath.Join(dir, "quick"), filepath.Join(dir, "begun")
	if err := os.WriteFile(file, []byte("open-sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newVault(slog.New(slog.DiscardHandler))
	slow := make(chan error, 1)
	go func() {
		_, err := c.recent(hcl.Secret{Name: "slow", Command: []string{"/bin/sh", "-c", "touch " + begun + "; while [ -e " + begun + " ]; do sleep 0.01; done; echo x"}})
		slow <- err
	}()
	for _, err := os.Stat(begun); err != nil; _, err = os.Stat(begun) {
		time.Sleep(time.Millisecond)
	}
	if v, err := c.recent(hcl.Secret{Name: "quick", File: file}); err != nil || string(v) != "open-sesame" {
		t.Errorf("%v", err)
	}
	select {
	case err := <-slow:
		t.Errorf("the slow one was waited for: %v", err)
	default:
	}
	if err := os.Remove(begun); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if v, err := c.recent(hcl.Secret{Name: "quick", File: file}); err != nil || string(v) != "open-sesame" {
		t.Errorf("it is not remembered: %v", err)
	}
}

func TestTokenKeyIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := tokenKey(dir, 0)
	if err != nil || len(a) != keySize {
		t.Fatal(a, err)
	}
	if b, err := tokenKey(dir, 0); err != nil || string(a) != string(b) {
		t.Error("another key the second time", err)
	}
	path := filepath.Join(dir, keyName)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
	if err := os.WriteFile(path, a[:7], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenKey(dir, 0); err == nil {
		t.Error("a damaged key was taken")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenKey(dir, 2); err == nil || !strings.Contains(err.Error(), path+" is missing, and 2 instances live") {
		t.Errorf("another key is made beside living instances: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a key was made")
	}
	if c, err := tokenKey(dir, 0); err != nil || string(c) == string(a) {
		t.Error(err)
	}
}
