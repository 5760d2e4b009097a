package master

import (
	"log/slog"
	"net"
	"testing"

	"github.com/rouse-ci/rouse/hcl"
)

func TestChosenPortIsThatOfTheMasterBefore(t *testing.T) {
	t.Parallel()
	m := &master{o: Options{StateDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	open := func() net.Listener {
		t.Helper()
		l, err := m.listen(hcl.Master{Listen: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open()
	addr := first.Addr().String()
	second := open() // the port is taken: any other will do
	if second.Addr().String() == addr {
		t.Fatal("one port twice")
	}
	addr = second.Addr().String()
	for _, l := range []net.Listener{first, second} {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	third := open()
	defer func() { _ = third.Close() }()
	if got := third.Addr().String(); got != addr {
		t.Errorf("listens on %s; agents look for it on %s", got, addr)
	}
}
