package hcl

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// evalStep loads a builder with the steps and evaluates the last one.
func evalStep(t *testing.T, before, steps string, scope Scope) (*Evaluated, string) {
	t.Helper()
	c := loadText(t, before+frame("", steps))
	all := c.Builders[0].Steps
	ev, diags := all[len(all)-1].Eval(scope, c.Env())
	return ev, rendered(c, diags)
}

func TestStepsSeeTheBuild(t *testing.T) {
	t.Parallel()
	scope := Scope{
		Build:    map[string]any{"number": 7.0, "reason": "because"},
		Source:   map[string]any{"branch": "main"},
		Prop:     map[string]any{"level": 3.0, "tags": []any{"a", "b"}},
		Worker:   map[string]any{"name": "w", "info": map[string]any{"numcpus": int64(4)}},
		Instance: map[string]any{"key": "k"},
		Step:     map[string]any{"name": "s", "number": 1, "one": map[string]any{"result": "warnings"}},
	}
	ev, problems := evalStep(t, `locals { flag = "-v" }`, `
	  env = { A = "builder", B = "builder" }
	  step "shell" "one" { command = "true" }
	  step "shell" "s" {
	    command = ["make", local.flag, "-j${worker.info.numcpus}", build.number, source.branch, join(",", prop.tags), instance.key, step.one.result, step.name]
	    env     = { B = "step", REVISION = coalesce(source.revision, "none"), OWNER = try(prop.owner, "nobody") }
	    timeout = prop.level * 60
	    sigterm_time = "5s"
	    interrupt_signal = "SIGINT"
	    exit_codes = { "2" = "warnings", 3 = "skipped" }
	    log_environ = false
	    stdin = "in"
	    when  = build.number > 5 && step.one.result != "failure"
	  }`, scope)
	if problems != "" {
		t.Fatal(problems)
	}
	want := &Evaluated{Run: true, Spec: &ShellSpec{
		Argv:    []string{"make", "-v", "-j4", "7", "main", "a,b", "k", "warnings", "s"},
		Workdir: "build", Env: map[string]string{"A": "builder", "B": "step", "REVISION": "none", "OWNER": "nobody"},
		Timeout: 3 * time.Minute, Sigterm: 5 * time.Second, Signal: "INT", ExitCodes: map[int]string{2: "warnings", 3: "skipped"}, Stdin: "in",
	}}
	if d := cmp.Diff(want, ev); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestEveryKindOfStepHasItsSpec(t *testing.T) {
	t.Parallel()
	text := "hello"
	for _, c := range []struct {
		step string
		want any
	}{
		{`step "shell" "s" { command = "make test" }`,
			&ShellSpec{Script: "make test", Workdir: "build", Env: map[string]string{}, Timeout: 20 * time.Minute, Signal: "KILL", LogEnv: true}},
		{`step "git" "s" {
		  repository = "https://example.org/r"
		  branch     = "b"
		  mode       = "clobber"
		  shallow    = true
		  submodules = true
		  workdir    = "src"
		}`, &GitSpec{Repository: "https://example.org/r", Branch: "b", Mode: "clobber", Shallow: 1, Submodules: true, Workdir: "src", Env: map[string]string{}, Timeout: 20 * time.Minute}},
		{`step "git" "s" { shallow = 5 }`, &GitSpec{Mode: "incremental", Shallow: 5, Workdir: "build", Env: map[string]string{}, Timeout: 20 * time.Minute}},
		{`step "upload" "s" { from = "dist/x" }`, &UploadSpec{From: "dist/x", To: "x", Workdir: "build", MaxSize: 1 << 30}},
		{`step "upload" "s" {
		  from     = "x"
		  to       = "a/b"
		  max_size = "2MiB"
		}`, &UploadSpec{From: "x", To: "a/b", Workdir: "build", MaxSize: 2 << 20}},
		{`step "download" "s" {
		  from = "/etc/x"
		  to   = "y"
		  mode = "0755"
		}`, &DownloadSpec{From: "/etc/x", To: "y", Workdir: "build", Mode: 0o755, MaxSize: 1 << 30}},
		{`step "download" "s" {
		  content = "hello"
		  to      = "y"
		}`, &DownloadSpec{Content: &text, To: "y", Workdir: "build", Mode: 0o644, MaxSize: 1 << 30}},
		{`step "set_property" "s" {
		  property = "p"
		  value    = { a = [1, true, null] }
		}`, &SetPropertySpec{Property: "p", Value: map[string]any{"a": []any{1.0, true, nil}}}},
		{`step "set_property" "s" {
		  property = "p"
		  command  = ["hostname"]
		}`, &SetPropertySpec{Property: "p", Command: &ShellSpec{Argv: []string{"hostname"}, Workdir: "build", Env: map[string]string{}, Timeout: 20 * time.Minute, Signal: "KILL", LogEnv: true}}},
		{`step "trigger" "s" {
		  scheduler  = scheduler.triggerable.t
		  wait       = true
		  revision   = "r"
		  properties = { a = 1 }
		}`, &TriggerSpec{Scheduler: "t", Wait: true, Revision: "r", Properties: map[string]any{"a": 1.0}}},
	} {
		ev, problems := evalStep(t, `scheduler "triggerable" "t" { builders = ["b"] }`, c.step, Scope{})
		if problems != "" {
			t.Errorf("%s\n%s", c.step, problems)
			continue
		}
		if d := cmp.Diff(c.want, ev.Spec); d != "" {
			t.Errorf("%s\n-want +got\n%s", c.step, d)
		}
	}
}

// secretFile declares secrets whose values are in files.
func secretFile(t *testing.T, secrets map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	src := ""
	for name, value := range secrets {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		src += "secret \"" + name + "\" {\n  file = \"" + file + "\"\n}\n"
	}
	return src
}

func TestSecretsAreReadWhenUsedAndReported(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"a": "alpha\n", "b": "beta"}) + `secret "absent" { file = "/nonexistent" }`
	ev, problems := evalStep(t, before, `
	  step "shell" "s" {
	    command = "deploy"
	    env     = { PLAIN = "x-${secret.a}", ENCODED = base64encode("ci:${secret.b}"), N = "1" }
	  }`, Scope{})
	if problems != "" {
		t.Fatal(problems)
	}
	if got := ev.Spec.(*ShellSpec).Env; got["PLAIN"] != "x-alpha" || got["ENCODED"] != "Y2k6YmV0YQ==" {
		t.Errorf("env: %v", got)
	}
	if got := string(bytes.Join(ev.Secrets, []byte(" "))); got != "alpha beta Y2k6YmV0YQ==" {
		t.Errorf("secrets: %s", got)
	}
}

