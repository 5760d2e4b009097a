//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package local

import (
	"context"
	"runtime"

	"github.com/rouse-ci/rouse/providers"
)

// Open implements providers.Kind. It refuses: there are no process groups to end an instance whole.
func (Kind) Open(context.Context, providers.Env) (providers.Provider, providers.Limits, error) {
	return nil, providers.Limits{}, providers.Errorf(providers.BadConfig, "open", "the local provider does not work on %s: use a provider that makes virtual machines", runtime.GOOS)
}
