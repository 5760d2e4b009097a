//go:build !linux

package api

import "net"

// peerUID is not asked for here: the order itself says who gives it.
func peerUID(*net.UnixConn) (int, bool) { return 0, false }
