package core

import (
	"reflect"
	"testing"
	"time"
)

// TestEveryFieldOfAWorkerCounts: a field that the comparison forgets would be a change that is never carried out.
func TestEveryFieldOfAWorkerCounts(t *testing.T) {
	t.Parallel()
	var zero Worker
	for i := range reflect.TypeFor[Worker]().NumField() {
		var w Worker
		f := reflect.ValueOf(&w).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Float64:
			f.SetFloat(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		default:
			t.Fatalf("field %d is a %s: teach the test", i, f.Kind())
		}
		if w.equal(&zero) || zero.equal(&w) {
			t.Errorf("a change of %s is not seen", reflect.TypeFor[Worker]().Field(i).Name)
		}
		if same := w; !w.equal(&same) {
			t.Errorf("field %d: a worker differs from itself", i)
		}
	}
}

// TestAPriceThatIsLearnedLateIsThatOfRunningInstancesToo: a master that starts does not wait for prices.
func TestAPriceThatIsLearnedLateIsThatOfRunningInstancesToo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := Restore(Saved{
		Owner:   "me",
		Workers: []WorkerState{{Name: "new", Generation: 1}, {Name: "known", Generation: 1}, {Name: "outdated", Generation: 1}},
		Instances: []Instance{
			{Key: "me-new-1", Worker: "new", Provider: "p", Spec: "1", AskedAt: now, Resolved: true},
			{Key: "me-known-1", Worker: "known", Provider: "p", Spec: "1", AskedAt: now, Resolved: true, Price: 1, StoppedPrice: 0.5},
			{Key: "me-outdated-1", Worker: "outdated", Provider: "p", Spec: "0", AskedAt: now, Resolved: true},
		},
	})
	var cfg Config
	saved := map[string][2]float64{}
	for i, price := range []float64{0, 3} {
		cfg = Config{Generation: 1, Providers: []Provider{{Name: "p", Settle: time.Minute}}}
		for _, name := range []string{"new", "known", "outdated"} {
			cfg.Workers = append(cfg.Workers, Worker{Name: name, Provider: "p", Spec: "1", MissingTimeout: time.Hour, Price: price, StoppedPrice: price / 3})
		}
		if i == 0 {
			s.Step(now, Restarted{})
		}
		for _, in := range s.Step(now, ConfigApplied{Config: cfg}).Delta.Instances {
			saved[in.Worker] = [2]float64{in.Price, in.StoppedPrice}
		}
	}
	if got := saved["new"]; got != [2]float64{3, 1} {
		t.Errorf("the price of the instance that had none is stored as %v", got)
	}
	for name, want := range map[string][2]float64{"known": {1, 0.5}, "outdated": {}} {
		if in := s.workers[name].facts.Instance; in.Price != want[0] || in.StoppedPrice != want[1] {
			t.Errorf("%s: now %v and %v, want %v", name, in.Price, in.StoppedPrice, want)
		}
	}
}
