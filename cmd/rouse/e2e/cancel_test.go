package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

func TestCancelWhileTheInstanceBoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	slow := filepath.Join(w.dir, "slow")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\necho slow > \"$E2E_WITNESS\"\nsleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.configure(config{Agent: slow, Builders: builder("b", long.step())})
	w.up(nil)
	id := w.force("b")
	w.until("the instance boots", 10*time.Second, func() bool { return len(w.witnessed()) == 1 })
	began := time.Now()
	c := w.client()
	defer c.Close()
	var done api.Done
	if err := c.Delete(t.Context(), fmt.Sprintf("/requests/%d", id), nil, &done); err != nil {
		t.Fatal(err)
	}
	r := w.done(id, 10*time.Second)
	if took := time.Since(began); r.Result != model.Cancelled || took > time.Second {
		t.Errorf("got %s after %v, want cancelled at once", r.Result, took)
	}
	w.until("the instance is gone", 10*time.Second, func() bool { return len(get[api.InstanceList](w, "/instances").Instances) == 0 })
	w.clean()
}
