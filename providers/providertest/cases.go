package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

func testCreateTwice(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	first := s.create(p, req)
	for range 3 {
		if again := s.create(p, req); again.ID != first.ID && first.ID != "" {
			s.Errorf("Create again returned %q, first %q", again.ID, first.ID)
		}
	}
	s.untilRunning(p, req.Key)
	s.create(p, req)
	s.wantLive(p, ours, req.Key)
	s.wantAlive(req.Key, 1)
}

func testConcurrentCreates(s *suite) {
	p, other := s.open(ours), s.open(ours)
	req := s.request(ours)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			h := p
			if i%4 == 3 {
				h = other // a master that is being replaced may still have a call in flight
			}
			if _, err := h.Create(s.ctx(), req); err != nil && providers.ClassOf(err) != providers.Transient {
				s.Errorf("Create: %v", err) // a provider may refuse the second of two at once, but only as certainly not done
			}
		})
	}
	wg.Wait()
	s.untilRunning(p, req.Key)
	s.wantLive(p, ours, req.Key)
	s.wantAlive(req.Key, 1)
}

func testCreateOutlivesContext(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := p.Create(ctx, req); err != nil {
		s.Fatal(err)
	}
	cancel()
	s.untilRunning(p, req.Key)
	time.Sleep(50 * time.Millisecond) // long enough for a process that is bound to the context to be killed
	s.untilRunning(p, req.Key)
}

// refused checks what Create says of a key whose end was accepted: an error, or what is left, but nothing that could live.
func (s *suite) refused(in providers.Instance, err error) {
	s.Helper()
	if err == nil && in.State != providers.Stopping && in.State != providers.Gone {
		s.Errorf("Create of a destroyed key returned state %s, want stopping, gone or an error", in.State)
	}
}

func testCreateAfterDestroy(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	s.create(p, req)
	s.untilRunning(p, req.Key)
	if err := p.Destroy(s.ctx(), req.Key); err != nil {
		s.Fatalf("Destroy: %v", err)
	}
	s.refused(p.Create(s.ctx(), req))
	s.destroy(p, req.Key)
	s.wantLive(p, ours)
}

func testCreateAfterGone(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	s.create(p, req)
	s.destroy(p, req.Key)
	s.refused(p.Create(s.ctx(), req))
	s.wantLive(p, ours)
	s.wantAlive(req.Key, 0)
}

func testCreateAfterGoneReopened(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	s.create(p, req)
	s.destroy(p, req.Key)
	s.close(p)
	p = s.open(ours)
	s.refused(p.Create(s.ctx(), req))
	s.wantLive(p, ours)
	s.wantAlive(req.Key, 0)
}

func testDestroy(s *suite) {
	p := s.open(ours)
	booted, booting := s.request(ours), s.request(ours)
	s.create(p, booted)
	s.untilRunning(p, booted.Key)
	s.create(p, booting)
	for _, req := range []providers.CreateRequest{booted, booting} {
		s.destroy(p, req.Key)
		s.wantClass("Destroy once more", p.Destroy(s.ctx(), req.Key), providers.NotFound)
	}
	s.wantLive(p, ours)
}

func testConcurrentDestroys(s *suite) {
	p, other := s.open(ours), s.open(ours)
	req, bystander := s.request(ours), s.request(ours)
	s.create(p, req)
	s.create(p, bystander)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			h := p
			if i%2 == 1 {
				h = other
			}
			if err := h.Destroy(s.ctx(), req.Key); err != nil && providers.ClassOf(err) != providers.NotFound {
				s.Errorf("Destroy: %v", err)
			}
		})
	}
	wg.Wait()
	s.destroy(p, req.Key)
	s.untilRunning(p, bystander.Key)
	s.wantLive(p, ours, bystander.Key)
}

