package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
)

// TestWhatAnInstancePrintedIsKeptWithItsBuildWithoutItsToken has an agent that prints everything it was given and ends.
func TestWhatAnInstancePrintedIsKeptWithItsBuildWithoutItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	agent, seen := filepath.Join(w.dir, "agent.sh"), filepath.Join(w.dir, "seen")
	script := fmt.Sprintf("#!/bin/sh\nfor a; do [ -f \"$a\" ] && cat \"$a\" | tee %s; done\necho\necho no root file system\nexit 3\n", seen)
	if err := os.WriteFile(agent, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	w.configure(config{Agent: agent, Builders: builder("b", talk{Name: "short", Seed: 3, Lines: 2}.step())})
	w.up(nil)
	id := w.force("b")
	var b api.BuildDetail
	w.until("the console is kept", 30*time.Second, func() bool {
		if list := get[api.BuildList](w, "/builds", "request", fmt.Sprint(id)).Builds; len(list) > 0 && list[len(list)-1].Phase == model.BuildDone {
			b = get[api.BuildDetail](w, fmt.Sprintf("/builds/%d", list[len(list)-1].ID))
		}
		return len(b.Steps) > 0
	})
	st := b.Steps[len(b.Steps)-1]
	if st.Name != "worker_preparation" || len(st.Logs) != 1 || st.Logs[0] != "console" || !strings.Contains(st.Text, "ended by itself") {
		t.Fatalf("step %+v", st)
	}
	given, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(string(given), `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	var text strings.Builder
	c := w.client()
	defer c.Close()
	if err := c.Copy(t.Context(), fmt.Sprintf("/builds/%d/steps/%d/logs/console/raw", b.ID, st.Number), nil, &text); err != nil {
		t.Fatal(err)
	}
	out := text.String()
	if len(token) < 20 || !strings.Contains(out, "no root file system") || !strings.Contains(out, `"token":"(secret)"`) {
		t.Errorf("token %d bytes, console:\n%s", len(token), out)
	}
	for _, text := range []string{out, st.Text, b.Text, w.said()} {
		if strings.Contains(text, token) {
			t.Error("the token is told")
		}
	}
}
