package main

import (
	"testing"
	"time"

	"github.com/rouse-ci/rouse/master/api"
)

func TestStatusSaysWhatOfAHostIsTakenAndSinceWhenItIsDown(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	for _, c := range []struct {
		host api.Host
		want string
	}{
		{api.Host{Instances: 1}, "1 instance taken"},
		{api.Host{Instances: 3, VCPUs: 5, Memory: 3 << 30}, "3 instances taken"},
		{api.Host{Instances: 1, Slots: 1, VCPUs: 1, VCPULimit: 1}, "1 of 1 slot, 1 of 1 vcpu taken"},
		{api.Host{Instances: 2, Slots: 4, VCPUs: 3, VCPULimit: 8, Memory: 1536 << 20, MemoryLimit: 16 << 30}, "2 of 4 slots, 3 of 8 vcpus, 1.5 GiB of 16 GiB of memory taken"},
		{api.Host{Down: true, DownSince: now.Add(-90 * time.Second), Slots: 2}, "cannot be reached since 2026-11-21 11:58:30 (1m30s): nothing new begins there; 0 of 2 slots taken"},
	} {
		if got := hostText(c.host, now); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}
