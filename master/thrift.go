package master

import (
	"runtime/debug"
	"sync"
)

// Reading and comparing large configurations makes much more garbage than it leaves. At its usual pace the collector lets that grow to as much as all that lives, for
// the one moment in a day in which somebody makes a plan, and the system does not get it back soon.

// thriftPercent is the collector's pace meanwhile: garbage up to this part of what lives.
const thriftPercent = 35

var thrift struct {
	mu     sync.Mutex
	users  int
	before int
}

// thrifty makes the collector run more often until the returned function is called. Whoever waits for something meanwhile calls it before.
func thrifty() (end func()) {
	thrift.mu.Lock()
	defer thrift.mu.Unlock()
	if thrift.users++; thrift.users == 1 {
		if thrift.before = debug.SetGCPercent(thriftPercent); thrift.before >= 0 && thrift.before < thriftPercent {
			debug.SetGCPercent(thrift.before) // somebody knows better
		}
	}
	return sync.OnceFunc(func() {
		thrift.mu.Lock()
		defer thrift.mu.Unlock()
		if thrift.users--; thrift.users == 0 {
			debug.SetGCPercent(thrift.before)
		}
	})
}
