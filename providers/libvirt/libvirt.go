// Package libvirt makes instances that are guests of hosts with libvirt, and throws them away whole.
//
// Every instance is a transient domain with a disk of its own: a clone of a base image, made on the host through libvirt's storage API, so that
// a remote host needs nothing but libvirt. The domain that boots points at its own clone. Nothing of an instance is persistent but its volumes, whose
// names hold its key; so what a crash leaves behind is found by name, and nothing that somebody else made is ever touched: a domain is ours if
// its metadata says so, a volume if its name is one that only this owner can have chosen.
//
// The provider keeps no state that matters. What it knows it asks the hosts. A tombstone for each key whose end was asked for is kept in StateDir,
// because a create must never follow a destroy.
//
// It must not know of builds, sessions or the queue. Libvirt's library is opened when the first connection is made; a program without the bindings, or
// a machine without the library, says so when a plan asks.
package libvirt
