// Package e2e runs the real programs against real things: it builds rouse and rouse-worker once, starts them as processes, and treats them
// badly: kills, stopped processes, cut connections, full disks, strangers at the worker port.
//
// It knows the programs from outside only: command lines, configurations, the API, the log on standard error, and what they leave in /proc and
// on the disk. It has no knowledge of the master's parts, and nothing in the programs knows of it.
//
// ROUSE_E2E_BIN=DIR tests the programs in a directory instead of building them. KILLS=200 kills a master that often in TestKillAnywhere.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// programs are what is tested.
var programs struct{ rouse, worker, self string }

func TestMain(m *testing.M) {
	if role := os.Getenv("E2E_ROLE"); role != "" {
		os.Exit(play(role))
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil {
		parallel := false
		flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
		if !parallel { // the tests wait most of the time
			_ = f.Value.Set("4")
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rouse-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer ec2test.Stop()
	if given := os.Getenv("ROUSE_E2E_BIN"); given != "" {
		if dir, err = filepath.Abs(given); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "..", "../../rouse-worker")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
			return 1
		}
	}
	programs.rouse, programs.worker = filepath.Join(dir, "rouse"), filepath.Join(dir, "rouse-worker")
	if programs.self, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// envInt reads a number from the environment.
func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}