func testUnknownKey(s *suite) {
	p := s.open(ours)
	key := s.request(ours).Key
	s.wantClass("Destroy", p.Destroy(s.ctx(), key), providers.NotFound)
	_, err := p.Get(s.ctx(), key)
	s.wantClass("Get", err, providers.NotFound)
	s.wantLive(p, ours)
}

func testMalformedKey(s *suite) {
	p := s.open(ours)
	for _, key := range []providers.Key{"", ".", "..", "../x", "a/b", "UPPER", "a_b", "a\x00b", providers.Key(strings.Repeat("k", providers.MaxKey+1))} {
		req := s.request(ours)
		req.Key = key
		_, err := p.Create(s.ctx(), req)
		s.wantClass(fmt.Sprintf("Create of %q", key), err, providers.BadConfig)
		_, err = p.Get(s.ctx(), key)
		s.wantClass(fmt.Sprintf("Get of %q", key), err, providers.NotFound)
		s.wantClass(fmt.Sprintf("Destroy of %q", key), p.Destroy(s.ctx(), key), providers.NotFound)
	}
	longest := s.request(ours)
	longest.Key = providers.Key(strings.Repeat("k", providers.MaxKey))
	s.create(p, longest)
	s.wantLive(p, ours, longest.Key)
}

func testGet(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	req.Worker = "linux-7"
	before := time.Now().Add(-2 * time.Second) // some providers keep whole seconds
	made := s.create(p, req)
	s.untilRunning(p, req.Key)
	got, err := p.Get(s.ctx(), req.Key)
	if err != nil {
		s.Fatal(err)
	}
	listed := s.live(p, ours)[req.Key]
	for what, in := range map[string]providers.Instance{"Create": made, "Get": got, "List": listed} {
		if in.Key != req.Key || in.Worker != req.Worker {
			s.Errorf("%s: key %q worker %q, want %q %q", what, in.Key, in.Worker, req.Key, req.Worker)
		}
		if in.CreatedAt.Before(before) || in.CreatedAt.After(time.Now().Add(2*time.Second)) {
			s.Errorf("%s: CreatedAt is %s, now is %s", what, in.CreatedAt, time.Now())
		}
	}
	if got.ID == "" || got.ID != listed.ID {
		s.Errorf("IDs of a running instance: Get %q, List %q", got.ID, listed.ID)
	}
}

func testOwners(s *suite) {
	a, b := s.open(ours), s.open(theirs)
	mine, yours := s.request(ours), s.request(theirs)
	s.create(a, mine)
	s.create(b, yours)
	s.wantLive(a, ours, mine.Key)
	s.wantLive(b, theirs, yours.Key)
	s.wantLive(a, "owner-nobody")

	s.wantClass("Destroy of another owner's", b.Destroy(s.ctx(), mine.Key), providers.NotFound)
	_, err := b.Get(s.ctx(), mine.Key)
	s.wantClass("Get of another owner's", err, providers.NotFound)
	theft := s.request(theirs)
	theft.Key = mine.Key
	_, err = b.Create(s.ctx(), theft)
	s.wantClass("Create with another owner's key", err, providers.BadConfig)
	if c, ok := b.(providers.ConsoleReader); ok {
		_, err = c.Console(s.ctx(), mine.Key)
		s.wantClass("Console of another owner's", err, providers.NotFound)
	}

	s.untilRunning(a, mine.Key)
	s.wantAlive(mine.Key, 1)
	s.destroy(a, mine.Key)
	s.untilRunning(b, yours.Key)
}

func testReopen(s *suite) {
	p := s.open(ours)
	var keys []providers.Key
	for range 3 {
		req := s.request(ours)
		s.create(p, req)
		keys = append(keys, req.Key)
	}
	second := s.open(ours) // another process while the first still works
	s.wantLive(second, ours, keys...)
	req := s.request(ours)
	s.create(second, req)
	keys = append(keys, req.Key)
	s.wantLive(p, ours, keys...)

	s.close(p)
	s.close(second)
	p = s.open(ours)
	s.wantLive(p, ours, keys...)
	for _, k := range keys {
		s.untilRunning(p, k)
	}
	if again := s.create(p, req); again.State != providers.Running {
		s.Errorf("Create of an instance that another process made: state %s, want running", again.State)
	}
	s.wantAlive(req.Key, 1)
}

