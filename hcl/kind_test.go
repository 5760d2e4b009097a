package hcl

import (
	"context"
	"errors"

	hcl2 "github.com/hashicorp/hcl/v2"

	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/providers/decode"
)

// testKind stands for any kind of provider.
type testKind struct{}

type testConfig struct{ Region string }

type testInstance struct {
	Image   string
	Address string
	Env     map[string]string
}

func (testKind) Name() string { return "test" }

func (testKind) DecodeProvider(body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	var c testConfig
	a := decode.Body(body, ctx, "region", "max_instances")
	a.String("region", &c.Region)
	return c, a.Diags
}

func (testKind) DecodeInstance(_ any, body hcl2.Body, ctx *hcl2.EvalContext) (any, hcl2.Diagnostics) {
	i := &testInstance{Image: "base"}
	a := decode.Body(body, ctx, "image", "env", "max_memory", "nice", "address")
	a.String("image", &i.Image)
	a.String("address", &i.Address)
	a.Env("env", &i.Env)
	return i, a.Diags
}

// Exclusive implements providers.ExclusiveKind.
func (testKind) Exclusive(_, spec any) []string {
	if i, ok := spec.(*testInstance); ok && i.Address != "" {
		return []string{"address " + i.Address}
	}
	return nil
}

func (testKind) Open(context.Context, providers.Env) (providers.Provider, providers.Limits, error) {
	return nil, providers.Limits{}, errors.New("the test kind opens nothing")
}

// testOptions know the test kind, under the name of the local one too, so that examples load. The environment is empty.
func testOptions() Options {
	return Options{
		Kinds:  map[string]providers.Kind{"test": testKind{}, "local": testKind{}},
		Getenv: func(string) string { return "" },
	}
}
