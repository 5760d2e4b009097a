package hcl

import (
	"strings"
	"testing"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"pgregory.net/rapid"
)

// tooDeepByTokens is what the scanner's tokens say.
func tooDeepByTokens(src string) bool {
	tokens, _ := hclsyntax.LexConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	return checkDepth(tokens) != nil
}

func TestWhatIsSurelyShallowIsSoByItsTokens(t *testing.T) {
	t.Parallel()
	pieces := []string{"{", "}", "[", "]", "(", ")", `"`, `\`, `\"`, "$", "%", "${", "%{", "$${", "~", "#", "//", "/*", "*/", "/", "\n", "\r\n", "\r", "<<E\n", "E\n", "<", "=", "==", "=>",
		"!", "-", "+", "?", ":", "&&", "|", ",", ".", " ", "\t", "a", "0", "é", "\x00"}
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for _, piece := range rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 30).Draw(t, "pieces") {
			b.WriteString(strings.Repeat(piece, rapid.SampledFrom([]int{1, 1, 1, 1, 2, 3, maxNesting, maxNesting + 1, maxChain + 1}).Draw(t, "times")))
		}
		src := b.String()
		if surelyShallow([]byte(src)) && tooDeepByTokens(src) {
			t.Fatalf("this is too deep, and is called shallow: %q", src)
		}
	})
}

// depthOfTokens is how checkDepth counts.
func depthOfTokens(src string) (most int) {
	tokens, _ := hclsyntax.LexConfig([]byte(src), "x.hcl", hcl2.InitialPos)
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl,
			hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			depth++
			most = max(most, depth)
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd,
			hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth = max(depth-1, 0)
		}
	}
	return most
}

func TestNoTokenIsDeeperThanWhatIsCountedWithoutThem(t *testing.T) {
	t.Parallel()
	pieces := []string{"{", "}", "{}", "[", "]", "[]", "(", ")", `"`, `""`, `\`, `\"`, "$", "%", "${", "}", `"${`, `}"`, "%{", "$${", "~", "#", "//", "/", "\n", "\n", "<", "<<E\nE\n", "=", "=>", "!", "-", "?", ",", ".", " ", "a", "0"}
	sure := 0
	rapid.Check(t, func(t *rapid.T) {
		src := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 14).Draw(t, "pieces"), "")
		if most, ok := deepest([]byte(src)); ok {
			sure++
			if real := depthOfTokens(src); real > most {
				t.Fatalf("%q is %d deep, and %d was counted", src, real, most)
			}
		}
	})
	if sure < 10 {
		t.Errorf("only %d texts were counted", sure)
	}
}

func TestUsualConfigurationsAreSurelyShallow(t *testing.T) {
	t.Parallel()
	usual := "# a \"comment\" {\nbuilder \"b\" { // more (\n  workers = [worker.w, worker.x[0]]\n  step \"shell\" \"s\" {\n    command = [\"make\", \"A=${upper(\"x${var.a}\")}\", \"\\\"$5\"]\n    when    = a == b && !c ? 1 : 2\n  }\n}\n"
	for _, tc := range []struct {
		name, src string
		want      bool
	}{
		{"usual", strings.Repeat(usual, 2000), true},
		{"deepest", strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting), true},
		{"too deep", strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1), false},
		{"too deep in templates", "a = " + strings.Repeat(`"${`, maxNesting/2+1) + strings.Repeat(`}"`, maxNesting/2+1), false},
		{"a long chain", "a = 1" + strings.Repeat(" + 1", maxChain+1), false},
		{"a chain over lines in brackets", "a = (1" + strings.Repeat("\n+ 1", maxChain+1) + ")", false},
		{"closers in a comment", "a = " + strings.Repeat("[ # ]\n", maxNesting+1) + strings.Repeat("]", maxNesting+1), false},
		{"closers in a string", "a = " + strings.Repeat(`["]",`, maxNesting+1) + strings.Repeat("]", maxNesting+1), false},
	} {
		if got := surelyShallow([]byte(tc.src)); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
		if tc.want && tooDeepByTokens(tc.src) {
			t.Errorf("%s: its tokens say otherwise", tc.name)
		}
	}
}