func testDestroyReopened(s *suite) {
	p := s.open(ours)
	whole, half := s.request(ours), s.request(ours)
	s.create(p, whole)
	s.create(p, half)
	s.untilRunning(p, half.Key)
	if err := p.Destroy(s.ctx(), half.Key); err != nil {
		s.Fatal(err)
	}
	s.close(p)
	p = s.open(ours)
	s.refused(p.Create(s.ctx(), half))
	s.destroy(p, whole.Key)
	s.destroy(p, half.Key)
	s.wantLive(p, ours)
}

func testBadSpec(s *suite) {
	p := s.open(ours)
	specs := []any{nil, struct{ foreign int }{1}} // a value that the provider's DecodeInstance never returned
	if s.BadSpec != nil {
		specs = append(specs, s.BadSpec())
	}
	for _, spec := range specs {
		req := s.request(ours)
		req.Spec = spec
		_, err := p.Create(s.ctx(), req)
		s.wantClass(fmt.Sprintf("Create with spec %T", spec), err, providers.BadConfig)
		s.wantClass("Destroy of what was refused", p.Destroy(s.ctx(), req.Key), providers.NotFound)
	}
	anonymous := s.request("")
	_, err := p.Create(s.ctx(), anonymous)
	s.wantClass("Create without owner", err, providers.BadConfig)
	s.wantLive(p, ours)
}

func testContext(s *suite) {
	p := s.open(ours)
	known, fresh := s.request(ours), s.request(ours)
	s.create(p, known)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for what, call := range map[string]func() error{
		"Create":  func() error { _, err := p.Create(ctx, fresh); return err },
		"Get":     func() error { _, err := p.Get(ctx, known.Key); return err },
		"List":    func() error { _, err := p.List(ctx, ours); return err },
		"Destroy": func() error { return p.Destroy(ctx, fresh.Key) },
	} {
		start := time.Now()
		err := call()
		if d := time.Since(start); d > 2*time.Second {
			s.Errorf("%s took %s after its context had ended", what, d)
		}
		if c := providers.ClassOf(err); err != nil && c != providers.Unknown && c != providers.NotFound {
			s.Errorf("%s: %v has class %s: an ended context leaves the outcome unknown", what, err, c)
		}
	}
	// Whatever became of the call, the key still works: it is made now, it was made, or it was made and destroyed above.
	if in, err := p.Create(s.ctx(), fresh); err == nil && in.Key != fresh.Key {
		s.Errorf("Create after an unresolved one: key %q", in.Key)
	}
	if s.Alive != nil && s.Alive(fresh.Key) > 1 {
		s.Error("an unresolved Create made a second instance")
	}
	s.destroy(p, fresh.Key)
	s.untilRunning(p, known.Key)
}

func testMany(s *suite) {
	p := s.open(ours)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			req := s.request(ours)
			if _, err := p.Create(s.ctx(), req); err != nil {
				s.Errorf("Create: %v", err)
				return
			}
			if list, err := p.List(s.ctx(), ours); err != nil {
				s.Errorf("List: %v", err)
			} else if !shows(list, req.Key) {
				s.Errorf("List does not show %q, which was created before", req.Key)
			}
			if _, err := p.Get(s.ctx(), req.Key); err != nil {
				s.Errorf("Get: %v", err)
			}
			for deadline := time.Now().Add(s.Within); ; time.Sleep(5 * time.Millisecond) {
				err := p.Destroy(s.ctx(), req.Key)
				if err != nil || time.Now().After(deadline) {
					s.wantClass("Destroy", err, providers.NotFound)
					break
				}
			}
		})
	}
	wg.Wait()
	s.wantLive(p, ours)
}

