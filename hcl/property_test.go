package hcl

import (
	"strings"
	"testing"
)

func TestAPropertyThatCanOnlyBeASecretIsWarnedOf(t *testing.T) {
	t.Parallel()
	for command, warned := range map[string]bool{
		`"echo $T"`:                   true,
		`"printf %s \"$${T}\""`:       true,
		`["printenv", "T"]`:           true,
		`"printenv V"`:                true,
		`"printenv B"`:                true,
		`["echo", "$T"]`:              false, // without a shell it is what it says
		`"echo $OPEN"`:                false,
		`"echo $T | sha256sum"`:       false,
		`"vault-login --with \"$T\""`: false,
	} {
		_, problems := loadAny(t, strings.Replace(hiddenText, `step "shell" "s" { command = "true" }`, `env = { B = secret.inst }
		  step "set_property" "s" {
		    property = "token"
		    command  = `+command+`
		    env      = { T = secret.inst, V = var.dbpw, OPEN = var.open }
		  }`, 1)+`secret "inst" { env = "INST" }`)
		if got := strings.Contains(problems, "A property that will not hold its value"); got != warned || !warned && problems != "" {
			t.Errorf("%s: %t %s", command, got, problems)
		}
	}
}
