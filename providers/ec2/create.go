package ec2

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// Create implements providers.Provider.
//
// One key is launched at most once, whatever is lost:
//
//  1. Creates of one key go one after another (the lock of its directory, across processes).
//  2. The account is asked for the key first, so an instance that an earlier Create has made is found by its tag.
//  3. An attempt (a choice of type, place, market and image, and a client token made of key and number) is written down before it is sent. As long as it is
//     open, only the very same attempt is repeated, for which EC2 makes no second instance.
//  4. The next attempt begins only after EC2 has refused the last one. If a reply of it was lost, a request may still be on its way: then the
//     refusal counts only when the settle time has passed since, and until then the outcome is unknown.
//  5. Once an instance is known, or a Destroy was accepted, nothing is launched for the key any more.
func (p *provider) Create(ctx context.Context, req providers.CreateRequest) (providers.Instance, error) {
	const op = "create"
	s, err := checkSpec(op, req.Spec)
	switch {
	case err != nil:
		return providers.Instance{}, err
	case !req.Key.Valid():
		return providers.Instance{}, providers.Errorf(providers.BadConfig, op, "the key %.140q is malformed", string(req.Key))
	case req.Owner == "" || req.Owner != p.owner:
		return providers.Instance{}, providers.Errorf(providers.BadConfig, op, "the owner %.140q is not the one that this provider was opened for", string(req.Owner))
	case len([]rune(req.Worker)) > 256 || len([]rune(string(req.Owner))) > 256:
		return providers.Instance{}, providers.Errorf(providers.BadConfig, op, "owner or worker is longer than the 256 characters of a tag")
	case p.base.Err() != nil:
		return providers.Instance{}, providers.Errorf(providers.Transient, op, "%w", errClosed)
	}
	unlock, err := p.journal.lock(ctx, req.Key)
	if err != nil {
		return providers.Instance{}, providers.Errorf(providers.Unknown, op, "%w", err) // another Create of this key may be under way
	}
	defer unlock()
	if p.journal.doomed(req.Key) {
		return p.remains(req.Key, req.Worker), nil
	}
	r, err := p.journal.load(req.Key)
	if err != nil {
		return providers.Instance{}, providers.Errorf(providers.Unknown, op, "%w", err)
	}
	open := p.unresolved(r)
	if r == nil {
		r = &record{Key: req.Key, Worker: req.Worker, Since: time.Now().UTC().Truncate(time.Second)}
	}
	in, err := p.make(ctx, req, s, r)
	if err != nil && open && r.Open { // what an earlier Create has sent may still be done, whatever stood in the way of this one
		err = &providers.Error{Class: providers.Unknown, Op: op, Err: err}
	}
	return in, err
}

// make returns the key's instance, or launches it.
func (p *provider) make(ctx context.Context, req providers.CreateRequest, s Spec, r *record) (providers.Instance, error) {
	if in, found, err := p.existing(ctx, req.Key, r); found || err != nil {
		return in, err
	}
	done, err := p.admit(ctx, req.Key)
	if err != nil {
		return providers.Instance{}, err
	}
	defer done()
	return p.launch(ctx, req, s, r)
}

// unresolved says whether an attempt that was written down, or of which a reply was lost, may still come to something.
func (p *provider) unresolved(r *record) bool {
	if r == nil || !r.Open {
		return false
	}
	sent, err := p.journal.changed(r.Key)
	return err != nil || time.Since(sent) < p.cfg.Settle
}

// existing looks for what earlier Creates of this key have made.
func (p *provider) existing(ctx context.Context, key providers.Key, r *record) (providers.Instance, bool, error) {
	found, err := p.lookup(ctx, key)
	if err != nil {
		return providers.Instance{}, false, fail("create", err, "look for an instance with this key")
	}
	var mine *seen
	for i, s := range found {
		if s.Owner != string(p.owner) {
			return providers.Instance{}, true, providers.Errorf(providers.BadConfig, "create", "the key %s belongs to an instance of another owner, %s", key, s.ID)
		}
		if mine == nil || mine.leaving() && !s.leaving() {
			mine = &found[i]
		}
	}
	switch {
	case mine != nil:
		if r.ID == "" {
			r.ID, r.Open, r.Launched = mine.ID, false, time.Now()
			if err := p.journal.save(r); err != nil {
				return providers.Instance{}, true, providers.Errorf(providers.Unknown, "create", "%w", err)
			}
		}
		p.memory.saw(*mine)
		return p.show(*mine), true, nil
	case r.ID != "" && time.Since(r.Launched) < p.cfg.Settle:
		return p.fresh(r), true, nil
	case r.ID != "": // it has ended, and EC2 has forgotten it
		return providers.Instance{Key: key, ID: r.ID, Worker: r.Worker, State: providers.Gone, CreatedAt: r.Launched, Detail: "EC2 does not list it any more"}, true, nil
	}
	return providers.Instance{}, false, nil
}

