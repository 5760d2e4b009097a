package ec2test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// token is what EC2 remembers of a client token. Its mutex makes calls with one token wait for each other.
type token struct {
	sync.Mutex
	params string   // canonical
	ids    []string // what was launched
}

// run launches instances. The manual's words on client tokens: a repeat with the same parameters is answered with what was made; one with other
// parameters is an error.
func (w *World) run(ctx context.Context, form url.Values, f Fault) answer {
	if form.Get("DryRun") == "true" {
		return w.ask(ctx, form)
	}
	name := form.Get("ClientToken")
	if name == "" {
		a, _ := w.launch(ctx, form, f)
		return a
	}
	w.mu.Lock()
	t := w.tokens[name]
	if t == nil {
		t = &token{}
		w.tokens[name] = t
	}
	strict := w.strict
	w.mu.Unlock()
	t.Lock()
	defer t.Unlock()
	if t.params != "" && t.params != canonical(form) {
		return fail(http.StatusBadRequest, "IdempotentParameterMismatch", "The request uses the same client token as a previous, but non-identical request.")
	}
	if t.ids != nil {
		return w.replay(ctx, t.ids)
	}
	a, ids := w.launch(ctx, form, f)
	if t.ids = ids; ids != nil || strict {
		t.params = canonical(form)
	}
	return a
}

// launch has moto make the instances and keeps the books.
func (w *World) launch(ctx context.Context, form url.Values, f Fault) (answer, []string) {
	if a, ok := w.lacking(ctx, form); ok {
		return a, nil
	}
	status, body, err := w.direct.post(ctx, form)
	if err != nil {
		return answer{drop: true}, nil
	}
	n, err := parse(body)
	if err == nil && n.Find("Code").Text == "InvalidInstanceType.NotFound" { // moto's word for it
		return fail(http.StatusBadRequest, "InvalidParameterValue", "Invalid value '%s' for InstanceType.", form.Get("InstanceType")), nil
	}
	if status != http.StatusOK || err != nil {
		return answer{status: status, body: string(body)}, nil
	}
	now := time.Now()
	var ids []string
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range n.instances() {
		id := in.S("instanceId")
		ids = append(ids, id)
		w.launched(id, form, now)
		o := w.overlay(id)
		if w.boot > 0 {
			o.state, o.until = pending, now.Add(w.boot)
		}
		if f.Kind == ListLate {
			w.faulted[ListLate]++
			o.hidden = now.Add(f.For)
		}
	}
	return answer{status: status, body: string(body)}, ids
}

// replay answers as the launch did, with the states of now.
func (w *World) replay(ctx context.Context, ids []string) answer {
	form := url.Values{"Action": {"DescribeInstances"}, "Version": {version}}
	for i, id := range ids {
		form.Set(fmt.Sprintf("InstanceId.%d", i+1), id)
	}
	status, body, err := w.direct.post(ctx, form)
	if err != nil {
		return answer{drop: true}
	}
	n, err := parse(body)
	if status != http.StatusOK || err != nil {
		return answer{status: status, body: string(body)}
	}
	r := n.Get("reservationSet", "item")
	if r == nil {
		return fail(http.StatusInternalServerError, "InternalError", "the reservation is gone")
	}
	for _, in := range r.instances() {
		w.paint(in, time.Now())
	}
	out := &Node{Name: "RunInstancesResponse", Kids: append([]*Node{{Name: "requestId", Text: "ec2test"}}, r.Kids...)}
	return answer{status: http.StatusOK, body: out.render()}
}

// short is EC2's answer when it has no such machine.
func short(typ, zone string) answer {
	return fail(http.StatusInternalServerError, "InsufficientInstanceCapacity", "We currently do not have sufficient %s capacity in the Availability Zone "+
		"you requested (%s). Our system will be working on provisioning additional capacity.", typ, zone)
}

// lacking is what EC2 refuses and moto does not: no capacity, key pairs and security groups that are not there.
func (w *World) lacking(ctx context.Context, form url.Values) (answer, bool) {
	want := Shortage{Type: form.Get("InstanceType"), Zone: w.zone(ctx, form), Market: "on-demand"}
	if form.Get("InstanceMarketOptions.MarketType") == "spot" {
		want.Market = "spot"
	}
	w.mu.Lock()
	shortages := w.shortages
	w.mu.Unlock()
	for _, s := range shortages {
		if (s.Type == "" || s.Type == want.Type) && (s.Zone == "" || s.Zone == want.Zone) && (s.Market == "" || s.Market == want.Market) {
			return short(want.Type, want.Zone), true
		}
	}
	if key := form.Get("KeyName"); key != "" {
		if _, err := w.direct.Call(ctx, "DescribeKeyPairs", "KeyName.1", key); Code(err) == "InvalidKeyPair.NotFound" {
			return fail(http.StatusBadRequest, "InvalidKeyPair.NotFound", "The key pair '%s' does not exist", key), true
		}
	}
	for _, g := range list(form, "SecurityGroup") {
		if n, err := w.direct.Call(ctx, "DescribeSecurityGroups", "Filter.1.Name", "group-name", "Filter.1.Value.1", g); err == nil && len(n.Get("securityGroupInfo").kids()) == 0 {
			return fail(http.StatusBadRequest, "InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC", g), true
		}
	}
	return answer{}, false
}

func (n *Node) kids() []*Node {
	if n == nil {
		return nil
	}
	return n.Kids
}

// zone is where a launch would be.
func (w *World) zone(ctx context.Context, form url.Values) string {
	if z := form.Get("Placement.AvailabilityZone"); z != "" {
		return z
	}
	subnet := form.Get("SubnetId")
	if subnet == "" {
		subnet = form.Get("NetworkInterface.1.SubnetId")
	}
	if subnet == "" {
		return Region + "a"
	}
	w.mu.Lock()
	z, ok := w.zones[subnet]
	w.mu.Unlock()
	if ok {
		return z
	}
	if n, err := w.direct.Call(ctx, "DescribeSubnets", "SubnetId.1", subnet); err == nil {
		z = n.Find("availabilityZone").Text
		w.mu.Lock()
		w.zones[subnet] = z
		w.mu.Unlock()
	}
	return z
}
