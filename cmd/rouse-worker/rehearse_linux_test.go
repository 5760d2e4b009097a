package main

import (
	"context"
	"net"
	"os"
	"testing"

	"github.com/rouse-ci/rouse/worker"
)

func TestAnAgentRehearsesToItsAdmission(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing is lost
	go func() {
		if c, err := l.Accept(); err == nil {
			admitNobody(t.Context(), c)
		}
	}()
	a, err := worker.New(worker.Config{Master: "ws://" + l.Addr().String(), Name: "x", Secret: "x", Instance: "x", Basedir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := a.Run(ctx); err != nil || ctx.Err() != nil { // the master's word is the only end without an error or a cancel
		t.Error(err)
	}
}

func TestARehearsalLeavesNothing(t *testing.T) { //nolint:paralleltest // sets a variable of the process
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	attachToNobody()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
