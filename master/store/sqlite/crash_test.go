package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// numbered is a transaction of several rows, all of which say n.
func numbered(n int) store.Tx {
	now := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)
	d := core.Delta{Requests: []core.Request{{ID: model.RequestID(n)}}, NextBuild: model.BuildID(n) + 1, NextOp: 1}
	for i := range 5 {
		d.Journal = append(d.Journal, core.Entry{Kind: "request", Request: model.RequestID(n), Cause: strconv.Itoa(i)})
	}
	d.Builds = []core.Build{{ID: model.BuildID(n), Requests: []model.RequestID{model.RequestID(n)}, Builder: "b", Worker: "w"}}
	return store.Tx{Time: now, Requests: []model.Request{{ID: model.RequestID(n), Builder: "b", SubmittedAt: now}}, Deltas: []core.Delta{d}}
}

// committer commits for ever and says each number once it is durable.
func committer(dir string) {
	s, err := Open(context.Background(), dir, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	last, err := s.MaxRequest(context.Background())
	for n := int(last) + 1; err == nil; n++ {
		if err = s.Commit(context.Background(), numbered(n)); err == nil {
			fmt.Println(n)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestEveryAcknowledgedCommitSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acknowledged := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "ROUSE_TEST_COMMITTER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, until := bufio.NewScanner(out), acknowledged+20+round*7
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Errorf("the child says %s", lines.Text())
				break
			}
			acknowledged = n
			if n == until {
				if err := cmd.Process.Kill(); err != nil { // and read on: what it had said by then counts too
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		check(t, dir, acknowledged)
	}
}

func check(t *testing.T, dir string, acknowledged int) {
	t.Helper()
	s := mustOpen(t, dir)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	saved, _, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := len(saved.Requests)
	if n < acknowledged || n > acknowledged+1 {
		t.Errorf("%d transactions were acknowledged, and %d are there", acknowledged, n)
	}
	rows, err := s.Journal(t.Context(), 0, 5*n+10)
	if err != nil {
		t.Fatal(err)
	}
	if len(saved.Builds) != n || len(rows) != 5*n || int(saved.NextBuild) != n+1 {
		t.Errorf("%d requests, %d builds, %d journal rows, next build %d: a transaction is there in part", n, len(saved.Builds), len(rows), saved.NextBuild)
	}
}

func TestASecondMasterIsRefusedAndToldWhoHoldsTheState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	_, err := Open(t.Context(), dir, Options{})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("the error is %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir)
}
