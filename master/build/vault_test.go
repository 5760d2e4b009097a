package build

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/worker/proto"
)

// fakeVault hides one value after the other: each is there for one question only, as if it were rotated at once.
type fakeVault struct {
	mu      sync.Mutex
	values  []string
	asked   []string
	late    []string // learned while a step runs
	learned map[string]int
	forgot  []model.BuildID
}

func (v *fakeVault) Hidden(_ context.Context, b core.Build) [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := min(len(v.asked), len(v.values)-1)
	v.asked = append(v.asked, b.Worker)
	return [][]byte{[]byte(v.values[n])}
}

func (v *fakeVault) Since(heard uint64) (values [][]byte, now uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.late[heard:] {
		values = append(values, []byte(s))
	}
	return values, uint64(len(v.late))
}

func (v *fakeVault) Learn(_ model.BuildID, _ [][]byte, lengths map[string]int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.learned == nil {
		v.learned = map[string]int{}
	}
	for name, n := range lengths {
		v.learned[name] = n
	}
}

func (v *fakeVault) Forget(b model.BuildID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgot = append(v.forgot, b)
}

func TestWhatNoStepHasReadIsMaskedToo(t *testing.T) {
	t.Parallel()
	v := &fakeVault{values: []string{"hunter2secret", "first-value", "second-value"}}
	w := newWorld(t)
	w.vault = v
	w.reopen(t.TempDir())
	w.add("one", echo("env"))
	w.add("two", echo("env"))
	w.add("capture", &hcl.SetPropertySpec{Property: "p", Command: echo("env")})
	one := w.evals["one"]
	w.evals["one"] = func() (*hcl.Evaluated, error) {
		ev, err := one()
		ev.Secrets, ev.Lengths = [][]byte{[]byte("read-by-it")}, map[string]int{"token": 10}
		return ev, err
	}
	w.answers["shell"] = answer{out: []chunk{{proto.Header, "PW=hunter2secret\n"}, {proto.Stdout, "pw hunter2"}, {proto.Stdout, "secret first-value second-value\n"}}}
	w.run()
	got := w.realLogs()
	if strings.Contains(got, "hunter2secret") || strings.Contains(got, "first-value") || strings.Count(got, "second-value") != 1 || strings.Count(got, "PW=(secret)") != 3 {
		t.Error(got) // the last value came after the first step's log was begun
	}
	if !strings.Contains(got, "|property p: pw (secret) (secret) (secret) (a property holds no secret: ") || !strings.Contains(w.rows[2].Text, "a property holds no secret") {
		t.Error(got, w.rows[2].Text)
	}
	if p := w.props["p"].Value; p != "pw (secret) (secret) (secret)" {
		t.Errorf("property %v", p)
	}
	if diff := cmp.Diff(map[string]int{"token": 10}, v.learned); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]model.BuildID{12}, v.forgot); diff != "" {
		t.Error(diff)
	}
	for _, worker := range v.asked {
		if worker != "w1" {
			t.Error(v.asked)
		}
	}
}

// TestWhatAnotherBuildReadsMeanwhileIsMasked: in the log that is open, and in what is captured.
func TestWhatAnotherBuildReadsMeanwhileIsMasked(t *testing.T) {
	t.Parallel()
	v := &fakeVault{values: []string{"hunter2secret"}}
	w := newWorld(t)
	w.vault = v
	w.reopen(t.TempDir())
	w.add("capture", &hcl.SetPropertySpec{Property: "p", Command: echo("env")})
	w.answers["shell"] = answer{out: []chunk{{proto.Stdout, "before late-secret\n"}, {proto.Stdout, "then late-secret and hunter2secret\n"}}}
	pieces := 0
	w.onOutput = func() {
		if pieces++; pieces == 2 {
			v.mu.Lock()
			v.late = append(v.late, "late-secret")
			v.mu.Unlock()
		}
	}
	w.run()
	if got := w.realLogs(); strings.Count(got, "late-secret") != 1 || !strings.Contains(got, "othen (secret) and (secret)") {
		t.Error(got)
	}
	if p := w.props["p"].Value; p != "before (secret)\nthen (secret) and (secret)" {
		t.Errorf("property %q", p)
	}
}

func TestABuildThatCannotBeginHidesWhatTheVaultKnows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.vault = &fakeVault{values: []string{"hunter2secret"}}
	w.add("one", nil)
	w.evals["one"] = func() (*hcl.Evaluated, error) { return &hcl.Evaluated{}, errors.New("no hunter2secret") }
	if out := w.run(); out.Text != "exception: no (secret)" {
		t.Errorf("%+v", out)
	}
}

// A secret of a few digits is in the name of a commit now and then: that is no reason not to know what was checked out.
func TestACommitIsKnownAlthoughAShortSecretIsInItsName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.vault = &fakeVault{values: []string{sha[3:8]}}
	w.add("source", &hcl.GitSpec{Repository: "https://example.org/r.git", Branch: "main", Workdir: "build", Mode: "incremental"})
	w.answers["b12.s0.0"] = answer{rc: 128}
	w.answers["b12.s0.5"] = answer{out: []chunk{{proto.Stdout, sha[:10]}, {proto.Stdout, sha[10:] + "\n"}}}
	if out := w.run(); out.Result != model.Success {
		t.Errorf("%+v", out)
	}
	if got := w.props["got_revision"].Value; got != sha {
		t.Errorf("got_revision %v", got)
	}
}
