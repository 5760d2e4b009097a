package ec2

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
)

// The policy names what the code calls and nothing else: a right that is missing is found at three in the morning, one too many never.
func TestPolicyNamesExactlyTheCallsOfThisPackage(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../contrib/ec2/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct{ Statement []struct{ Action any } }
	if err := json.Unmarshal(data, &policy); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, s := range policy.Statement {
		list, many := s.Action.([]any)
		if !many {
			list = []any{s.Action}
		}
		for _, a := range list {
			named[a.(string)] = true
		}
	}
	called := map[string]bool{"ec2:CreateTags": true} // a launch with tags needs it
	for f := range reflect.TypeFor[api]().Fields() {
		called[action(f.Name)] = true
	}
	for a := range called {
		if !named[a] {
			t.Errorf("%s is called, and the policy does not allow it", a)
		}
		delete(named, a)
	}
	for a := range named {
		t.Errorf("the policy allows %s, which is never called", a)
	}
	if len(called) < 20 {
		t.Error("the test looks at the wrong place")
	}
}
