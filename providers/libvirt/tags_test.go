package libvirt

import (
	"testing"

	"github.com/rouse-ci/rouse/providers"
)

func TestTagsAreReadBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	want := tags{Owner: "o1", Key: "o1-w-1", Worker: `a<b"&`, Created: 5, Pool: "default", Image: "/x@1+2", VCPUs: 2, Memory: 3, Graceful: 4}
	got := parseTags(want.String())
	if got == nil || *got != want {
		t.Errorf("got %+v of %s, want %+v", got, want, want)
	}
	for _, text := range []string{"", "<x/>", `<instance owner="" key="a"/>`, `<instance owner="o" key="A/.."/>`, "<instance"} {
		if got := parseTags(text); got != nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestOnlyKeysThatTheOwnerChoseAreOwned(t *testing.T) {
	t.Parallel()
	for key, want := range map[providers.Key]bool{"o1-w-1": true, "o1-a-b-27": true, "o1-w": false, "o1-w-x": false, "o12-w-1": false, "o1--1": false, "x": false, "": false} {
		if got := owned(key, "o1"); got != want {
			t.Errorf("owned(%q) = %v", key, got)
		}
	}
	for name, want := range map[string]providers.Key{"rouse-o1-w-1.qcow2": "o1-w-1", "rouse-o1-w-1.seed.iso": "o1-w-1", "rouse-o1-w-1.nvram.fd": "o1-w-1", "o1-w-1.qcow2": "", "rouse-A.qcow2": "", "rouse-.qcow2": ""} {
		if got, ok := keyOfVolume(name); got != want && ok {
			t.Errorf("keyOfVolume(%q) = %q, %v", name, got, ok)
		}
	}
}