func TestAFileWithASecretIsItsOwnersAloneUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"a": "alpha"})
	for attrs, want := range map[string]int{
		`content = "x"`:                              0o644,
		`content = "token = ${secret.a}"`:            0o600,
		`content = "${secret.a}", mode = "0640"`:     0o640,
		`content = base64encode("ci:${secret.a}")`:   0o600,
		`content = jsonencode({ a = [secret.a] })`:   0o600,
		`content = "${prop.none ? secret.a : "no"}"`: 0o600,
	} {
		ev, problems := evalStep(t, before, "step \"download\" \"s\" {\nto = \"f\"\n"+strings.ReplaceAll(attrs, ", mode", "\nmode")+"\n}", Scope{Prop: map[string]any{"none": false}})
		if problems != "" {
			t.Fatal(attrs, problems)
		}
		if got := ev.Spec.(*DownloadSpec).Mode; got != want {
			t.Errorf("%s: mode %o, want %o", attrs, got, want)
		}
	}
}

func TestOnlyWhenIsEvaluatedIfItSaysNo(t *testing.T) {
	t.Parallel()
	ev, problems := evalStep(t, `secret "absent" { file = "/nonexistent" }`, `
	  step "shell" "s" {
	    command = "deploy ${prop.none}"
	    env     = { TOKEN = secret.absent }
	    when    = false
	  }`, Scope{})
	if problems != "" || ev.Run || ev.Spec != nil {
		t.Errorf("%+v\n%s", ev, problems)
	}
}

