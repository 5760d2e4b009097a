package ec2

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/rouse-ci/rouse/providers"
)

const (
	healthEvery  = time.Minute // while anybody asks for instances at all
	healthDenied = time.Hour   // until it is asked again after a refusal: the instances work without
)

// health asks now and then which instances EC2 has found to be impaired: two small calls for the whole account. It is shown in the instances'
// detail. No sweep waits for it.
func (p *provider) health(list []seen) {
	running := false
	for _, s := range list {
		running = running || s.State == types.InstanceStateNameRunning
	}
	now := time.Now()
	p.memory.mu.Lock()
	due := running && now.After(p.memory.healthAt)
	if due {
		p.memory.healthAt = now.Add(healthEvery)
	}
	p.memory.mu.Unlock()
	if due && p.base.Err() == nil {
		p.work.Go(p.askHealth)
	}
}

func (p *provider) askHealth() {
	ctx, cancel := context.WithTimeout(p.base, p.cfg.CallTimeout)
	defer cancel()
	impaired := map[string]string{}
	for _, check := range []string{"system-status.status", "instance-status.status"} {
		in := &ec2.DescribeInstanceStatusInput{Filters: []types.Filter{filter(check, string(types.SummaryStatusImpaired))}, MaxResults: aws.Int32(1000)}
		for range maxPages {
			out, err := p.api.DescribeInstanceStatus(ctx, in)
			if err != nil {
				p.log.Debug("which instances are impaired is not known", "error", describe(err))
				if classOfAnswer(err) == providers.Unauthorized {
					p.memory.mu.Lock()
					p.memory.healthAt = time.Now().Add(healthDenied)
					p.memory.mu.Unlock()
				}
				return
			}
			for _, s := range out.InstanceStatuses {
				if text := impairment(s); text != "" {
					impaired[aws.ToString(s.InstanceId)] = text
				}
			}
			if aws.ToString(out.NextToken) == "" {
				break
			}
			in.NextToken = out.NextToken
		}
	}
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	p.memory.impaired = impaired
}

// impairment says for people what is wrong with an instance, or "".
func impairment(s types.InstanceStatus) string {
	switch {
	case s.SystemStatus != nil && s.SystemStatus.Status == types.SummaryStatusImpaired:
		return "impaired: EC2's checks of its host fail"
	case s.InstanceStatus != nil && s.InstanceStatus.Status == types.SummaryStatusImpaired:
		return "impaired: EC2 does not reach it over its network"
	}
	return ""
}
