package session

import (
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/worker/proto"
)

func TestPlainWorkersGetTheirKeepalive(t *testing.T) {
	t.Parallel()
	m := newMaster(t, Options{Heartbeat: 50 * time.Millisecond, DeadAfter: time.Minute, Keepalive: func(worker string) time.Duration {
		if worker == "w1" {
			return 10 * time.Millisecond
		}
		return 0
	}})
	interview := []proto.Message{{}, {Result: map[string]any{"basedir": "/b"}}, {}}
	a := m.interviewed("w1", interview)
	event[core.Attached](m)
	for range 2 {
		msg := a.recv()
		if msg.Op != proto.OpKeepalive {
			t.Fatalf("got %s", msg.Op)
		}
		a.reply(msg, nil)
	}
}
