package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rouse-ci/rouse/master/api"
)

// TestApply runs testdata/apply/*.txtar. Each script starts masters of its own, as processes, with the fake provider: `up` waits until one answers, `hup`
// sends it a SIGHUP, `until TEXT COMMAND…` until the output of a command holds a text.
func TestApply(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "apply"),
		UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "rouse") // a socket's path has little room
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(dir) })
			e.Setenv("ROUSE_STATE", dir)
			e.Setenv("TZ", "UTC")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"up": func(ts *testscript.TestScript, _ bool, _ []string) { answers(ts, "") },
			"status": func(ts *testscript.TestScript, _ bool, args []string) { // until the state of applies holds a text
				answers(ts, strings.Join(args, " "))
			},
			"damage": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Replace(text, `"count"`, `"COUNT"`, 1)[:len(text)-2]+"}}"), 0o600))
			},
			"cut": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text[:len(text)/2]), 0o600))
			},
			"hup": func(ts *testscript.TestScript, _ bool, _ []string) {
				pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(filepath.Join(ts.Getenv("ROUSE_STATE"), "lock"))))
				ts.Check(err)
				ts.Check(syscall.Kill(pid, syscall.SIGHUP))
			},
			"until": func(ts *testscript.TestScript, neg bool, args []string) {
				deadline := time.Now().Add(30 * time.Second)
				for {
					err := ts.Exec(args[1], args[2:]...)
					if out := ts.ReadFile("stdout") + ts.ReadFile("stderr"); strings.Contains(out, args[0]) != neg {
						return
					} else if time.Now().After(deadline) {
						ts.Fatalf("not in time: %s: %v\n%s", args[0], err, out)
					}
					time.Sleep(50 * time.Millisecond)
				}
			},
		},
	})
}

// answers waits until the script's master answers, and what it says of applies holds a text.
func answers(ts *testscript.TestScript, want string) {
	c, err := api.NewClient(filepath.Join(ts.Getenv("ROUSE_STATE"), api.SocketName), "", nil)
	ts.Check(err)
	defer c.Close()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var st json.RawMessage
		err := c.Get(ctx, "/apply", nil, &st)
		cancel()
		if err == nil && strings.Contains(string(st), want) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the master does not say %q: %s, %v", want, st, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
