package build

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
)

const (
	maxText  = 500        // bytes of a step's or build's text
	maskText = "(secret)" // in place of a secret, as in logs
	minLine  = 6          // bytes of one line of a secret that has several
)

// read learns what a step has read, and tells the vault.
func (b *run) read(ev *hcl.Evaluated) {
	b.learn(ev.Secrets)
	if b.Vault != nil {
		b.Vault.Learn(b.job.ID, ev.Secrets, ev.Lengths)
	}
}

// hide learns what the vault knows now. What it knew before stays hidden: a process may have been given it then.
func (b *run) hide(ctx context.Context) {
	if b.Vault != nil {
		b.learn(b.Vault.Hidden(ctx, b.job))
	}
}

// learn adds values to what is masked. The rules are steplog's: what is shorter than four bytes would mask everything.
func (b *run) learn(secrets [][]byte) {
	before := len(b.known)
	for _, secret := range secrets {
		secret = bytes.TrimRight(secret, "\r\n")
		if len(secret) < hcl.Masked || b.known[string(secret)] {
			continue
		}
		b.add(secret)
		if bytes.IndexByte(secret, '\n') < 0 {
			continue
		}
		for line := range bytes.SplitSeq(secret, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) >= minLine && !b.known[string(line)] {
				b.add(line)
			}
		}
	}
	if len(b.known) == before {
		return
	}
	slices.SortFunc(b.secrets, func(x, y []byte) int { return len(y) - len(x) }) // one may contain another
}

func (b *run) add(secret []byte) {
	if b.known == nil {
		b.known = map[string]bool{}
	}
	b.known[string(secret)] = true
	b.secrets = append(b.secrets, secret)
}

// mask replaces the secrets that are known so far. All that goes into a record passes through here.
func (b *run) mask(s string) string {
	for _, secret := range b.secrets {
		s = strings.ReplaceAll(s, string(secret), maskText)
	}
	return s
}

// secretBegins is how many bytes at the end of p may be the beginning of a secret.
func (b *run) secretBegins(p []byte) int {
	longest := 0
	for _, secret := range b.secrets {
		for n := min(len(secret)-1, len(p)); n > longest; n-- {
			if bytes.HasSuffix(p, secret[:n]) {
				longest = n
			}
		}
	}
	return longest
}

// maskValue masks the strings in a property's value.
func (b *run) maskValue(v any) any {
	switch v := v.(type) {
	case string:
		return b.mask(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = b.maskValue(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[b.mask(k)] = b.maskValue(v[k])
		}
		return out
	}
	return v
}

// clean makes a text fit for a record: no secret, valid, of bounded length, without control characters.
func (b *run) clean(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToValidUTF8(b.mask(s), replacement)
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return shorten(s, maxText)
}

// shorten cuts a text to at most n bytes, on a character's boundary.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// quote shows a command as a person would type it.
func quote(argv []string) string {
	var b strings.Builder
	for i, a := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a != "" && strings.IndexFunc(a, special) < 0 {
			b.WriteString(a)
		} else {
			b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "'")
		}
	}
	return b.String()
}

func special(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_=+./:,@%^", r), r > 0x7f:
		return false
	}
	return true
}
