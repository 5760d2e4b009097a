//go:build !linux

package main

import "errors"

// awaitOrder is for Linux guests.
func awaitOrder(string) ([]byte, error) {
	return nil, errors.New("waiting for an order is not supported on this system")
}

const waitLabel = "rouse.wait="

// connect is for Linux guests.
func connect(bool) error { return errors.New("-dhcp is not supported on this system") }
