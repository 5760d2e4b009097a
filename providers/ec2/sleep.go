package ec2

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

// CanSleep implements providers.SleepKind.
func (Kind) CanSleep(_, spec any, hibernate bool) error {
	s, ok := spec.(Spec)
	switch {
	case !ok:
		return errors.New("this is not an instance of EC2")
	case s.Market.Spot:
		return errors.New("a one-time spot instance cannot be stopped and started again; leave the spot options away, or use idle = \"terminate\"")
	case hibernate && !s.Hibernation:
		return errors.New("hibernation must be prepared at launch: set hibernation = true in the instance block; the root volume must be encrypted")
	}
	return nil
}

// Stop implements providers.Sleeper. The agent's systemd unit starts again with the machine.
func (p *provider) Stop(ctx context.Context, key providers.Key, hibernate bool) error {
	const op = "stop"
	s, err := p.find(ctx, op, key)
	if err != nil {
		return err
	}
	switch s.State {
	case types.InstanceStateNameStopping, types.InstanceStateNameStopped:
		return nil
	case types.InstanceStateNamePending:
		return providers.Errorf(providers.Transient, op, "%s is still pending", s.ID)
	case types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated:
		return providers.Errorf(providers.NotFound, op, "%s is %s", s.ID, s.State)
	}
	call, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	in := &ec2.StopInstancesInput{InstanceIds: []string{s.ID}}
	if hibernate {
		in.Hibernate = aws.Bool(true)
	}
	if _, err := p.api.StopInstances(call, in); err != nil {
		return fail(op, err, "stop %s", s.ID)
	}
	p.log.Info("stopped", "instance", key, "id", s.ID, "hibernate", hibernate)
	return nil
}

// Start implements providers.Sleeper. The machine has its agent's configuration on its disk, so agent is not needed. Its elastic IP has stayed with it.
func (p *provider) Start(ctx context.Context, key providers.Key, _ providers.Agent) (providers.Instance, error) {
	const op = "start"
	s, err := p.find(ctx, op, key)
	if err != nil {
		return providers.Instance{}, err
	}
	switch s.State {
	case types.InstanceStateNamePending, types.InstanceStateNameRunning:
		return p.show(s), nil
	case types.InstanceStateNameStopping:
		return providers.Instance{}, providers.Errorf(providers.Transient, op, "%s is still stopping", s.ID)
	case types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated:
		return providers.Instance{}, providers.Errorf(providers.NotFound, op, "%s is %s", s.ID, s.State)
	}
	if p.journal.doomed(key) {
		return providers.Instance{}, providers.Errorf(providers.NotFound, op, "the end of %s was ordered", s.ID)
	}
	call, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	if _, err := p.api.StartInstances(call, &ec2.StartInstancesInput{InstanceIds: []string{s.ID}}); err != nil {
		return providers.Instance{}, fail(op, err, "start %s", s.ID)
	}
	p.log.Info("started", "instance", key, "id", s.ID)
	s.State, s.Reason = types.InstanceStateNamePending, ""
	return p.show(s), nil
}

// Console implements providers.ConsoleReader: the newest that there is, or, where the type of machine cannot say that, what EC2 keeps.
func (p *provider) Console(ctx context.Context, key providers.Key) ([]byte, error) {
	const op = "console"
	s, err := p.find(ctx, op, key)
	if err != nil {
		return nil, err
	}
	call, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	out, err := p.api.GetConsoleOutput(call, &ec2.GetConsoleOutputInput{InstanceId: aws.String(s.ID), Latest: aws.Bool(true)})
	if code := codeOf(err); code == "UnsupportedOperation" || code == "InvalidParameterCombination" || code == "InvalidParameterValue" {
		out, err = p.api.GetConsoleOutput(call, &ec2.GetConsoleOutputInput{InstanceId: aws.String(s.ID)})
	}
	if err != nil {
		return nil, fail(op, err, "read the console of %s", s.ID)
	}
	return consoleText(aws.ToString(out.Output))
}
