package libvirt

import (
	"encoding/json"
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// parseVolume reads what libvirt says of a volume.
func parseVolume(text, pool string) (volume, error) {
	var x libvirtxml.StorageVolume
	if err := x.Unmarshal(text); err != nil {
		return volume{}, err
	}
	v := volume{Pool: pool, Name: x.Name}
	if x.Capacity != nil {
		v.Capacity = int64(x.Capacity.Value)
	}
	if x.Allocation != nil {
		v.Allocation = int64(x.Allocation.Value)
	}
	if t := x.Target; t != nil {
		v.Path = t.Path
		if t.Format != nil {
			v.Format = t.Format.Type
		}
		if t.Timestamps != nil {
			v.Changed = t.Timestamps.Mtime
		}
	}
	if x.BackingStore != nil {
		v.Backing = x.BackingStore.Path
	}
	return v, nil
}

// fingerprint identifies the content of a base image, as far as its host tells without reading it.
func (v volume) fingerprint() string {
	return fmt.Sprintf("%s@%s+%d", v.Path, v.Changed, v.Capacity) // what it takes of the disk may change by itself
}

// overlay is a volume that holds only what differs from its base.
func overlay(name string, base volume) (string, error) {
	x := libvirtxml.StorageVolume{Name: name, Capacity: &libvirtxml.StorageVolumeSize{Value: uint64(base.Capacity)},
		Target:       &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "qcow2"}, Compat: "1.1"},
		BackingStore: &libvirtxml.StorageVolumeBackingStore{Path: base.Path, Format: &libvirtxml.StorageVolumeTargetFormat{Type: base.Format}}}
	return x.Marshal()
}

// whole is a volume of its own.
func whole(name, format string, capacity int64) (string, error) {
	x := libvirtxml.StorageVolume{Name: name, Capacity: &libvirtxml.StorageVolumeSize{Value: uint64(capacity)}, Allocation: &libvirtxml.StorageVolumeSize{},
		Target: &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: format}}}
	return x.Marshal()
}

// buildbotAuth is Buildbot's metadata element: the same attributes in the same namespace.
func buildbotAuth(agent []byte) string {
	var a struct{ Master, Name, Token string }
	if json.Unmarshal(agent, &a) != nil {
		return ""
	}
	b, err := xml.Marshal(struct {
		XMLName  xml.Name `xml:"buildbot:auth"`
		Space    string   `xml:"xmlns:buildbot,attr"`
		Username string   `xml:"username,attr"`
		Password string   `xml:"password,attr"`
		Master   string   `xml:"master,attr"`
	}{Space: "http://buildbot.net/", Username: a.Name, Password: a.Token, Master: a.Master})
	if err != nil {
		return ""
	}
	return string(b)
}
