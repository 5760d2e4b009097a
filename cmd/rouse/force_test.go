package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/model"
)

// A script must be able to tell a build that failed from one that it knows nothing of.
func TestForceTellsAFailedBuildFromAnError(t *testing.T) {
	t.Parallel()
	serve := func(t *testing.T, result model.Result) string {
		dir, err := os.MkdirTemp("", "rouse") // t.TempDir's path may be too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		l, err := api.ListenLocal(filepath.Join(dir, api.SocketName))
		if err != nil {
			t.Fatal(err)
		}
		w := apitest.New()
		w.Result = result
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Server(nil).Serve(ctx, l) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			_ = os.RemoveAll(dir)
		})
		return dir
	}
	for _, tc := range []struct {
		name   string
		result model.Result
		args   string
		want   int
	}{
		{"success", model.Success, "hello -wait", 0},
		{"warnings", model.Warnings, "hello -wait", 0},
		{"failure", model.Failure, "hello -wait", 1},
		{"exception", model.Exception, "hello -wait -json", 1},
		{"cancelled", model.Cancelled, "hello -wait", 1},
		{"not waiting", model.Failure, "hello", 0},
		{"no such builder", model.Success, "hallo -wait", 3},
		{"no such option", model.Success, "hello -wiat", 3},
		{"no builder", model.Success, "-wait", 3},
		{"malformed property", model.Success, "hello -wait -property=x", 3},
		{"malformed priority", model.Success, "hello -wait -priority=high", 3},
		{"no master", model.Success, "hello -wait -state=/nonexistent", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"force"}, strings.Fields(tc.args)...)
			if !strings.Contains(tc.args, "-state") {
				args = append(args, "-state="+serve(t, tc.result))
			}
			var out, errs bytes.Buffer
			if code := Main(args, strings.NewReader(""), &out, &errs); code != tc.want {
				t.Errorf("exit code %d, want %d\n%s%s", code, tc.want, out.String(), errs.String())
			}
		})
	}
}

func TestOtherCommandsEndErrorsWithOne(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"builds", "-state=/nonexistent"}, {"builds", "-nonsense"}, {"nonsense"}} {
		var out, errs bytes.Buffer
		if code := Main(args, strings.NewReader(""), &out, &errs); code != 1 {
			t.Errorf("%v: exit code %d\n%s", args, code, errs.String())
		}
	}
}
