package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// shelf is a kind of provider that has images and nothing else; its spec is what Images answers.
type shelf struct {
	providers.Provider
	t *testing.T
}

func (shelf) Name() string { return "shelf" }

func (shelf) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	a := decode.Body(body, ctx)
	return "config", a.Diags
}

func (shelf) DecodeInstance(_ any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	var s string
	a := decode.Body(body, ctx, "has")
	a.String("has", &s)
	return s, a.Diags
}

func (k shelf) Open(_ context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	if info, err := os.Stat(env.StateDir); err != nil || !info.IsDir() || env.Name != "box" || env.Config != "config" {
		k.t.Errorf("opened with %+v, %v", env, err)
	}
	return k, providers.Limits{}, nil
}

func (shelf) Close() error { return nil }

func (shelf) Images(_ context.Context, spec any) ([]providers.Image, error) {
	old := providers.Image{ID: "ami-1", Name: "ci-9", Location: "us/ci-9", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Why: "earlier in order, by integer 9"}
	switch spec {
	case "two":
		return []providers.Image{old, {ID: "ami-2", Name: "ci\x1b[2J", Taken: true, Why: "taken: last in order, by integer 10"}}, nil
	case "refused":
		old.Why = "its state is \"pending\", not \"available\""
		return []providers.Image{old}, nil
	case "down":
		return nil, &providers.Error{Class: providers.Unauthorized, Op: "images", Err: errors.New("the policy must allow ec2:DescribeImages")}
	}
	return nil, nil
}

const shelves = `
provider "shelf" "box" {}
provider "fake" "none" {}
worker "linux" {
  provider = provider.shelf.box
  count    = 2
  instance { has = "two" }
}
worker "stale" {
  provider = provider.shelf.box
  instance { has = "refused" }
}
worker "empty" {
  provider = provider.shelf.box
}
worker "down" {
  provider = provider.shelf.box
  instance { has = "down" }
}
worker "other" {
  provider = provider.fake.none
}
worker "mac" {
  password = secret.p
}
secret "p" {
  env = "P"
}
builder "b" {
  workers = [worker.linux]
  step "shell" "test" {
    command = "true"
  }
}
`

func TestImagesOfAWorker(t *testing.T) {
	t.Setenv("TZ", "UTC")
	dir := t.TempDir()
	broken := t.TempDir()
	for path, text := range map[string]string{dir: shelves, broken: `worker "x" { provider = provider.shelf.nobody }`} {
		if err := os.WriteFile(filepath.Join(path, "rouse.hcl"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := maps.Clone(kinds())
	all["shelf"] = shelf{t: t}
	for _, tc := range []struct {
		args        string
		code        int
		out, errors string // parts
	}{
		{"images linux-2 DIR", 0, "ami-1  2026-01-02 03:04:05  ci-9    us/ci-9   -      earlier in order, by integer 9\nami-2  -                    ci?[2J  -         yes    taken: last", ""},
		{"images linux DIR", 0, "ami-2", ""},
		{"images linux DIR -json", 0, "{\n  \"worker\": \"linux-1\",\n  \"provider\": \"box\",\n  \"images\": [\n    {\n      \"id\": \"ami-1\"", ""},
		{"images stale DIR", 1, `its state is "pending"`, "no image would be taken for stale; candidates: 1"},
		{"images empty DIR -json", 1, `"images": []`, "no image would be taken for empty; candidates: 0"},
		{"images down DIR", 1, "", "Error: worker down: the policy must allow ec2:DescribeImages\n"},
		{"images other DIR", 1, "", "provider none is of kind fake, which does not choose among images"},
		{"images mac DIR", 1, "", "worker mac is no latent worker"},
		{"images linx-1 DIR", 1, "", `no worker "linx-1". Did you mean "linux-1"?`},
		{"images lunix DIR", 1, "", `Did you mean "linux"?`},
		{"images x BROKEN", 1, "", "Unknown provider"},
		{"images", 1, "", "usage: rouse images WORKER [DIR]"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := &app{kinds: all, stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
			code := a.run(strings.Fields(strings.NewReplacer("DIR", dir, "BROKEN", broken).Replace(tc.args)))
			if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(errs.String(), tc.errors) || (tc.errors == "") != (errs.Len() == 0) {
				t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "rouse-images-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestImagesCompletesLatentWorkersOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rouse.hcl"), []byte(shelves), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	all := maps.Clone(kinds())
	all["shelf"] = shelf{t: t}
	var out, errs bytes.Buffer
	a := &app{kinds: all, stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	a.run([]string{"__complete", "images", ""})
	want := "linux-1\tbox\nlinux-2\tbox\nstale\tbox\nempty\tbox\ndown\tbox\nother\tnone\n:4\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestManyRefusedImagesAreLeftOut(t *testing.T) {
	t.Parallel()
	var images []providers.Image
	for i := range 1159 {
		images = append(images, providers.Image{ID: fmt.Sprintf("ami-%d", i)})
	}
	images = append(images, providers.Image{ID: "chosen", Taken: true})
	shown, left := fewRefused(images)
	if left != 1139 || len(shown) != 21 || shown[0].ID != "ami-1139" || shown[20].ID != "chosen" {
		t.Errorf("%d left, %d shown: %v", left, len(shown), shown)
	}
	if shown, left := fewRefused(images[1139:]); left != 0 || len(shown) != 21 {
		t.Errorf("%d left, %d shown", left, len(shown))
	}
	var out bytes.Buffer
	a := &app{stdout: &out}
	if err := a.showImages(&imageList{Images: images}, false, false); err != nil || !strings.HasPrefix(out.String(), "1139 candidates before these are not taken, too; to see them: -all\n\nIMAGE") {
		t.Errorf("%v %.300s", err, out.String())
	}
	out.Reset()
	if err := a.showImages(&imageList{Images: images}, false, true); err != nil || strings.Count(out.String(), "\n") != 1161 {
		t.Errorf("%v %.300s", err, out.String())
	}
}
