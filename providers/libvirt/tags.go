package libvirt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// tagSpace is the XML namespace of what rouse writes into a domain's metadata.
const tagSpace = "urn:rouse-ci:libvirt:1"

// tags say whose a domain is. They are part of the XML that it starts with, so no guest is ever anonymous.
type tags struct {
	XMLName  xml.Name        `xml:"urn:rouse-ci:libvirt:1 instance"`
	Owner    providers.Owner `xml:"owner,attr"`
	Key      providers.Key   `xml:"key,attr"`
	Worker   string          `xml:"worker,attr"`
	Created  int64           `xml:"created,attr"`            // Unix time
	Expiry   int64           `xml:"expiry,attr,omitempty"`   // when its agent, left alone from the start, has ended it
	Pool     string          `xml:"pool,attr,omitempty"`     // where its volumes are
	Image    string          `xml:"image,attr,omitempty"`    // fingerprint of the base image
	Base     string          `xml:"base,attr,omitempty"`     // and its name
	VCPUs    int             `xml:"vcpus,attr,omitempty"`    // what it takes of its host
	Graceful int             `xml:"graceful,attr,omitempty"` // seconds that an ACPI shutdown may take
	Memory   int64           `xml:"memory,attr,omitempty"`   // bytes
	Fast     bool            `xml:"restored,attr,omitempty"` // from a template's memory
	Agent    string          `xml:"agent,attr,omitempty"`    // base64: what a restored guest is told; others have it in their firmware, as visible as here
}

func (t tags) createdAt() time.Time { return time.Unix(t.Created, 0) }

// parseTags reads our element of a domain's metadata; nil if it is none of ours.
func parseTags(text string) *tags {
	var e struct {
		XMLName xml.Name
		tags
	}
	if err := xml.NewDecoder(strings.NewReader(text)).Decode(&e); err != nil || e.XMLName.Local != "instance" || e.Owner == "" || !e.Key.Valid() {
		return nil
	}
	return &e.tags
}

// String is the element as libvirt wants it: with a prefix of its own, which encoding/xml cannot write.
func (t tags) String() string {
	b, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"rouse:instance"`
		Space   string   `xml:"xmlns:rouse,attr"`
		tags
	}{Space: tagSpace, tags: t})
	if err != nil {
		return ""
	}
	return string(b)
}

// prefix begins the names of all domains and volumes of ours.
const prefix = "rouse-"

// domainName is the name of an instance's domain.
func domainName(k providers.Key) string { return prefix + string(k) }

// What an instance has on disk.
const (
	diskSuffix  = ".qcow2"
	seedSuffix  = ".seed.iso"
	nvramSuffix = ".nvram.fd"
	saveSuffix  = ".save"
)

var suffixes = []string{diskSuffix, seedSuffix, nvramSuffix, saveSuffix}

// ownerMark stands for an owner in the names of volumes, which have no tags: enough of a digest that no two masters ever meet.
func ownerMark(o providers.Owner) string {
	h := sha256.Sum256([]byte("owner " + o))
	return hex.EncodeToString(h[:8])
}

// volumeName is the name of one of an instance's volumes: whose and which, so that it is found when its domain has gone.
func volumeName(o providers.Owner, k providers.Key, suffix string) string {
	return prefix + ownerMark(o) + "-" + string(k) + suffix
}

// keyOfVolume returns the key of the instance that a volume belongs to, if it is one of the owner's.
func keyOfVolume(o providers.Owner, name string) (providers.Key, bool) {
	rest, ok := strings.CutPrefix(name, prefix+ownerMark(o)+"-")
	if !ok {
		return "", false
	}
	for _, suffix := range suffixes {
		if k, ok := strings.CutSuffix(rest, suffix); ok {
			return providers.Key(k), providers.Key(k).Valid()
		}
	}
	return "", false
}