// launch tries one choice after another.
func (p *provider) launch(ctx context.Context, req providers.CreateRequest, s Spec, r *record) (providers.Instance, error) {
	const op = "create"
	todo := s.choices(p.region)
	var no refused
	for {
		if !r.Open {
			c, ok := p.choose(&todo, &no)
			if !ok {
				return providers.Instance{}, providers.Errorf(no.class(), op, "EC2 has no place: %s", strings.Join(no.reasons, "; "))
			}
			image, err := p.image(ctx, s)
			if err != nil {
				return providers.Instance{}, err
			}
			c.Image = image.ID
			if c.Market == spot {
				c.MaxPrice = p.maxPrice(ctx, s.Market, c.Type, c.Zone)
			}
			r.Attempt++
			r.Choice, r.Open, r.Uncertain = c, true, time.Time{}
			r.IP, r.Volume = s.ElasticIP, s.Volumes
			r.Care = r.IP != "" || len(r.Volume) > 0
		}
		in, err := p.attempt(ctx, req, s, r)
		if err == nil {
			return in, nil
		}
		class := providers.ClassOf(err)
		if class != providers.NoCapacity && class != providers.OverQuota {
			return in, err
		}
		no.add(r.Choice, class, describe(err))
	}
}

// refused collects why choices cannot be had.
type refused struct {
	reasons  []string
	capacity bool // some refusal is not about our own limits
}

func (n *refused) add(c choice, class providers.Class, why string) {
	n.reasons = append(n.reasons, c.String()+": "+why)
	n.capacity = n.capacity || class != providers.OverQuota
}

func (n *refused) class() providers.Class {
	if n.capacity {
		return providers.NoCapacity
	}
	return providers.OverQuota
}

// choose takes the first choice of todo that was not refused lately, and notes why others were passed over.
func (p *provider) choose(todo *[]choice, no *refused) (choice, bool) {
	now := time.Now()
	for len(*todo) > 0 {
		c := (*todo)[0]
		*todo = (*todo)[1:]
		why, class, ok := p.refusals.pass(c, now)
		if ok {
			return c, true
		}
		no.add(c, class, why)
	}
	return choice{}, false
}

// attempt sends the record's attempt. An error of class NoCapacity or OverQuota means that the next choice may be tried.
func (p *provider) attempt(ctx context.Context, req providers.CreateRequest, s Spec, r *record) (providers.Instance, error) {
	const op = "create"
	in, err := p.launchInput(req, s, r)
	if err != nil {
		return providers.Instance{}, providers.Errorf(providers.BadConfig, op, "%w", err)
	}
	if err := p.journal.save(r); err != nil {
		return providers.Instance{}, providers.Errorf(providers.Transient, op, "write down what will be launched: %w", err)
	}
	if p.journal.doomed(req.Key) {
		return p.remains(req.Key, req.Worker), nil
	}
	call, cancel := context.WithTimeout(ctx, p.launchTimeout(ctx))
	defer cancel()
	out, err := p.api.RunInstances(call, in)
	now := time.Now()
	if err == nil && (len(out.Instances) != 1 || aws.ToString(out.Instances[0].InstanceId) == "") {
		err = &callError{op: "RunInstances", err: fmt.Errorf("the answer has %d instances, not one", len(out.Instances)), uncertain: true}
	}
	if err == nil {
		p.refusals.settled(r.Choice, true)
		return p.launched(req, r, &out.Instances[0], now)
	}
	p.refusals.settled(r.Choice, false)
	return p.refused(ctx, req, s, r, err, now)
}

// launchTimeout leaves time to write down the outcome before the caller's deadline.
func (p *provider) launchTimeout(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		if left := time.Until(end); left > 10*time.Second {
			return left - 2*time.Second
		}
	}
	return p.cfg.limits().CreateTimeout
}

