package api

import (
	"context"
	"net"
	"os/user"
	"strconv"
)

type peerKey struct{}

// withPeer notes which local user has connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*limitConn); ok {
		c = l.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	if uid, ok := peerUID(u); ok {
		return context.WithValue(ctx, peerKey{}, uid)
	}
	return ctx
}

// localUser is the name of the local user who sent a request, "" if it is not known.
func localUser(ctx context.Context) string {
	uid, ok := ctx.Value(peerKey{}).(int)
	if !ok {
		return ""
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}
