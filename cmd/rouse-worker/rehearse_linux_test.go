package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
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

// TestWhoIsToldToEndWhileItRehearsesEnds: it would wait for an order for ever, and whoever stops the machine for it.
func TestWhoIsToldToEndWhileItRehearsesEnds(t *testing.T) {
	t.Parallel()
	const rehearses = "ROUSE_TEST_REHEARSES"
	if os.Getenv(rehearses) != "" {
		for attachToNobody(); ; attachToNobody() {
			_, _ = os.Stdout.WriteString("again\n")
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhoIsToldToEndWhileItRehearsesEnds$")
	cmd.Env = append(os.Environ(), rehearses+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	if !said.Scan() {
		t.Fatal("it does not rehearse")
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	for n := 0; said.Scan(); n++ {
		if n == 100 {
			_ = cmd.Process.Kill()
			t.Error("it rehearses on")
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", err)
	}
}
