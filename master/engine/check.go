package engine

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/store"
)

// checkTx finds what can never be stored before it gets into a batch, whose other items would have to wait for it for ever.
func checkTx(tx *store.Tx) error {
	for _, p := range tx.Props {
		if _, err := json.Marshal(p.Properties); err != nil {
			return fmt.Errorf("properties of build %d: %w", p.Build, err)
		}
	}
	return nil
}

// sourceKey is equal for requests that may be served by one build: they want the same builder to make the same of the same source. A patch is
// somebody's own and never shared, as in Buildbot.
func sourceKey(r *model.Request) (string, error) {
	patched := r.Source.Patch != nil
	b, err := json.Marshal(struct {
		S model.Source
		P model.Properties
	}{r.Source, r.Properties}) // maps are encoded in the order of their keys
	if err != nil {
		return "", fmt.Errorf("properties of the request: %w", err)
	}
	if patched {
		return "", nil
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:15]), nil
}
