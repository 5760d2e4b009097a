package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rouse-ci/rouse/master/model"
)

type consoleEngine struct{ Engine }

func (consoleEngine) ReadConsole(context.Context, model.InstanceKey, bool, io.Writer) error {
	return nil
}

func TestAFollowedConsoleIsOneOfTheStreams(t *testing.T) {
	t.Parallel()
	s := New(Options{Engine: consoleEngine{}})
	ask := func(follow bool) error {
		_, err := s.readConsole(t.Context(), &struct {
			Key    string `path:"key" maxLength:"120"`
			Follow bool   `query:"follow" doc:"go on until the instance ends"`
		}{"k", follow})
		return err
	}
	for range maxStreams {
		if err := s.enter(); err != nil {
			t.Fatal(err)
		}
	}
	var refused huma.StatusError
	if err := ask(true); !errors.As(err, &refused) || refused.GetStatus() != http.StatusServiceUnavailable {
		t.Errorf("one stream too many: %v", err)
	}
	if err := ask(false); err != nil {
		t.Errorf("what is not followed: %v", err)
	}
	s.leave()
	if err := ask(true); err != nil {
		t.Error(err)
	}
}
