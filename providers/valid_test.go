package providers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretIsHiddenFromEveryVerb(t *testing.T) {
	t.Parallel()
	a := Agent{Name: "w", Token: "hunter2"}
	js, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "agent", a, "token", a.Token)
	out := string(js) + log.String()
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %T") {
		out += fmt.Sprintf(verb, a.Token) + fmt.Sprintf(verb, a) + fmt.Sprintf(verb, &a)
	}
	for _, leak := range []string{"hunter2", "68756e74657232", "68756E74657232"} {
		if strings.Contains(out, leak) {
			t.Errorf("%q leaks in %s", leak, out)
		}
	}
	if a.Token.Reveal() != "hunter2" {
		t.Error("Reveal does not return the value")
	}
}

func TestKeyIsSafeAsAFileName(t *testing.T) {
	t.Parallel()
	for key, want := range map[Key]bool{
		"a": true, "o1-w-1": true, Key(strings.Repeat("a", MaxKey)): true,
		"": false, ".": false, "..": false, "a/b": false, "A": false, "a_b": false, "a\x00": false, "é": false, "a b": false,
		Key(strings.Repeat("a", MaxKey+1)): false,
	} {
		if got := key.Valid(); got != want {
			t.Errorf("Key(%q).Valid() = %v", key, got)
		}
	}
}

func TestErrorWithoutClassAndEndedContextsAreUnknown(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want Class
	}{
		{nil, Unknown},
		{errors.New("x"), Unknown},
		{Errorf(NoCapacity, "create", "x"), NoCapacity},
		{fmt.Errorf("wrapped: %w", Errorf(NotFound, "get", "x")), NotFound},
		{Errorf(Transient, "create", "call: %w", context.DeadlineExceeded), Unknown},
		{Errorf(BadConfig, "create", "call: %w", context.Canceled), Unknown},
	} {
		if got := ClassOf(tc.err); got != tc.want {
			t.Errorf("ClassOf(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestParseClassInvertsString(t *testing.T) {
	t.Parallel()
	for c := Unknown; c <= NotFound; c++ {
		if got, ok := ParseClass(c.String()); !ok || got != c {
			t.Errorf("ParseClass(%q) = %v, %v", c, got, ok)
		}
	}
	if _, ok := ParseClass("oops"); ok {
		t.Error("ParseClass accepts anything")
	}
}
