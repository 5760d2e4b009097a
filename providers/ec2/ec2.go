// Package ec2 is a provider whose instances are virtual machines of Amazon's EC2, or of anything that speaks its API.
//
// It knows the provider contract and the AWS SDK, and nothing of the master. It is the only package that imports service/ec2.
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
	_ providers.Provider      = (*provider)(nil)
	_ providers.Sleeper       = (*provider)(nil)
	_ providers.ConsoleReader = (*provider)(nil)
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
