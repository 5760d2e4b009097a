package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

type consoleWorld struct{ *apitest.World }

func (consoleWorld) ReadConsole(_ context.Context, key model.InstanceKey, follow bool, w io.Writer) error {
	if key != "abc-linux-1-2" {
		return fmt.Errorf("console of instance %s: %w", key, store.ErrNotFound)
	}
	_, err := fmt.Fprintf(w, "booting\nfollow %v\n", follow)
	return err
}

func TestConsoleIsStreamed(t *testing.T) {
	t.Parallel()
	w := consoleWorld{apitest.New()}
	c := local(t, w.World, func(o *api.Options) { o.Engine = w })
	for follow, want := range map[string]string{"false": "booting\nfollow false\n", "true": "booting\nfollow true\n"} {
		var out bytes.Buffer
		if err := c.Copy(t.Context(), "/instances/abc-linux-1-2/console", url.Values{"follow": {follow}}, &out); err != nil || out.String() != want {
			t.Errorf("%q: %q, %v", follow, out.String(), err)
		}
	}
	var out bytes.Buffer
	if err := c.Copy(t.Context(), "/instances/gone/console", nil, &out); err == nil || !strings.Contains(err.Error(), "no instance gone") || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}
