package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"

	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/providers"
)

// Token returns the credential of an instance: base32 of HMAC-SHA256 under the master's key. It is a function of its arguments, so that a
// Create that is repeated after a crash carries the same token.
func Token(key []byte, inst model.InstanceKey) providers.Secret {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("instance-token\x00"))
	mac.Write([]byte(inst))
	return providers.Secret(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(mac.Sum(nil)))
}

// CheckToken says whether token is the instance's, in constant time.
func CheckToken(key []byte, inst model.InstanceKey, token string) bool {
	return equal(Token(key, inst), token)
}

// equal compares in a time that depends on neither value.
func equal(want providers.Secret, got string) bool {
	w, g := sha256.Sum256([]byte(want.Reveal())), sha256.Sum256([]byte(got))
	return subtle.ConstantTimeCompare(w[:], g[:]) == 1
}

// Identity is what an agent has proven.
type Identity struct {
	Worker   string
	Instance model.InstanceKey // "" if it came with the worker's password
}

// Authenticator checks the credentials of an upgrade request. name is the Basic user, instance the value of Rouse-Instance ("" if there was
// none). It must take equally long whether the name is unknown or the secret is wrong.
type Authenticator interface {
	Authenticate(name, secret string, instance model.InstanceKey) (Identity, error)
}

// ErrCredentials is the one error of Accounts: it does not say what was wrong.
var ErrCredentials = errors.New("unknown worker or wrong credentials")

// Accounts is an Authenticator. An agent that names an instance must have the instance's token, any other one its worker's password.
type Accounts struct {
	Key      []byte                                                   // for Token
	Password func(worker string) (providers.Secret, bool)             // false or "": the worker has no password
	Worker   func(inst model.InstanceKey) (worker string, known bool) // whose instance it is
	Tried    func(worker string, inst model.InstanceKey, ok bool)     // is told what came of it; it may be nil, and must be quick
}

// Authenticate implements Authenticator. Both comparisons are always made.
func (a Accounts) Authenticate(name, secret string, inst model.InstanceKey) (Identity, error) {
	want, known := a.Password(name)
	password := equal(want, secret) && known && want != "" && inst == ""
	owner, live := a.Worker(inst)
	token := CheckToken(a.Key, inst, secret) && live && owner == name && inst != ""
	if a.Tried != nil {
		a.Tried(name, inst, password || token)
	}
	if !password && !token {
		return Identity{}, ErrCredentials
	}
	return Identity{Worker: name, Instance: inst}, nil
}
