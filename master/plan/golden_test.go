package plan

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// small is a fleet that fits on a screen.
const small = `
variable "password" {
  sensitive = true
}
provider "cloud" "main" {
  region = "eu-1"
}
worker "linux" {
  count    = 2
  provider = provider.cloud.main
  price    = 0.10
  instance {
    image = "debian-12"
    login = var.password
  }
}
builder "app" {
  workers = [worker.linux]
  step "shell" "test" {
    command = ["make", "test"]
    env     = { PASSWORD = var.password }
  }
}
scheduler "force" "force" {
  builders = [builder.app]
}
`

const secondBuilder = `
builder "doc" {
  workers = [worker.linux]
  step "shell" "build" {
    command = "make doc"
  }
}
scheduler "triggerable" "doc" {
  builders = [builder.doc]
}
`

// TestGolden holds text and JSON of each action to testdata/golden, where a person can read them. UPDATE_GOLDEN=1 writes them anew.
func TestGolden(t *testing.T) {
	t.Parallel()
	const secret = "password=golden-s3cret"
	live := []string{"linux-1", "linux-2*7"}
	for name, tc := range map[string]struct {
		old, new string
		live     []string
		change   func(in *Input)
	}{
		"none":    {old: small, new: small, live: live},
		"comment": {old: small, new: edit(t, small, "command =", "# as before\n    command  =")},
		"first":   {new: small},
		"create":  {old: small, new: edit(t, small, "count    = 2", "count    = 3") + secondBuilder, live: live},
		"update": {old: small, new: edit(t, small, "price    = 0.10", "price      = 0.12\n  max_builds = 1", `"make", "test"`, `"make", "check"`), live: live, change: func(in *Input) {
			in.Queued = []model.Request{{ID: 9, Builder: "app", Generation: 2}}
		}},
		"replace": {old: small, new: edit(t, small, "debian-12", "debian-13"), live: live},
		"remove": {old: small + secondBuilder, new: edit(t, small, "count    = 2", "count    = 1"), live: live, change: func(in *Input) {
			in.Queued = []model.Request{{ID: 9, Builder: "doc", Generation: 2}}
		}},
		"sensitive": {old: small, new: small, live: live, change: func(in *Input) { in.New = load(t, small, "password=another-s3cret") }},
		"moved": {old: small, new: small, live: live, change: func(in *Input) {
			r := []providers.Resolved{{Attr: "image", Value: "ami-2", Detail: "debian-12-20261121"}}
			in.Resolved = map[string][]providers.Resolved{"linux-1": r, "linux-2": r}
		}},
		"adopt": {old: edit(t, small, "count    = 2", "count    = 1"), new: small, live: live[:1], change: func(in *Input) {
			in.Snapshot, in.Seen = fleetOf(t, in.New, live...)
			in.Snapshot.Workers = []core.WorkerView{{Worker: core.Worker{Name: "linux-2"}, Retired: true}}
		}},
		"drift": {old: small, new: small, live: live, change: func(in *Input) {
			in.Seen["main"] = Seen{Instances: []providers.Instance{{Key: "abc-linux-1-1", State: providers.Failed, Detail: "out of memory"}, {Key: "abc-stray-4", ID: "i-4", Worker: "stray", State: providers.Running}}}
		}},
		"lock": {old: edit(t, small, "builder \"app\" {", "lock \"db\" {}\nbuilder \"app\" {\n  locks = [lock.db]"), new: edit(t, small, "builder \"app\" {", "lock \"database\" {}\nbuilder \"app\" {\n  locks = [lock.database]"), live: live,
			change: func(in *Input) { in.Snapshot.Locks = []core.LockView{{Name: "db", Holders: []model.BuildID{7}}} }},
		"error": {old: small, new: edit(t, small, "debian-12", "debian-31"), live: live, change: func(in *Input) {
			in.Findings = []Finding{{Provider: "main", Worker: "linux-1", Finding: providers.Finding{Fatal: true, Attr: "image", Summary: "No such image", Detail: "debian-31 is not offered in eu-1."}}}
		}},
		"offline": {old: small, new: edit(t, small, "count    = 2", "count    = 3"), live: live, change: func(in *Input) { in.Offline, in.Refreshed, in.Seen = true, false, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := Input{Master: "abc", Now: testTime, New: load(t, tc.new, secret), Refreshed: true}
			if tc.old != "" {
				in = input(t, load(t, tc.old, secret), in.New, tc.live...)
			}
			if tc.change != nil {
				tc.change(&in)
			}
			p := Compute(in)
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if err := enc.Encode(p); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", []byte(asText(t, p)))
			golden(t, name+".json", b.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if bytes.Contains(got, []byte("s3cret")) {
		t.Errorf("%s holds a secret", name)
	}
	path := filepath.Join("testdata", "golden", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}
