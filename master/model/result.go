package model

import "fmt"

// Result is how a step, a build or a request ended: Buildbot's seven, with Buildbot's numbers, plus NoResult for what has not ended.
type Result uint8

const (
	Success   Result = 0
	Warnings  Result = 1
	Failure   Result = 2
	Skipped   Result = 3
	Exception Result = 4
	Retry     Result = 5
	Cancelled Result = 6
	NoResult  Result = 255
)

var resultNames = [...]string{"success", "warnings", "failure", "skipped", "exception", "retry", "cancelled"}

func (r Result) String() string {
	if int(r) < len(resultNames) {
		return resultNames[r]
	}
	return "none"
}

// MarshalText gives the result's name, so that JSON reads "success" and not 0.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Result) UnmarshalText(b []byte) error {
	v, err := ParseResult(string(b))
	*r = v
	return err
}

// ParseResult reads a result's name.
func ParseResult(s string) (Result, error) {
	if s == "none" || s == "" {
		return NoResult, nil
	}
	for i, n := range resultNames {
		if n == s {
			return Result(i), nil
		}
	}
	return NoResult, fmt.Errorf("unknown result %q", s)
}

// severity orders results from best to worst, as Buildbot's worst_status does: whatever was skipped says nothing.
var severity = map[Result]int{NoResult: -1, Skipped: 0, Success: 1, Warnings: 2, Failure: 3, Exception: 4, Retry: 5, Cancelled: 6}

// Worst returns the worse of two results.
func Worst(a, b Result) Result {
	if severity[a] >= severity[b] {
		return a
	}
	return b
}

type enumNames []string

func (n enumNames) text(v uint8) string {
	if int(v) < len(n) {
		return n[v]
	}
	return fmt.Sprintf("unknown(%d)", v)
}

func (n enumNames) parse(s string) (uint8, error) {
	for i, name := range n {
		if name == s {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("unknown value %q", s)
}

var (
	requestStates  = enumNames{"waiting", "claimed", "done"}
	buildPhases    = enumNames{"preparing", "running", "done"}
	instanceStates = enumNames{"requested", "booting", "attached", "lost", "stopping", "stopped", "doomed", "gone"}
)

func (s RequestState) String() string               { return requestStates.text(uint8(s)) }
func (s RequestState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s *RequestState) UnmarshalText(b []byte) error {
	v, err := requestStates.parse(string(b))
	*s = RequestState(v)
	return err
}

func (p BuildPhase) String() string               { return buildPhases.text(uint8(p)) }
func (p BuildPhase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
func (p *BuildPhase) UnmarshalText(b []byte) error {
	v, err := buildPhases.parse(string(b))
	*p = BuildPhase(v)
	return err
}

func (s InstanceState) String() string               { return instanceStates.text(uint8(s)) }
func (s InstanceState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s *InstanceState) UnmarshalText(b []byte) error {
	v, err := instanceStates.parse(string(b))
	*s = InstanceState(v)
	return err
}
