package build

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/steplog"
)

const (
	maxText  = 500        // bytes of a step's or build's text
	maskText = "(secret)" // in place of a secret, as in logs
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
		_, b.heard = b.Vault.Since(b.heard)
		b.learn(b.Vault.Hidden(ctx, b.job))
	}
}

// hear learns what has come to be known since, while the step's log is open: what a command of its worker prints may be read by another build meanwhile.
func (s *step) hear() {
	if s.Vault == nil {
		return
	}
	var values [][]byte
	if values, s.heard = s.Vault.Since(s.heard); s.learn(values) && s.log != nil {
		s.log.Hide(values)
	}
}

// learn adds values to what is masked, by the rules of logs, and says whether any was new.
func (b *run) learn(secrets [][]byte) (news bool) {
	for _, secret := range secrets {
		if secret = bytes.TrimRight(secret, "\r\n"); len(secret) < hcl.Masked || b.known[string(secret)] {
			continue
		}
		if b.known == nil {
			b.known = map[string]bool{}
		}
		b.known[string(secret)] = true
		b.secrets, news = append(b.secrets, secret), true
	}
	if news {
		b.masker = steplog.NewMasker(b.secrets)
	}
	return news
}

// mask replaces the secrets that are known so far. All that goes into a record passes through here.
func (b *run) mask(s string) string { return b.masker.Text(s) }

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
