package ec2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
)

// market is both services that know prices, behind the governor. answer is asked for each request: how many there were for this type before, and how long
// it takes.
type market struct {
	answer func(before int) (time.Duration, error)

	mu   sync.Mutex
	sent map[string]int // by operation and type
	log  bytes.Buffer
}

func (m *market) ask(ctx context.Context, what string) error {
	m.mu.Lock()
	before := m.sent[what]
	m.sent[what]++
	m.mu.Unlock()
	takes, err := m.answer(before)
	if !sleep(ctx, takes) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (m *market) requests() (all int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.sent {
		all += n
	}
	return all
}

// Write takes what is logged.
func (m *market) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(b)
}

func (m *market) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.String()
}

// told counts the warnings.
func (m *market) told() int { return strings.Count(m.said(), "level=WARN") }

func (m *market) chooser() *chooser {
	m.sent = map[string]int{}
	g := newGovernor(1)
	return newChooser(&api{
		DescribeSpotPriceHistory: governed(g, classDescribe, "DescribeSpotPriceHistory",
			func(ctx context.Context, in *ec2.DescribeSpotPriceHistoryInput, _ ...func(*nothing)) (*ec2.DescribeSpotPriceHistoryOutput, error) {
				if err := m.ask(ctx, "spot "+string(in.InstanceTypes[0])); err != nil {
					return nil, err
				}
				return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: []types.SpotPrice{spotPrice(string(in.InstanceTypes[0]), "eu-central-1a", "0.05")}}, nil
			}),
		GetProducts: governed(g, classOther, "GetProducts", func(ctx context.Context, in *pricing.GetProductsInput, _ ...func(*nothing)) (*pricing.GetProductsOutput, error) {
			instanceType := ""
			for _, f := range in.Filters {
				if aws.ToString(f.Field) == "instanceType" {
					instanceType = aws.ToString(f.Value)
				}
			}
			if err := m.ask(ctx, "list "+instanceType); err != nil {
				return nil, err
			}
			return &pricing.GetProductsOutput{PriceList: []string{listed(instanceType, "eu-central-1", "Hrs", "0.12")}}, nil
		}),
		DescribeImages: (&cloud{}).describeImages,
	}, Config{}, "eu-central-1", "me", slog.New(slog.NewTextHandler(m, nil)))
}

var errBroken = errors.New("http response error StatusCode: 500")

func broken(int) (time.Duration, error) { return 50 * time.Millisecond, errBroken }
func deaf(int) (time.Duration, error)   { return time.Hour, nil }

