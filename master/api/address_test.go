package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
)

func TestWrongAddressSaysWhichIsRight(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "This is the worker port.") }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for address, want := range map[string]string{
		"127.0.0.1:8031":   `address of the master "127.0.0.1:8031": it lacks how it is spoken to: write http://127.0.0.1:8031`,
		"ci.example.org:1": "write https://ci.example.org:1",
		plain.URL:          "does not answer as a rouse master's API does (text/plain instead of application/json): its worker port is another one",
		"https" + strings.TrimPrefix(plain.URL, "http"):  "speaks http, not https: write " + plain.URL,
		"http" + strings.TrimPrefix(secure.URL, "https"): "speaks https, not http: write " + secure.URL,
	} {
		c, err := api.NewClient(address, "", nil)
		if err == nil {
			var out api.WorkerList
			err = c.Get(t.Context(), "/workers", nil, &out)
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}
