package ec2

import (
	"context"

	"github.com/rouse-ci/rouse/providers"
)

// Rooms implements providers.Roomer: max_instances is all that is shared.
func (p *provider) Rooms(context.Context) ([]providers.Room, error) {
	if p.cfg.MaxInstances == 0 {
		return nil, nil
	}
	return []providers.Room{{Name: providers.LimitRoom, Slots: int(p.cfg.MaxInstances)}}, nil
}

// room is where all instances are.
func (p *provider) room() string {
	if p.cfg.MaxInstances == 0 {
		return ""
	}
	return providers.LimitRoom
}