// launched notes the instance that there is now.
func (p *provider) launched(req providers.CreateRequest, r *record, in *types.Instance, now time.Time) (providers.Instance, error) {
	r.ID, r.Launched, r.Open, r.Uncertain = aws.ToString(in.InstanceId), now.UTC(), false, time.Time{}
	s, ok := see(in)
	if !ok { // the tags are part of the call; an answer without them is still about this instance
		s.ID, s.Key, s.Owner, s.Worker = r.ID, req.Key, string(req.Owner), req.Worker
	}
	if s.State == "" {
		s.State = types.InstanceStateNamePending
	}
	if s.Launched.IsZero() {
		s.Launched = r.Launched
	}
	p.memory.launched(s, now)
	if err := p.journal.save(r); err != nil {
		p.log.Error("the launched instance is not written down; its tags say whose it is", "instance", req.Key, "id", r.ID, "error", err)
	}
	p.log.Info("launched", "instance", req.Key, "worker", req.Worker, "id", r.ID, "choice", r.Choice.String(), "image", r.Choice.Image, "attempt", r.Attempt)
	if p.journal.doomed(req.Key) { // while the call was under way
		p.work.Go(func() { _ = p.Destroy(p.base, req.Key) })
		return p.remains(req.Key, req.Worker), nil
	}
	if r.Care {
		p.work.Go(func() { p.care(*r) })
	}
	return p.show(s), nil
}

// refused decides what an error of a launch means for its attempt.
func (p *provider) refused(ctx context.Context, req providers.CreateRequest, s Spec, r *record, err error, now time.Time) (providers.Instance, error) {
	const op = "create"
	code := codeOf(err)
	classed := fail(op, err, "launch %s", r.Choice)
	class := classOfAnswer(err)
	var ce *callError
	if errors.As(err, &ce) && ce.uncertain || class == providers.Unknown {
		r.Uncertain = now.UTC()
	}
	waits := !r.Uncertain.IsZero() && now.Sub(r.Uncertain) < p.cfg.Settle
	switch {
	case code == "IdempotentParameterMismatch":
		// Something was launched with this token, with other parameters: by an earlier Create whose record was lost or whose configuration was
		// another one. Its tags say what it is.
		if in, found, err := p.existing(ctx, req.Key, r); found || err != nil {
			return in, err
		}
		if now.Sub(r.Since) > p.cfg.Settle && !waits {
			r.Open = false // nothing has come of it
		}
	case waits, class == providers.Unknown:
		// A request of this attempt may still take effect: it stays open, and is repeated as it is.
		classed = &providers.Error{Class: providers.Unknown, Op: op, Err: classed}
	default:
		r.Open = false
	}
	if e := p.journal.save(r); e != nil {
		p.log.Error("the outcome of a launch is not written down", "instance", req.Key, "error", e)
	}
	if r.Open {
		return providers.Instance{}, classed
	}
	switch class {
	case providers.NoCapacity, providers.OverQuota:
		p.refusals.refused(r.Choice, class, describe(err), now)
		p.log.Warn("EC2 refuses a launch", "instance", req.Key, "choice", r.Choice.String(), "error", describe(err))
	case providers.BadConfig:
		if strings.HasPrefix(code, "InvalidAMIID") {
			p.forgetImage(s)
		}
	}
	return providers.Instance{}, classed
}

// admit holds max_instances, counting what lives and what is being launched.
func (p *provider) admit(ctx context.Context, key providers.Key) (done func(), err error) {
	if p.cfg.MaxInstances == 0 {
		return func() {}, nil
	}
	list, err := p.poll.fresh(ctx)
	if err != nil {
		return nil, fail("create", err, "count instances for max_instances")
	}
	if !p.memory.admit(key, list, p.cfg.MaxInstances, time.Now(), p.cfg.Settle) {
		return nil, providers.Errorf(providers.OverQuota, "create", "there are %d instances, as many as max_instances allows", p.cfg.MaxInstances)
	}
	return func() { p.memory.admitted(key) }, nil
}

// lookup asks for instances with this key, of any owner and in any state. Questions that come together are one call.
func (p *provider) lookup(ctx context.Context, key providers.Key) ([]seen, error) {
	return p.looks.do(ctx, string(key))
}

func (p *provider) lookupKeys(ctx context.Context, keys []string) (map[string][]seen, error) {
	list, err := p.describe(ctx, &ec2.DescribeInstancesInput{
		Filters: []types.Filter{filter("tag:"+tagKey, keys...)}, MaxResults: aws.Int32(1000),
	}, func(seen) bool { return true })
	if err != nil {
		return nil, err
	}
	m := map[string][]seen{}
	for _, s := range list {
		m[string(s.Key)] = append(m[string(s.Key)], s)
	}
	return m, nil
}
