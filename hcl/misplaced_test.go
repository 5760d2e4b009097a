package hcl

import (
	"strings"
	"testing"
)

func TestASecretInAnInstanceIsToldWhatToDoInstead(t *testing.T) {
	t.Parallel()
	for _, at := range []string{`instance { image = secret.inst }`, `instance { image = "x-${secret.inst}" }`} {
		_, problems := loadAny(t, strings.Replace(hiddenText, `instance { image = "x-${local.url}" }`, at, 1)+`secret "inst" { env = "INST" }`)
		if !strings.Contains(problems, "No secret can be used here") || !strings.Contains(problems, "ROUSE_VAR_NAME") || strings.Contains(problems, "There is no variable named") {
			t.Errorf("%s: %s", at, problems)
		}
	}
}
