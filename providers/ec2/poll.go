package ec2

import (
	"context"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// poller describes all instances of an owner at once, for everybody who asks: a question is answered by a sweep that began after it was asked, and
// sweeps begin at most once in an interval. When nobody asks, nothing is called. A sweep that hangs delays only whom it was for, and them only
// until the next one, which does not wait for it, has an answer.
type poller struct {
	fetch    func(ctx context.Context) ([]seen, error)
	interval time.Duration
	deadline time.Duration // of one sweep
	base     context.Context
	work     *sync.WaitGroup

	mu      sync.Mutex
	started int // number of the sweep that began last
	running map[int]bool
	due     bool // a timer is set to begin the next one
	last    time.Time
	waiting map[*question]bool
}

// question waits for a sweep with a number of at least from.
type question struct {
	from   int
	answer chan swept // buffered
}

// swept is the result of a sweep, which nobody changes.
type swept struct {
	list  []seen
	began time.Time
	err   error
}

// maxSweeps bounds the sweeps that run at once.
const maxSweeps = 4

func newPoller(base context.Context, work *sync.WaitGroup, interval, deadline time.Duration, fetch func(context.Context) ([]seen, error)) *poller {
	return &poller{fetch: fetch, interval: interval, deadline: deadline, base: base, work: work, running: map[int]bool{}, waiting: map[*question]bool{}}
}

// fresh waits for a sweep that began after this call.
func (p *poller) fresh(ctx context.Context) ([]seen, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	q := &question{from: p.started + 1, answer: make(chan swept, 1)}
	p.waiting[q] = true
	p.schedule()
	p.mu.Unlock()
	select {
	case s := <-q.answer:
		return s.list, s.err
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, q)
		p.mu.Unlock()
		return nil, ctx.Err()
	case <-p.base.Done():
		return nil, errClosed
	}
}

// schedule sees to it that a sweep begins for those who wait for one that has not begun. p.mu is held.
func (p *poller) schedule() {
	if p.due || len(p.running) >= maxSweeps || p.base.Err() != nil {
		return
	}
	wanted := false
	for q := range p.waiting {
		wanted = wanted || q.from > p.started
	}
	if !wanted {
		return
	}
	p.due = true
	pause := max(0, time.Until(p.last.Add(p.interval)))
	p.work.Go(func() {
		if pause > 0 && !sleep(p.base, pause) {
			return
		}
		p.sweep()
	})
}

func (p *poller) sweep() {
	p.mu.Lock()
	p.due, p.last = false, time.Now()
	p.started++
	n, began := p.started, p.last
	p.running[n] = true
	patience := time.Duration(len(p.running)) * max(p.interval, hedge) // the more there are, the more of the slowness is our own doing
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(p.base, p.deadline)
	defer cancel()
	p.work.Go(func() { p.another(ctx, patience) })
	list, err := p.fetch(ctx)

	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, n)
	for q := range p.waiting {
		if q.from > n || err != nil && p.later(q, n) {
			continue
		}
		delete(p.waiting, q)
		q.answer <- swept{list, began, err}
	}
	p.schedule()
}

// another begins a sweep beside one that has not answered for a while, for those who still wait. ctx ends with the slow one.
func (p *poller) another(ctx context.Context, patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return
	case <-t.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 && !p.due && len(p.running) < maxSweeps {
		p.due = true
		p.work.Go(p.sweep)
	}
}

// hedge is how long a sweep may take before another one is begun beside it.
const hedge = 5 * time.Second

// later says whether a sweep that runs, other than n, can still answer a question. p.mu is held.
func (p *poller) later(q *question, n int) bool {
	for r := range p.running {
		if r != n && r >= q.from {
			return true
		}
	}
	return false
}

// describeOwner lists every instance of an owner, all pages, in every state.
func (p *provider) describeOwner(ctx context.Context, owner providers.Owner) ([]seen, error) {
	return p.describe(ctx, &ec2.DescribeInstancesInput{
		Filters:    []types.Filter{filter("tag:"+tagOwner, string(owner))},
		MaxResults: aws.Int32(1000),
	}, func(s seen) bool { return s.Owner == string(owner) })
}

// describe lists instances. A page that fails makes the list an error, never a short answer.
func (p *provider) describe(ctx context.Context, in *ec2.DescribeInstancesInput, want func(seen) bool) ([]seen, error) {
	var list []seen
	for range maxPages {
		out, err := p.api.DescribeInstances(ctx, in)
		if err != nil {
			return nil, err
		}
		for i := range out.Reservations {
			for k := range out.Reservations[i].Instances {
				if s, ok := see(&out.Reservations[i].Instances[k]); ok && want(s) {
					list = append(list, s)
				}
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return list, nil
		}
		in.NextToken = out.NextToken
	}
	return nil, providers.Errorf(providers.Unknown, "list", "the list of instances does not end")
}

// maxPages bounds one list.
const maxPages = 200
