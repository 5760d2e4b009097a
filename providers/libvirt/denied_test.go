//go:build cgo && libvirt_dlopen

package libvirt

import (
	"testing"

	virt "libvirt.org/go/libvirt"
)

// TestWhoMayNotUseAHostIsDenied: whoever is in no group that may use libvirtd's socket is told so in one of several ways, as polkit is there, asks
// somebody, or is not.
func TestWhoMayNotUseAHostIsDenied(t *testing.T) {
	t.Parallel()
	for _, e := range []virt.Error{
		{Code: virt.ERR_AUTH_UNAVAILABLE, Domain: virt.FROM_POLKIT, Message: "authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'"},
		{Code: virt.ERR_AUTH_CANCELLED, Domain: virt.FROM_POLKIT, Message: "authentication cancelled: user cancelled authentication process"},
		{Code: virt.ERR_AUTH_FAILED, Domain: virt.FROM_RPC, Message: "authentication failed: authentication failed"},
		{Code: virt.ERR_SYSTEM_ERROR, Domain: virt.FROM_RPC, Message: "Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied"},
	} {
		if got := translate(e); got.Kind != denied {
			t.Errorf("%s: kind %d, want %d", e.Message, got.Kind, denied)
		}
	}
	if got := translate(virt.Error{Code: virt.ERR_SYSTEM_ERROR, Domain: virt.FROM_RPC, Message: "Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused"}); got.Kind != unreachable {
		t.Errorf("a socket without a daemon: kind %d", got.Kind)
	}
}
