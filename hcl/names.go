package hcl

import (
	"fmt"
	"regexp"
	"slices"

	hcl2 "github.com/hashicorp/hcl/v2"
)

var nameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// reservedWorkers are Buildbot's reserved names of workers.
var reservedWorkers = []string{"debug", "change", "status"}

// declare checks a block's name and notes where it is. It returns false if the name cannot be used; the block is decoded all the same where it
// can hold more mistakes.
func (l *loader) declare(kind, name string, b *hcl2.Block, label int) bool {
	r := b.LabelRanges[label]
	if why := badName(kind, name); why != "" {
		l.errorf(&r, "Unsuitable name", "%q cannot be the name of a %s: %s.", name, kind, why)
		return false
	}
	if first, ok := l.blocks[kind][name]; ok {
		l.duplicate(kind, name, r, first)
		return false
	}
	if l.blocks[kind] == nil {
		l.blocks[kind] = map[string]hcl2.Range{}
	}
	l.blocks[kind][name] = r
	return true
}

// badName applies Buildbot's rules for names of workers to all names, since they become files, labels of metrics and parts of addresses too.
func badName(kind, name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > maxNameLen:
		return fmt.Sprintf("it has %d characters, and %d is the limit", len(name), maxNameLen)
	case !nameRE.MatchString(name):
		return "it must begin with a letter or \"_\", and hold only letters, digits, \"_\", \"-\" and \".\""
	case kind == "worker" && slices.Contains(reservedWorkers, name):
		return "it is reserved"
	}
	return ""
}

// duplicate reports a second thing of the same name, with both places.
func (l *loader) duplicate(kind, name string, second, first hcl2.Range) {
	l.errorf(&second, "Duplicate "+kind, "There is a %s %q already, at %s:%d,%d-%d.", kind, name,
		first.Filename, first.Start.Line, first.Start.Column, first.End.Column)
}

// known returns the names of a kind of block.
func (l *loader) known(kind string) []string { return sortedKeys(l.blocks[kind]) }
