package hcl

import "testing"

func TestPasswordsAreFoundInAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"https://bob:word@example.org/x.git":          true,
		"https://:word@example.org/x.git":             true,
		"ssh://bob:wo:rd@example.org":                 true,
		"https://bob:a@b@example.org/x":               true,
		"https://bob:${x}@example.org?x":              true,
		"https://bob@example.org/x.git":               false,
		"https://bob:@example.org/x.git":              false,
		"https://example.org:8443/~bob:word@x/y":      false,
		"https://example.org?to=bob:word@example.org": false,
		"git@example.org:x/y.git":                     false,
		"ssh://git@example.org:22/x.git":              false,
		"/srv/git/x:y@z.git":                          false,
		"file:///srv/git/x:y@z.git":                   false,
		"":                                            false,
	} {
		if got := HoldsPassword(address); got != want {
			t.Errorf("%s: got %v", address, got)
		}
	}
}
