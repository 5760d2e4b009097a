//go:build !(cgo && libvirt_dlopen)

package libvirt

import "context"

// dial says that this program was built without libvirt.
func dial(context.Context, string, func(event), func(error)) (link, error) {
	return nil, &linkError{noLibrary, "this rouse was built without libvirt: build it with CGO_ENABLED=1 and -tags libvirt_dlopen (make build does)"}
}
