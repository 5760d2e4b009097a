package ec2

import (
	"cmp"
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

// careFor is how long address and volumes of an instance are tried: the instance that had them before may take minutes to let go.
const careFor = 15 * time.Minute

// care attaches what can only be attached to an instance that runs: its elastic IP and its volumes. It works beside everything else, and what goes
// wrong is shown in the instance's detail. It never stands in the way of a Destroy.
func (p *provider) care(r record) {
	ctx, cancel := context.WithTimeout(p.base, careFor)
	defer cancel()
	todo := map[string]func(context.Context) error{}
	if r.IP != "" {
		todo["elastic IP "+r.IP] = func(ctx context.Context) error { return p.associate(ctx, &r) }
	}
	for _, v := range r.Volume {
		todo["volume "+v.ID] = func(ctx context.Context) error { return p.attach(ctx, r.ID, v) }
	}
	pause := time.Second
	for len(todo) > 0 {
		runs, gone := p.running(ctx, r.Key)
		if gone || p.journal.doomed(r.Key) {
			return
		}
		var notes []string
		for what, do := range todo {
			if !runs {
				break
			}
			if err := do(ctx); err != nil {
				notes = append(notes, what+" is not attached: "+describe(err))
				continue
			}
			delete(todo, what)
		}
		p.memory.change(r.Key, func(k *known) {
			if runs {
				k.note = strings.Join(notes, "; ")
			}
			k.assoc = r.Assoc
		})
		if len(todo) == 0 {
			break
		}
		if len(notes) > 0 {
			p.log.Warn("not everything is attached yet", "instance", r.Key, "id", r.ID, "detail", strings.Join(notes, "; "))
			pause = min(2*pause, 30*time.Second)
		}
		if runs && !sleep(ctx, pause) || ctx.Err() != nil {
			return
		}
	}
	p.cared(&r)
}

// running asks the common poll.
func (p *provider) running(ctx context.Context, key providers.Key) (runs, gone bool) {
	s, err := p.find(ctx, "get", key)
	switch {
	case providers.ClassOf(err) == providers.NotFound:
		return false, true
	case err != nil:
		return false, !sleep(ctx, time.Second)
	}
	return s.State == types.InstanceStateNameRunning, s.leaving()
}

// cared writes down that nothing is left to attach.
func (p *provider) cared(r *record) {
	unlock, err := p.journal.lock(p.base, r.Key)
	if err != nil {
		return
	}
	defer unlock()
	now, err := p.journal.load(r.Key)
	if err != nil || now == nil {
		return
	}
	now.Care, now.Assoc = false, r.Assoc
	if err := p.journal.save(now); err != nil {
		p.log.Warn("what is attached is not written down", "instance", r.Key, "error", err)
	}
}

// associate gives the instance its elastic IP, unless another one has it: an address is never taken away.
func (p *provider) associate(ctx context.Context, r *record) error {
	in := &ec2.DescribeAddressesInput{PublicIps: []string{r.IP}}
	if strings.HasPrefix(r.IP, "eipalloc-") {
		in = &ec2.DescribeAddressesInput{AllocationIds: []string{r.IP}}
	}
	call, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	out, err := p.api.DescribeAddresses(call, in)
	if err != nil {
		return err
	}
	if len(out.Addresses) != 1 {
		return errors.New("there is no such address in this account and region")
	}
	a := out.Addresses[0]
	switch holder := aws.ToString(a.InstanceId); {
	case holder == r.ID:
		r.Assoc = aws.ToString(a.AssociationId)
		return nil
	case holder != "" || aws.ToString(a.AssociationId) != "":
		return fmt.Errorf("%s has it", cmp.Or(holder, aws.ToString(a.NetworkInterfaceId), "something else"))
	}
	got, err := p.api.AssociateAddress(call, &ec2.AssociateAddressInput{
		AllocationId: a.AllocationId, InstanceId: aws.String(r.ID), AllowReassociation: aws.Bool(false),
	})
	if err != nil {
		return err
	}
	r.Assoc = aws.ToString(got.AssociationId)
	p.log.Info("elastic IP associated", "instance", r.Key, "id", r.ID, "address", r.IP)
	return nil
}

// attach attaches one volume.
func (p *provider) attach(ctx context.Context, id string, v Volume) error {
	call, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	out, err := p.api.DescribeVolumes(call, &ec2.DescribeVolumesInput{VolumeIds: []string{v.ID}})
	if err != nil {
		return err
	}
	for _, have := range out.Volumes {
		for _, a := range have.Attachments {
			if aws.ToString(a.InstanceId) == id {
				return nil
			}
		}
	}
	_, err = p.api.AttachVolume(call, &ec2.AttachVolumeInput{InstanceId: aws.String(id), VolumeId: aws.String(v.ID), Device: aws.String(v.Device)})
	return err
}

// release gives the address back a little earlier than EC2 would, which does it when the instance has ended. An association's ID is never
// used again, so this cannot take the address from another instance.
func (p *provider) release(key providers.Key) {
	assoc := ""
	p.memory.change(key, func(k *known) { assoc, k.assoc = k.assoc, "" })
	if assoc == "" {
		r, err := p.journal.load(key)
		if err != nil || r == nil || r.Assoc == "" {
			return
		}
		assoc = r.Assoc
	}
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(p.base, p.cfg.CallTimeout)
		defer cancel()
		if _, err := p.api.DisassociateAddress(ctx, &ec2.DisassociateAddressInput{AssociationId: aws.String(assoc)}); err != nil {
			p.log.Debug("the elastic IP is left to EC2", "instance", key, "error", describe(err))
		}
	})
}
