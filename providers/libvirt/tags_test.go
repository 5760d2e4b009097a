package libvirt

import (
	"testing"
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

func TestVolumesAreFoundByOwnerAndKey(t *testing.T) {
	t.Parallel()
	for _, suffix := range suffixes {
		name := volumeName("o1", "o1-w-1", suffix)
		if k, ok := keyOfVolume("o1", name); !ok || k != "o1-w-1" {
			t.Errorf("%s: got %q, %v", name, k, ok)
		}
		if k, ok := keyOfVolume("o2", name); ok {
			t.Errorf("%s: another owner's %q", name, k)
		}
	}
	for _, name := range []string{"", "base.qcow2", "rouse-.qcow2", volumeName("o1", "", ".qcow2"), volumeName("o1", "A", ".qcow2"), volumeName("o1", "k", ".img")} {
		if k, ok := keyOfVolume("o1", name); ok {
			t.Errorf("%q: got %q", name, k)
		}
	}
}
