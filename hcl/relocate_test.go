package hcl

import (
	"io"
	"sync"
	"testing"
)

// A master relocates what it has found when it begins to serve, and by then others compare the same configuration with the next one.
func TestAConfigurationIsReadWhileItsMistakesAreTold(t *testing.T) {
	t.Parallel()
	cfg, diags := LoadFiles(map[string][]byte{"main.hcl": []byte(hiddenText + "variable \"short\" {\nsensitive = true\ndefault = \"Mw\"\n}\n")}, testOptions())
	if diags.HasErrors() || len(diags) == 0 {
		t.Fatal(diags)
	}
	r := *diags[0].Subject
	want := cfg.Text(r)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			dir := "/etc/rouse" + string(rune('a'+i))
			moved := cfg.Relocate(dir, diags)
			if got := cfg.Report(moved).Diagnostics[0]; got.Snippet == nil || got.Range.Filename != dir+"/main.hcl" {
				t.Errorf("%+v", got)
			}
			if err := cfg.WriteDiagnostics(io.Discard, moved, 0, false); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if got := cfg.Text(r); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
	all.Wait()
}