func shows(list []providers.Instance, key providers.Key) bool {
	for _, in := range list {
		if in.Key == key {
			return true
		}
	}
	return false
}

func testSecrets(s *suite) {
	p := s.open(ours)
	req, bad := s.request(ours), s.request(ours)
	var said []any
	in := s.create(p, req)
	again := s.create(p, req)
	s.untilRunning(p, req.Key)
	got, err := p.Get(s.ctx(), req.Key)
	said = append(said, in, again, got, err, s.live(p, ours))
	bad.Spec = nil
	_, err = p.Create(s.ctx(), bad)
	said = append(said, err)
	bad = s.request(ours)
	bad.Key = "../" + bad.Key
	_, err = p.Create(s.ctx(), bad)
	said = append(said, err)
	bad = s.request(ours)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = p.Create(ctx, bad)
	said = append(said, err)
	if c, ok := p.(providers.ConsoleReader); ok {
		out, err := c.Console(s.ctx(), req.Key)
		said = append(said, string(out), err)
	}
	s.destroy(p, req.Key)
	in, err = p.Create(s.ctx(), req)
	said = append(said, in, err, p.Destroy(s.ctx(), req.Key))
	for _, x := range said {
		js, _ := json.Marshal(x)
		for _, text := range []string{fmt.Sprintf("%+v", x), fmt.Sprintf("%#v", x), string(js)} {
			if strings.Contains(text, Token) {
				s.Errorf("the token is in %s", text)
			}
		}
	}
}

func testLimits(s *suite) {
	p, l := s.Open(s.T, ours, s.log)
	defer s.close(p)
	if l.CreateTimeout <= 0 || l.CallTimeout <= 0 || l.Settle <= 0 || l.Concurrency <= 0 || l.SweepInterval <= 0 || l.CheckInterval <= 0 || l.DestroyBackoff <= 0 {
		s.Errorf("all limits must be positive: %+v", l)
	}
}

func testConsole(s *suite) {
	p := s.open(ours)
	c, ok := p.(providers.ConsoleReader)
	if !ok {
		s.Skip("not an ability of this provider")
	}
	req := s.request(ours)
	_, err := c.Console(s.ctx(), req.Key)
	s.wantClass("Console of an unknown key", err, providers.NotFound)
	s.create(p, req)
	s.untilRunning(p, req.Key)
	out, err := c.Console(s.ctx(), req.Key)
	if err != nil || len(out) > 64<<10 {
		s.Errorf("Console: %d bytes, error %v; want at most 64 KiB", len(out), err)
	}
}

func testCheck(s *suite) {
	p := s.open(ours)
	c, ok := p.(providers.Checker)
	if !ok {
		s.Skip("not an ability of this provider")
	}
	if found := c.Check(s.ctx(), []any{s.Spec(), s.Spec()}); fatal(found) != nil {
		s.Errorf("Check of good specs: %+v", found)
	}
	bad := []any{s.Spec(), 42}
	if s.BadSpec != nil {
		bad = append(bad, s.BadSpec())
	}
	got := fatal(c.Check(s.ctx(), bad))
	for i := 1; i < len(bad); i++ {
		if f := got[i]; f == nil || f.Summary == "" || f.Detail == "" {
			s.Errorf("Check of bad spec %d (%T): got %+v, want a fatal finding with a summary and a detail", i, bad[i], f)
		}
	}
	if got[0] != nil {
		s.Errorf("Check says of the good spec beside the bad ones: %+v", got[0])
	}
	s.wantLive(p, ours)
}

// fatal are the fatal findings by their specs.
func fatal(found []providers.Finding) map[int]*providers.Finding {
	var m map[int]*providers.Finding
	for i := range found {
		if f := &found[i]; f.Fatal {
			if m == nil {
				m = map[int]*providers.Finding{}
			}
			m[f.Spec] = f
		}
	}
	return m
}
