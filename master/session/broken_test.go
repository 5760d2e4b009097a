package session

import (
	"bytes"
	"errors"
	"testing"

	"github.com/rouse-ci/rouse/worker/proto"
)

func TestTransferBreaksWithItsConnection(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} { // whether the agent still lists it
		m := newMaster(t, Options{})
		var got bytes.Buffer
		run := m.start(t.Context(), "w1", Command{ID: "u1", Name: "upload_file", Upload: &got})
		a := m.attach("w1", nonceA)
		a.reply(a.want(proto.OpStartCommand), nil)
		_ = a.conn.CloseNow()
		var list []proto.Running
		if known {
			list = append(list, proto.Running{ID: "u1", To: 20, Done: true})
		}
		again := m.attach("w1", nonceA, list...)
		if r := await(t, run); !errors.Is(r.err, ErrBroken) {
			t.Errorf("known %v: got %+v", known, r)
		}
		if !known {
			continue // nothing to forget
		}
		if forget := again.want(proto.OpForget); forget.CommandID != "u1" {
			t.Errorf("got %+v", forget)
		}
	}
}
