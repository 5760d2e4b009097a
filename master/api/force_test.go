package api_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/api/apitest"
)

func TestForceRefusesAPasswordInTheRepositorysAddress(t *testing.T) {
	t.Parallel()
	c := local(t, apitest.New(), nil)
	var made api.Forced
	err := c.Post(t.Context(), "/force", nil, api.Force{Builder: "hello", Repository: "https://bob:word@example.org/x.git"}, &made)
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != 422 || !strings.Contains(p.Detail, "holds a password") || strings.Contains(p.Detail, "word@") {
		t.Errorf("got %v", err)
	}
	if err := c.Post(t.Context(), "/force", nil, api.Force{Builder: "hello", Repository: "https://bob@example.org/x.git"}, &made); err != nil {
		t.Error(err)
	}
}