func TestASecretNeverReachesAMessage(t *testing.T) {
	t.Parallel()
	before := secretFile(t, map[string]string{"a": "alpha-beta"})
	ev, problems := evalStep(t, before, `
	  step "shell" "s" {
	    command = "x"
	    env     = { N = parseint(secret.a, 10) }
	  }`, Scope{})
	if problems == "" || strings.Contains(problems, "alpha") {
		t.Errorf("the message: %s", problems)
	}
	if len(ev.Secrets) != 1 || string(ev.Secrets[0]) != "alpha-beta" {
		t.Errorf("secrets: %q", ev.Secrets)
	}
}

func TestAnAbsentPropertyIsAMistakeAtTheStep(t *testing.T) {
	t.Parallel()
	_, problems := evalStep(t, "", `step "shell" "s" { command = "x ${prop.levle}" }`, Scope{Prop: map[string]any{"level": 3}})
	if !strings.Contains(problems, `prop has no attribute "levle". Did you mean "level"? If it may be absent, write try(prop.levle, "default").`) || !strings.Contains(problems, "command =") {
		t.Errorf("the message: %s", problems)
	}
}

func TestWhatTheRunnerDoesNotKnowIsNull(t *testing.T) {
	t.Parallel()
	ev, problems := evalStep(t, "", `
	  step "shell" "one" { command = "x" }
	  step "shell" "s" {
	    command = "x"
	    env     = { all = jsonencode([build, source, instance, worker, step]) }
	  }`, Scope{})
	if problems != "" {
		t.Fatal(problems)
	}
	if all := ev.Spec.(*ShellSpec).Env["all"]; !strings.Contains(all, `"owner":null`) || !strings.Contains(all, `"one":{"result":null}`) {
		t.Errorf("all: %s", all)
	}
}

func TestStepsAreEvaluatedConcurrently(t *testing.T) {
	t.Parallel()
	c := loadText(t, frame("", `step "shell" "s" { command = "echo ${build.number} ${upper(prop.x)} ${fileexists("none")}" }`))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				ev, diags := c.Builders[0].Steps[0].Eval(Scope{Build: map[string]any{"number": i}, Prop: map[string]any{"x": "a"}}, c.Env())
				if diags.HasErrors() || !strings.HasPrefix(ev.Spec.(*ShellSpec).Script, "echo ") {
					t.Error(diags)
				}
			}
		})
	}
	wg.Wait()
}

func TestSecretsComeFromThreePlaces(t *testing.T) {
	t.Setenv("ROUSE_TEST_SECRET", "from env\n")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		secret Secret
		want   string // of the value, or of the error
	}{
		{Secret{Env: "ROUSE_TEST_SECRET"}, "from env\n"},
		{Secret{File: file}, "from file"},
		{Secret{Command: []string{"printf", "a\nb\n"}}, "a\nb"},
		{Secret{Name: "n", Env: "ROUSE_TEST_UNSET"}, `secret "n": the environment variable ROUSE_TEST_UNSET is not set`},
		{Secret{File: "/dev/zero"}, "not a regular file"},
		{Secret{Command: []string{"sh", "-c", "echo hush; echo hush >&2; exit 3"}}, "sh: exit status 3"},
		{Secret{Command: []string{"sh", "-c", "yes"}}, "printed more than 65536 bytes"},
		{Secret{Command: []string{"true"}}, "empty"},
		{Secret{Command: []string{"/nonexistent"}}, "no such file"},
	} {
		got, err := c.secret.Read(context.Background())
		if err != nil {
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%+v: %v, want %q", c.secret, err, c.want)
			}
		} else if string(got) != c.want {
			t.Errorf("%+v: %q, want %q", c.secret, got, c.want)
		}
	}
}

func TestASecretsCommandEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := (Secret{Command: []string{"sh", "-c", "sleep 60 & sleep 60"}}).Read(ctx); err == nil || time.Since(start) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}