// plan asks for the prices of several specs, one after the other.
func plan(t *testing.T, ch *chooser, m Market) {
	t.Helper()
	for i := range 10 {
		s := Spec{Types: []string{"m5.large", fmt.Sprintf("m%d.large", 10+i), fmt.Sprintf("c%d.large", 10+i)}, Market: m}
		if p, err := ch.Price(t.Context(), s); err != nil || p.Running != 0.096 || !strings.Contains(p.Source, "built in") {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestPricesThatCannotBeAskedHoldUpNoPlanAndNoLaunch(t *testing.T) {
	t.Parallel()
	onDemand, bidding := Market{}, Market{Spot: true, OnDemand: true, PriceMultiplier: 1.2, MaxPrice: 1, Product: "Linux/UNIX"}
	for _, tc := range []struct {
		name   string
		answer func(int) (time.Duration, error)
		m      Market
		told   int // by each source that was asked once
	}{
		{"the price list fails", broken, onDemand, 1},
		{"the price list is deaf", deaf, onDemand, 1},
		{"both fail", broken, bidding, 2},
		{"both are deaf", deaf, bidding, 2},
		{"the price list refuses", func(int) (time.Duration, error) { return 0, reply(400, "AccessDeniedException", "") }, onDemand, 1},
		{"all is throttled", func(int) (time.Duration, error) { return 0, reply(400, "ThrottlingException", "") }, bidding, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &market{answer: tc.answer}
				ch := m.chooser()
				began := time.Now()
				plan(t, ch, tc.m)
				if took := time.Since(began); took > priceWait+500*time.Millisecond {
					t.Errorf("a plan took %s", took)
				}
				time.Sleep(11 * time.Second) // all questions have ended
				if m.told() != tc.told {
					t.Errorf("told %d times:\n%s", m.told(), m.said())
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				for what, n := range m.sent {
					if n > 2 && tc.name != "all is throttled" {
						t.Errorf("%s was asked for %d times", what, n)
					}
				}
			})
			synctest.Test(t, func(t *testing.T) {
				ch := (&market{answer: tc.answer}).chooser()
				began := time.Now()
				for i := range 30 { // the choices of one launch
					if got := ch.maxPrice(t.Context(), bidding, fmt.Sprintf("m%d.large", i), "eu-central-1a"); got != "1.0000" {
						t.Errorf("bid %s", got)
					}
				}
				if took := time.Since(began); took > priceWait+500*time.Millisecond {
					t.Errorf("a launch took %s", took)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestPricesOfAServiceThatFalters(t *testing.T) {
	t.Parallel()
	first := func(n int, err error) func(int) (time.Duration, error) {
		return func(before int) (time.Duration, error) {
			if before < n {
				return 100 * time.Millisecond, err
			}
			return 100 * time.Millisecond, nil
		}
	}
	for name, answer := range map[string]func(int) (time.Duration, error){
		"well":                  first(0, nil),
		"a failure":             first(1, errBroken),
		"a refused connection":  first(1, reply(503, "ServiceUnavailable", "")),
		"asked too often":       first(2, reply(400, "ThrottlingException", "")),
		"slow, but soon enough": func(int) (time.Duration, error) { return 1800 * time.Millisecond, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &market{answer: answer}
				p, err := m.chooser().Price(t.Context(), Spec{Types: []string{"m7i.large"}})
				if err != nil || p.Running != 0.12 || p.Source != "on-demand list price" || m.told() != 0 {
					t.Errorf("%+v, %v after %d requests\n%s", p, err, m.requests(), m.said())
				}
			})
		})
	}
}

// TestAPriceThatCameTooLateIsThereForTheNextPlan: whoever asks does not wait, and yet the answer is not lost.
func TestAPriceThatCameTooLateIsThereForTheNextPlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &market{answer: func(int) (time.Duration, error) { return 5 * time.Second, nil }}
		ch := m.chooser()
		s := Spec{Types: []string{"m5.large"}}
		began := time.Now()
		if p, _ := ch.Price(t.Context(), s); p.Running != 0.096 || time.Since(began) != priceWait {
			t.Errorf("%+v after %s", p, time.Since(began))
		}
		time.Sleep(4 * time.Second)
		if p, _ := ch.Price(t.Context(), s); p.Running != 0.12 || m.requests() != 1 {
			t.Errorf("%+v after %d requests", p, m.requests())
		}
	})
}

// TestManyPricesWaitForTheirTurns: the limit of requests is our own, and no reason to give up while there are answers.
func TestManyPricesWaitForTheirTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &market{answer: func(int) (time.Duration, error) { return 300 * time.Millisecond, nil }}
		s := Spec{}
		for i := range 40 {
			s.Types = append(s.Types, fmt.Sprintf("m%d.large", 10+i)) // built in is none of them
		}
		ch := m.chooser()
		began := time.Now()
		if _, err := ch.Price(t.Context(), s); err != nil || len(ch.lists.entries) != len(s.Types) || m.told() != 0 {
			t.Errorf("%v: %d prices of %d after %s\n%s", err, len(ch.lists.entries), len(s.Types), time.Since(began), m.said())
		}
		if time.Since(began) < 5*time.Second {
			t.Error("the turns were not waited for")
		}
	})
}

func TestAPriceSourceThatIsMendedIsAskedAndToldOfAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &market{answer: broken}
		ch := m.chooser()
		price := func(instanceType string) float64 {
			p, err := ch.Price(t.Context(), Spec{Types: []string{instanceType}})
			if err != nil {
				t.Error(err)
			}
			return p.Running
		}
		if price("m7i.large"); m.told() != 1 {
			t.Errorf("told %d times", m.told())
		}
		m.answer = func(int) (time.Duration, error) { return 0, nil }
		time.Sleep(10*time.Minute + time.Second) // a failure is kept for so long
		if got := price("m7i.large"); math.Abs(got-0.12) > 1e-9 {
			t.Errorf("%g when it was mended", got)
		}
		m.answer = broken
		if price("c7i.large"); m.told() != 2 {
			t.Errorf("told %d times", m.told())
		}
	})
}
