package hcl

import (
	"runtime/debug"
	"strings"
	"testing"
)

// TestDeepTextCannotOverflowTheStack uses a quarter of Go's usual limit. An overflow would end the test's process.
func TestDeepTextCannotOverflowTheStack(t *testing.T) {
	defer debug.SetMaxStack(debug.SetMaxStack(256 << 20))
	const large = 30_000
	for name, src := range map[string]string{
		"brackets":           "locals {\nx = " + strings.Repeat("[", large),
		"parentheses":        "locals {\nx = " + strings.Repeat("(", large),
		"objects":            "locals {\nx = " + strings.Repeat("{a=", large),
		"blocks":             strings.Repeat("a {\n", large),
		"not":                "locals {\nx = " + strings.Repeat("!", large) + "true\n}",
		"minus":              "locals {\nx = " + strings.Repeat("-", large) + "1\n}",
		"conditions":         "locals {\nx = " + strings.Repeat("true ? 1 : ", large) + "1\n}",
		"sum":                "locals {\nx = " + strings.Repeat("1+", large) + "1\n}",
		"templates":          "locals {\nx = " + strings.Repeat(`"${`, large),
		"directives":         "locals {\nx = \"" + strings.Repeat("%{if true}", large) + "\"\n}",
		"indexes":            "locals {\ny = 1\nx = local.y" + strings.Repeat("[local.y]", large) + "\n}",
		"splats":             "locals {\ny = 1\nx = local.y" + strings.Repeat("[*]", large) + "\n}",
		"objects with lines": "locals {\nx = " + strings.Repeat("{\n}+", large) + "1\n}",
		"hidden brackets":    "locals {\nx = " + strings.Repeat("[ #]\n", large) + "\n}",
		"chains in brackets": "locals {\nx = " + strings.Repeat(strings.Repeat("true ? 1 : ", maxChain-1)+"(", maxNesting-3) + "\n}",
		"just few enough":    "locals {\nx = " + strings.Repeat("[ #]\n", harmless-2) + "\n}",
	} {
		for _, file := range []string{"test.hcl", "test.hcl.json"} {
			if file == "test.hcl.json" {
				src = `{"locals": {"x": "${` + strings.NewReplacer(`"`, `\"`, "\n", `\n`).Replace(strings.TrimPrefix(src, "locals {\nx = ")) + `}"}}`
			}
			_, diags := LoadFiles(map[string][]byte{file: []byte(src)}, testOptions())
			if !diags.HasErrors() {
				t.Errorf("%s: accepted", name)
			}
		}
	}
}

func TestLongButFlatTextIsAccepted(t *testing.T) {
	t.Parallel()
	c := loadText(t, "locals {\n  x = ["+strings.Repeat("1 + 1, ", 20_000)+"]\n"+strings.Repeat("", 1)+"}\n"+
		strings.Repeat("# a comment [ with ( brackets {\n", 20_000)+frame("", trueStep))
	if len(c.Workers) != 1 {
		t.Error("no worker")
	}
}

func TestLargeFilesAreRefused(t *testing.T) {
	t.Parallel()
	_, diags := LoadFiles(map[string][]byte{"test.hcl": make([]byte, maxFileSize+1)}, testOptions())
	if !strings.Contains(diags.Error(), "File too large") {
		t.Error(diags)
	}
}
