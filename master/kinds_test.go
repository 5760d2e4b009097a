package master

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rouse-ci/rouse/master/api"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/fake"
)

// otherKind is another kind of provider with a world of its own. Its Open can be held up.
type otherKind struct {
	*fake.Kind
	opening chan struct{} // not nil: Open says that it has begun…
	hold    chan struct{} // …and waits
}

func (k *otherKind) Name() string { return "other" }

func (k *otherKind) Open(ctx context.Context, env providers.Env) (providers.Provider, providers.Limits, error) {
	if k.hold != nil {
		close(k.opening)
		<-k.hold
	}
	return k.Kind.Open(ctx, env)
}

// asOther is a configuration whose provider has the same name and another kind.
func asOther() string {
	return strings.NewReplacer(`provider "fake"`, `provider "other"`, "provider.fake", "provider.other").Replace(text("", ""))
}

func twoKinds(t *testing.T) (*site, *otherKind) {
	s := newSite(t)
	k := &otherKind{Kind: fake.New(fake.Options{})}
	s.o.Hcl.Kinds["other"] = k
	s.write(text("destroy_error_rate = 1", ""))
	return s, k
}

const noProvider = `
worker "w2" { password = secret.p }
secret "p" { env = "NOTHING" }
builder "b" {
  workers = [worker.w2]
  step "shell" "s" { command = "true" }
}
scheduler "force" "f" { builders = [builder.b] }
master { listen = "127.0.0.1:0" }
`

func TestTheKindOfAProviderThatWasRemovedWithInstancesIsRemembered(t *testing.T) {
	t.Parallel()
	s, _ := twoKinds(t)
	s.up()
	s.machine()
	s.write(noProvider)
	s.reconfig()
	s.down()
	s.write(asOther())
	s.up() // the directory has another kind now: it would not find the machine, and would call that the end of it
	if g := ask[api.ApplyStatus](s, "/apply").Generation; g != 2 || !strings.Contains(s.log.String(), "was of kind fake") {
		t.Errorf("generation %d is in force", g)
	}
	_, err := tell[api.Applied](s, "/apply", api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(asOther())}})
	s.refusedWith(err, 422, "was of kind fake")
	if list := ask[api.InstanceList](s, "/instances").Instances; len(list) != 1 {
		t.Errorf("the machine is not in the records any more: %+v", list)
	}
}

func TestAMachineThatIsAskedForDuringAnApplyKeepsItsProvidersKind(t *testing.T) {
	t.Parallel()
	s, k := twoKinds(t)
	s.up()
	k.opening, k.hold = make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		c, err := api.NewClient(filepath.Join(s.o.StateDir, SocketName), "", nil)
		if err == nil {
			defer c.Close()
			err = c.Post(t.Context(), "/apply", nil, api.ApplyAsk{PlanAsk: api.PlanAsk{Files: files(asOther())}}, new(api.Applied))
		}
		done <- err
	}()
	<-k.opening
	s.machine()
	close(k.hold)
	s.refusedWith(<-done, 422, "was of kind fake")
	if list := ask[api.InstanceList](s, "/instances").Instances; len(list) != 1 || list[0].State == model.InstanceGone {
		t.Errorf("instances: %+v", list)
	}
	if g := ask[api.ApplyStatus](s, "/apply").Generation; g != 1 {
		t.Errorf("generation %d is in force", g)
	}
}
