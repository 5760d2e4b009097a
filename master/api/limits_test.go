package api

import (
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// TestWhoeverSendsMuchOrAsksProvidersHasTime: a configuration over a poor link, and a list of a slow cloud. The default for a body is five seconds.
func TestWhoeverSendsMuchOrAsksProvidersHasTime(t *testing.T) {
	t.Parallel()
	s := New(Options{Version: "1"})
	config := map[string]bool{"/plan": true, "/apply": true}
	seen := 0
	for path, item := range s.OpenAPI().Paths {
		for _, o := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete, item.Patch} {
			if o == nil {
				continue
			}
			short := o.Path[len(Prefix):]
			l := limitsFor(o.Method, short)
			if o.BodyReadTimeout != l.send || l.send < sendLimit || o.MaxBodyBytes != l.size {
				t.Errorf("%s %s: a body of %d bytes may take %s", o.Method, path, o.MaxBodyBytes, o.BodyReadTimeout)
			}
			if config[short] && o.Method == "POST" {
				seen++
				if slowest := float64(l.size) / l.send.Seconds(); slowest > 256<<10 { // 2 Mbit/s
					t.Errorf("%s: a link of less than %.0f bytes per second is too slow for it", short, slowest)
				}
			}
		}
	}
	if seen != len(config) {
		t.Errorf("%d operations take configurations", seen)
	}
	if l := limitsFor("POST", "/strays/look"); l.work < 2*time.Minute || l.whole() <= l.work {
		t.Errorf("a look may take %s", l.work)
	}
	if limitsFor("GET", "/apply") != usual {
		t.Error("the state of an apply is asked with an apply's patience")
	}
}
