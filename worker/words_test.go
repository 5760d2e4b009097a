package worker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestWhyThereIsNoConnectionIsSaidInWords(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	for url, want := range map[string]string{
		"ws://" + at(plain):     "ws://" + at(plain) + " answered 404 Not Found instead of opening a WebSocket: is it the worker port of a master? Its API has another one",
		"wss://" + at(plain):    "the master at wss://" + at(plain) + " does not speak TLS: use ws:// instead of wss://",
		"ws://u:pw@" + at(gone): "no master answers at ws://u:xxxxx@" + at(gone) + ": dial tcp " + at(gone) + ": connect: connection refused", // a name and a password do not belong there
		"ws://" + at(gone):      "no master answers at ws://" + at(gone) + ": dial tcp " + at(gone) + ": connect: connection refused",
	} {
		a := &Agent{cfg: Config{Master: url, Name: "w", Secret: "s"}}
		if _, _, err := a.dial(t.Context(), func() {}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}

func TestWhatTheMasterSaidWhenItClosedIsSaidInWords(t *testing.T) {
	t.Parallel()
	frame := websocket.CloseError{Code: proto.StatusRefused, Reason: "another agent is attached under this name"}
	err := (&link{ctx: t.Context()}).why(fmt.Errorf("failed to get reader: %w", frame))
	if want := fmt.Sprintf("the master closed the connection: another agent is attached under this name (%d)", proto.StatusRefused); err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if websocket.CloseStatus(err) != proto.StatusRefused {
		t.Error("the status is lost, by which an agent knows that it is to end")
	}
}
