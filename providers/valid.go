package providers

import (
	"fmt"
	"io"
)

// MaxKey is the longest Key, in bytes.
const MaxKey = 120

// Valid says whether the key matches [a-z0-9-]{1,120}. Providers check it first: keys become file names, tags and domain names.
func (k Key) Valid() bool {
	if k == "" || len(k) > MaxKey {
		return false
	}
	for i := range len(k) {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParseClass is the inverse of Class.String. It is for configurations that name a class; a provider never classifies by text.
func ParseClass(name string) (Class, bool) {
	for i, n := range classNames {
		if n == name {
			return Class(i), true
		}
	}
	return Unknown, false
}

// Format hides the value from every verb but %p (which fmt answers itself), also from the ones that String does not cover (%d would print
// it as a bad verb).
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(secret)") }
