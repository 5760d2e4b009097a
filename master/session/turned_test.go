package session

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

func TestAFloodOfWrongPasswordsDoesNotFloodTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Auth: Accounts{Password: func(string) (providers.Secret, bool) { return "", false },
			Worker: func(model.InstanceKey) (string, bool) { return "", false }}})
		knock := func(i int) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Upgrade", "websocket")
			r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
			r.SetBasicAuth(fmt.Sprint("name-", i), "guess")
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
				t.Fatal(w.Code)
			}
		}
		for i := range 1000 {
			knock(i)
		}
		if n := strings.Count(log.String(), "\n"); n != turnedBurst {
			t.Errorf("%d lines", n)
		}
		time.Sleep(turnedRefill)
		knock(1000)
		if n := strings.Count(log.String(), "\n"); n != turnedBurst+1 || !strings.Contains(log.String(), fmt.Sprint("not_logged_before=", 1000-turnedBurst)) {
			t.Errorf("%d lines, the last: %s", n, log.String()[strings.LastIndex(strings.TrimSpace(log.String()), "\n"):])
		}
	})
}

func TestWhoeverAsksIsToldWhatCameOfAnAttempt(t *testing.T) {
	t.Parallel()
	var tried []string
	a := Accounts{Key: []byte("k"), Password: func(string) (providers.Secret, bool) { return "open-sesame", true },
		Worker: func(model.InstanceKey) (string, bool) { return "w", true },
		Tried: func(worker string, inst model.InstanceKey, ok bool) {
			tried = append(tried, fmt.Sprint(worker, " ", inst, " ", ok))
		}}
	_, _ = a.Authenticate("w", "open-sesame", "")
	_, _ = a.Authenticate("w", "wrong", "")
	_, _ = a.Authenticate("w", Token(a.Key, "i").Reveal(), "i")
	if got := strings.Join(tried, ", "); got != "w  true, w  false, w i true" {
		t.Error(got)
	}
}
