// Package ec2 is a provider whose instances are virtual machines of Amazon's EC2, or of anything that speaks its API.
//
// What holds, whatever is lost on the way:
//
//   - No instance is anonymous. Owner, key, worker and expiry are tags of the instance, its volumes, its network interface and its spot request, given in the
//     one call that makes them.
//   - One key is launched at most once (see Create): an attempt is written down before it is sent, carries a client token made of the key, and is repeated as
//     it is until EC2 has refused it. Only then another type, place or market is tried.
//   - Nothing is launched for a key whose Destroy was accepted: the order is on the disk before it is given.
//   - Terminating waits for nothing: not for a create under way, not for an elastic IP, not for others' calls. It has clients and a budget of its own.
//   - NotFound is certain: EC2 says terminated, or has not listed the key for the settle time.
//   - Nothing with another owner's tag is touched: lists are filtered by owner at EC2, and again here.
//   - The agent's token is in the user data and nowhere else: not in a tag, a log, a file of the master.
//   - EC2 is asked seldom: one list for everybody who asks within an interval, terminations merged, every operation in a bucket of the size that AWS
//     documents. An instance costs three calls or fewer: a launch, shares of a look for its key, of the lists, and of a termination.
//
// The files: config.go, spec.go and decode*.go are what a configuration may say; credentials.go, api.go and govern.go how AWS is called; errors.go what its
// answers mean; create.go, launch.go, refusals.go, userdata.go a launch; poll.go, seen.go, memory.go, health.go what is known of instances; destroy.go, batch.go their
// end; care.go addresses and volumes; sleep.go stopping and starting; record.go what must survive a restart; ami.go, images.go, spot.go, price*.go,
// check*.go which image, at which price, and whether it would work.
//
// It may be called with the least of rights: contrib/ec2/policy.json names exactly the actions that api.go calls, and lets instances be ended, stopped
// and given addresses only if they carry rouse's tags.
//
// It knows the provider contract and the AWS SDK, and nothing of the master. It is the only package that imports the SDK.
package ec2

import (
	"maps"

	"github.com/rouse-ci/rouse/providers"
)

// Kind is the provider kind "ec2".
type Kind struct{}

// Name implements providers.Kind.
func (Kind) Name() string { return "ec2" }

// Names of the tags that every instance, volume and network interface carries from the call that makes it.
const (
	tagPrefix = "rouse:"
	tagOwner  = "rouse:owner"  // providers.Owner
	tagKey    = "rouse:key"    // providers.Key
	tagWorker = "rouse:worker" // the worker's name
	tagExpiry = "rouse:expiry" // RFC 3339: without a master the agent has ended its machine by then; for people and for other clean-up tools

	maxUserTags = 42
)

// Markets of an instance.
const (
	onDemand = "on-demand"
	spot     = "spot"
)

var (
	_ providers.Kind          = Kind{}
	_ providers.PlaceKind     = Kind{}
	_ providers.SleepKind     = Kind{}
	_ providers.ExclusiveKind = Kind{}
	_ providers.Provider      = (*provider)(nil)
	_ providers.Sleeper       = (*provider)(nil)
	_ providers.ConsoleReader = (*provider)(nil)
	_ providers.Interruptee   = (*provider)(nil)
	_ providers.Roomer        = (*provider)(nil)
)

// maxChoices bounds the choices of type and place that are tried for one launch; maxUserText the bytes of user_data before compression.
const (
	maxChoices  = 64
	maxUserText = 256 << 10
)

// merged is a map of all entries; later maps win.
func merged(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, one := range all {
		maps.Copy(m, one)
	}
	return m
}
