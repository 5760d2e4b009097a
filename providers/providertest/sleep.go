package providertest

import (
	"maps"
	"sync"

	"github.com/rouse-ci/rouse/providers"
)

func testFacts(s *suite) {
	p := s.open(ours)
	req := s.request(ours)
	s.create(p, req)
	s.untilRunning(p, req.Key)
	got, err := p.Get(s.ctx(), req.Key)
	if err != nil {
		s.Fatal(err)
	}
	if listed := s.live(p, ours)[req.Key]; !maps.Equal(got.Facts, listed.Facts) {
		s.Errorf("Facts: Get says %v, List says %v", got.Facts, listed.Facts)
	}
	if m, ok := got.Facts["market"]; ok && m != "on-demand" && m != "spot" {
		s.Errorf("market is %q, want on-demand or spot", m)
	}
	if len(got.Facts) > 20 {
		s.Errorf("%d facts, want at most 20", len(got.Facts))
	}
	for k, v := range got.Facts {
		if k == "" || v == "" || len(k) > 64 || len(v) > 256 {
			s.Errorf("fact %q = %q: names have 1 to 64 bytes, values 1 to 256", k, v)
		}
	}
}

// sleeper returns the ability, or skips.
func (s *suite) sleeper(p providers.Provider) providers.Sleeper {
	s.Helper()
	z, ok := p.(providers.Sleeper)
	if !ok {
		s.Skip("not an ability of this provider")
	}
	return z
}

// stop does as the engine does: again and again until Get says Stopped.
func (s *suite) stop(p providers.Provider, key providers.Key) {
	s.Helper()
	s.until("Get says stopped", func() bool {
		if err := s.sleeper(p).Stop(s.ctx(), key, false); err != nil && providers.ClassOf(err) != providers.Transient {
			s.Fatalf("Stop: %v", err)
		}
		in, err := p.Get(s.ctx(), key)
		if err != nil {
			s.Fatalf("Get of an instance that is being stopped: %v", err)
		}
		return in.State == providers.Stopped
	})
}

// start does the same until Get says Running.
func (s *suite) start(p providers.Provider, req providers.CreateRequest) {
	s.Helper()
	s.until("Get says running", func() bool {
		in, err := s.sleeper(p).Start(s.ctx(), req.Key, req.Agent)
		if err != nil && providers.ClassOf(err) != providers.Transient {
			s.Fatalf("Start: %v", err)
		}
		if err == nil && in.Key != req.Key {
			s.Fatalf("Start returned key %q, want %q", in.Key, req.Key)
		}
		in, err = p.Get(s.ctx(), req.Key)
		if err != nil {
			s.Fatalf("Get of an instance that is being started: %v", err)
		}
		return in.State == providers.Running
	})
}

func testSleep(s *suite) {
	p := s.open(ours)
	s.sleeper(p)
	req := s.request(ours)
	first := s.create(p, req)
	s.untilRunning(p, req.Key)
	for range 2 {
		s.stop(p, req.Key)
		if in := s.live(p, ours)[req.Key]; in.State != providers.Stopped {
			s.Errorf("List says %s, want stopped", in.State)
		}
		if again := s.create(p, req); again.State == providers.Running || again.State == providers.Pending {
			s.Errorf("Create of a stopped instance started it: %s", again.State)
		}
		s.start(p, req)
		if in, err := p.Get(s.ctx(), req.Key); err != nil || first.ID != "" && in.ID != first.ID {
			s.Errorf("after stop and start: %q (%v), want the same instance %q", in.ID, err, first.ID)
		}
	}
	s.wantLive(p, ours, req.Key)
	s.wantAlive(req.Key, 1)
}

func testSleepDestroy(s *suite) {
	p := s.open(ours)
	s.sleeper(p)
	req := s.request(ours)
	s.create(p, req)
	s.untilRunning(p, req.Key)
	s.stop(p, req.Key)
	s.close(p)
	p = s.open(ours) // another process
	s.destroy(p, req.Key)
	s.wantLive(p, ours)
	_, err := s.sleeper(p).Start(s.ctx(), req.Key, req.Agent)
	s.wantClass("Start of what is gone", err, providers.NotFound)
	s.wantClass("Stop of what is gone", s.sleeper(p).Stop(s.ctx(), req.Key, false), providers.NotFound)
	s.wantLive(p, ours)
	s.wantAlive(req.Key, 0)
}

func testSleepAnyState(s *suite) {
	p, other := s.open(ours), s.open(theirs)
	z := s.sleeper(p)
	req := s.request(ours)
	_, err := z.Start(s.ctx(), req.Key, req.Agent)
	s.wantClass("Start of an unknown key", err, providers.NotFound)
	s.wantClass("Stop of an unknown key", z.Stop(s.ctx(), req.Key, false), providers.NotFound)
	s.create(p, req)
	s.untilRunning(p, req.Key)
	if _, err := z.Start(s.ctx(), req.Key, req.Agent); err != nil { // it runs already
		s.Errorf("Start of a running instance: %v", err)
	}
	s.wantClass("Stop of another owner's", s.sleeper(other).Stop(s.ctx(), req.Key, false), providers.NotFound)
	_, err = s.sleeper(other).Start(s.ctx(), req.Key, req.Agent)
	s.wantClass("Start of another owner's", err, providers.NotFound)
	s.untilRunning(p, req.Key)

	var wg sync.WaitGroup
	for range 4 { // two masters, or a repeated order
		wg.Go(func() {
			if err := z.Stop(s.ctx(), req.Key, false); err != nil && providers.ClassOf(err) != providers.Transient {
				s.Errorf("Stop: %v", err)
			}
		})
	}
	wg.Wait()
	s.stop(p, req.Key)
	if err := z.Stop(s.ctx(), req.Key, false); err != nil { // it is stopped already
		s.Errorf("Stop of a stopped instance: %v", err)
	}
	if err := p.Destroy(s.ctx(), req.Key); err != nil {
		s.Fatalf("Destroy of a stopped instance: %v", err)
	}
	if in, err := z.Start(s.ctx(), req.Key, req.Agent); err == nil && (in.State == providers.Running || in.State == providers.Pending) {
		s.Errorf("Start after an accepted Destroy: %s", in.State)
	}
	s.destroy(p, req.Key)
	s.wantLive(p, ours)
}
