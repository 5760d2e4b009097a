package worker

import (
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/rouse-ci/rouse/worker/proto"
)

// answering is the address of a server that says the same to everybody.
func answering(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4<<10)) // what is left unread would end the connection before the answer is there
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func TestWhyThereIsNoConnectionIsSaidInWords(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	alerting := answering(t, "\x15\x03\x01\x00\x02\x02\x46") // as of a server of TLS that knows nothing of HTTP
	nginx := answering(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>")
	strange := answering(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno")
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	for url, want := range map[string]string{
		"ws://" + at(plain):                       "ws://" + at(plain) + " answered 404 Not Found instead of opening a WebSocket: is it the worker port of a master? Its API has another one",
		"wss://" + at(plain):                      "the master at wss://" + at(plain) + " does not speak TLS: use ws:// instead of wss://",
		"ws://" + secure.Listener.Addr().String(): "the master at ws://" + secure.Listener.Addr().String() + " speaks TLS: use wss:// instead of ws://",
		"ws://" + alerting:                        "the master at ws://" + alerting + " speaks TLS: use wss:// instead of ws://",
		"ws://" + nginx:                           "the master at ws://" + nginx + " speaks TLS: use wss:// instead of ws://",
		"ws://" + strange:                         "ws://" + strange + " answered 400 Bad Request instead of opening a WebSocket: is it the worker port of a master? Its API has another one",
		"ws://u:pw@" + at(gone):                   "no master answers at ws://u:xxxxx@" + at(gone) + ": dial tcp " + at(gone) + ": connect: connection refused", // a name and a password do not belong there
		"ws://" + at(gone):                        "no master answers at ws://" + at(gone) + ": dial tcp " + at(gone) + ": connect: connection refused",
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
