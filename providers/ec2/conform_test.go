package ec2

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
	"github.com/rouse-ci/rouse/providers/providertest"
)

// worldConfig is a provider block for a world.
func worldConfig(w *ec2test.World) Config {
	return Config{
		Region: ec2test.Region, Endpoint: w.URL, Identifier: "AKIAEC2TESTEC2TEST00", SecretIdentifier: "not-a-secret",
		PollInterval: 50 * time.Millisecond, CallTimeout: 15 * time.Second, Settle: 5 * time.Second, RateFactor: 50,
	}
}

// worldSpec is an instance block that works in every world.
func worldSpec() Spec {
	return Spec{AMI: "ami-00000000000000001", Types: []string{"t3.micro"}, Agent: true, HopLimit: 1}
}

// openWorld opens a provider in a world.
func openWorld(t *testing.T, cfg Config, dir string, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
	t.Helper()
	p, l, err := Kind{}.Open(t.Context(), providers.Env{Name: "aws", Owner: owner, Config: cfg, StateDir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return p, l
}

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) providertest.Setup {
		w, dir := ec2test.Start(t), t.TempDir()
		return providertest.Setup{
			Open: func(t *testing.T, owner providers.Owner, log *slog.Logger) (providers.Provider, providers.Limits) {
				return openWorld(t, worldConfig(w), dir+"/"+string(owner), owner, log)
			},
			Spec:    func() any { return worldSpec() },
			BadSpec: func() any { s := worldSpec(); s.AMI = "ami-00000000"; return s },
			Within:  time.Minute,
			Alive: func(key providers.Key) int {
				all, err := w.Instances(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for _, in := range all {
					if in.Tags[ec2test.TagKey] == string(key) && in.Live() {
						n++
					}
				}
				return n
			},
		}
	})
}
