package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rouse": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }})
}

// TestScript runs testdata/script/*.txtar against a fake master whose past is fixed, so that every output is golden.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "rouse") // the script's directory may have too long a path for a socket
			if err != nil {
				return err
			}
			l, err := api.ListenLocal(filepath.Join(dir, api.SocketName))
			if err != nil {
				return err
			}
			w := apitest.New()
			for _, name := range []string{"fails"} {
				if filepath.Base(e.WorkDir) == "script-"+name {
					w.Result = model.Failure
				}
			}
			switch filepath.Base(e.WorkDir) {
			case "script-reap":
				w.AddStrays()
			case "script-reap_blind":
				w.Live.Providers[0].LastListErr = "connection refused"
				w.Live.Providers = append(w.Live.Providers, core.ProviderView{Name: "lab"})
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- w.Server(nil).Serve(ctx, l) }()
			e.Defer(func() {
				cancel()
				if err := <-ended; err != nil {
					panic(fmt.Sprintf("fake master: %v", err))
				}
				_ = os.RemoveAll(dir)
			})
			e.Setenv("ROUSE_STATE", dir)
			e.Setenv("TZ", "UTC")
			e.Setenv("USER", "tester")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}
