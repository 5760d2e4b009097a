package ec2

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// Destroy implements providers.Provider. Terminating comes first and waits for nothing else: not for a Create that is under way, not for an address.
// NotFound is certain: EC2 says terminated, or it has not listed the instance for the settle time after anything was last heard of it.
func (p *provider) Destroy(ctx context.Context, key providers.Key) error {
	const op = "destroy"
	gone := func(why string) error {
		return providers.Errorf(providers.NotFound, op, "no instance %q: %s", clip(string(key), 140), why)
	}
	switch {
	case !key.Valid():
		return gone("the key is malformed")
	case p.base.Err() != nil:
		return providers.Errorf(providers.Transient, op, "%w", errClosed)
	}
	k, known := p.memory.find(key)
	if known && k.seen.over() {
		return p.end(key, gone)
	}
	if known && k.asked.IsZero() && k.seen.ID != "" { // the first order needs no look: the tags were seen, or were in our launch
		return p.terminate(ctx, key, k.seen.ID)
	}
	list, err := p.poll.fresh(ctx)
	if err != nil {
		return fail(op, err, "look for the instance")
	}
	var live []string
	over := false
	for _, s := range list {
		if s.Key == key {
			p.memory.saw(s)
			over = over || s.over()
			if !s.over() {
				live = append(live, s.ID)
			}
		}
	}
	if len(live) > 0 {
		return p.terminate(ctx, key, live...)
	}
	if over {
		return p.end(key, gone)
	}
	return p.missing(ctx, key, gone)
}

// end is said when nothing is left.
func (p *provider) end(key providers.Key, gone func(string) error) error {
	if err := p.journal.doom(key); err != nil { // else its end would be shown as a failure, and a late Create would not know
		return providers.Errorf(providers.Transient, "destroy", "write down that it is gone: %w", err)
	}
	p.memory.change(key, func(k *known) { k.asked = time.Now() })
	return gone("it is terminated")
}

// missing decides about a key that EC2 does not list.
func (p *provider) missing(ctx context.Context, key providers.Key, gone func(string) error) error {
	const op = "destroy"
	r, err := p.journal.load(key)
	if err != nil {
		return providers.Errorf(providers.Unknown, op, "%w", err)
	}
	k, known := p.memory.find(key)
	last, id := k.at, k.seen.ID
	if r != nil {
		for _, t := range []time.Time{r.Launched, r.Uncertain} {
			if t.After(last) {
				last = t
			}
		}
		if sent, err := p.journal.changed(key); r.Open && err == nil && sent.After(last) { // by a process that may be dead
			last = sent
		}
		if id == "" {
			id = r.ID
		}
	}
	if !known && r == nil || time.Since(last) > p.cfg.Settle {
		if r != nil {
			if err := p.journal.doom(key); err != nil {
				return providers.Errorf(providers.Transient, op, "write down that it is gone: %w", err)
			}
		}
		return gone("EC2 does not list it")
	}
	if id != "" {
		return p.terminate(ctx, key, id)
	}
	if err := p.journal.doom(key); err != nil {
		return providers.Errorf(providers.Transient, op, "write down the order: %w", err)
	}
	return nil // a launch may still show up; until the settle time has passed, nobody may say that it is gone
}

// terminate writes the order down and gives it to EC2, together with those of others.
func (p *provider) terminate(ctx context.Context, key providers.Key, ids ...string) error {
	const op = "destroy"
	if err := p.journal.doom(key); err != nil {
		return providers.Errorf(providers.Transient, op, "write down the order: %w", err)
	}
	for _, id := range ids {
		state, err := p.ends.do(ctx, id)
		if err != nil && codeOf(err) == "InvalidInstanceID.NotFound" {
			continue // not visible yet, or no more: the next look decides
		}
		if err != nil {
			return fail(op, err, "terminate %s", id)
		}
		p.memory.change(key, func(k *known) {
			if k.seen.ID == id {
				k.asked = time.Now()
				if state != "" {
					s := k.seen
					s.State = state
					k.update(s, time.Now())
				}
			}
		})
	}
	p.log.Info("terminated", "instance", key, "ids", ids)
	p.release(key)
	return nil
}

// terminateBatch is one call for many instances. EC2 terminates all of them or, if it does not know one, none.
func (p *provider) terminateBatch(ctx context.Context, ids []string) (map[string]types.InstanceStateName, error) {
	out, err := p.api.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	if err != nil {
		return nil, err
	}
	m := map[string]types.InstanceStateName{}
	for _, c := range out.TerminatingInstances {
		if c.CurrentState != nil {
			m[aws.ToString(c.InstanceId)] = c.CurrentState.Name
		}
	}
	return m, nil
}
