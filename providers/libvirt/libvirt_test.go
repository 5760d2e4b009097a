package libvirt

import (
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/providertest"
)

// good is a specification that works on a fakeHost.
func good() Spec {
	return Spec{BaseImage: "base.qcow2", Clone: "overlay", Memory: 128 << 20, VCPUs: 1, Machine: "q35", Network: "default", Identity: BySMBIOS}
}

func config() Config {
	return Config{Pool: "default", Network: "default", Hosts: []Host{{Name: "host", URI: "fake:///"}}}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) providertest.Setup {
		h, dir := newFakeHost(), t.TempDir()
		return providertest.Setup{
			Open: func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
				p, err := open(providers.Env{Name: "lab", Owner: owner, Config: config(), StateDir: dir + "/" + string(owner), Log: log}, h.dial)
				if err != nil {
					t.Fatal(err)
				}
				return p, limits
			},
			Spec:    func() any { return good() },
			BadSpec: func() any { s := good(); s.BaseImage = "none.qcow2"; return s },
			Alive: func(key providers.Key) int {
				if h.alive(domainName(key)) {
					return 1
				}
				return 0
			},
		}
	})
}

// program makes a script to be called. Another process writes it: what this one has open for writing, whoever it starts at that moment has open, too, and
// then nobody can run it.
func program(t *testing.T, name, text string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `umask 077 && cat >"$0" && chmod 700 "$0"`, name)
	cmd.Stdin = strings.NewReader("#!/bin/sh\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v: %s", name, err, out)
	}
}
