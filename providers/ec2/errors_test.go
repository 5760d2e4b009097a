package ec2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rouse-ci/rouse/providers"
)

// reply is an error answer as the SDK gives it.
func reply(status int, code, message string) error {
	return &smithy.OperationError{ServiceID: "EC2", OperationName: "RunInstances", Err: &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: code, Message: message},
	}}}
}

func TestErrorsAreClassedByCode(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tc := range []struct {
		err  error
		want providers.Class
		fate fate
	}{
		{reply(400, "InvalidAMIID.NotFound", ""), providers.BadConfig, fateRefused},
		{reply(400, "InvalidAMIID.Malformed", ""), providers.BadConfig, fateRefused},
		{reply(400, "InvalidParameterValue", ""), providers.BadConfig, fateRefused},
		{reply(400, "InvalidParameterCombination", ""), providers.BadConfig, fateRefused},
		{reply(400, "InvalidGroup.NotFound", ""), providers.BadConfig, fateRefused},
		{reply(400, "InvalidKeyPair.NotFound", ""), providers.BadConfig, fateRefused},
		{reply(400, "MissingParameter", ""), providers.BadConfig, fateRefused},
		{reply(400, "VPCIdNotSpecified", ""), providers.BadConfig, fateRefused},
		{reply(403, "UnauthorizedOperation", ""), providers.Unauthorized, fateRefused},
		{reply(401, "AuthFailure", ""), providers.Unauthorized, fateRefused},
		{reply(400, "ExpiredToken", ""), providers.Unauthorized, fateRefused},
		{reply(400, "RequestExpired", ""), providers.Unauthorized, fateRefused},
		{reply(403, "SignatureDoesNotMatch", ""), providers.Unauthorized, fateRefused},
		{reply(403, "InvalidClientTokenId", ""), providers.Unauthorized, fateRefused},
		{reply(401, "OptInRequired", ""), providers.Unauthorized, fateRefused},
		{reply(500, "InsufficientInstanceCapacity", ""), providers.NoCapacity, fateRefused},
		{reply(500, "InsufficientHostCapacity", ""), providers.NoCapacity, fateRefused},
		{reply(400, "InsufficientFreeAddressesInSubnet", ""), providers.NoCapacity, fateRefused},
		{reply(400, "SpotMaxPriceTooLow", ""), providers.NoCapacity, fateRefused},
		{reply(400, "Unsupported", ""), providers.NoCapacity, fateRefused},
		{reply(400, "InstanceLimitExceeded", ""), providers.OverQuota, fateRefused},
		{reply(400, "VcpuLimitExceeded", ""), providers.OverQuota, fateRefused},
		{reply(400, "MaxSpotInstanceCountExceeded", ""), providers.OverQuota, fateRefused},
		{reply(400, "PendingVerification", ""), providers.OverQuota, fateRefused},
		{reply(503, "RequestLimitExceeded", ""), providers.Throttled, fateThrottled},
		{reply(400, "Throttling", ""), providers.Throttled, fateThrottled},
		{reply(503, "ServiceUnavailable", ""), providers.Transient, fateUnsent},
		{reply(503, "Unavailable", ""), providers.Transient, fateUnsent},
		{reply(400, "InvalidInstanceID.NotFound", ""), providers.NotFound, fateRefused},
		{reply(400, "IdempotentParameterMismatch", ""), providers.Unknown, fateRefused},
		{reply(400, "SomethingNew", ""), providers.Unknown, fateRefused},
		{reply(500, "InternalError", ""), providers.Unknown, fateUncertain},
		{reply(500, "InternalFailure", ""), providers.Unknown, fateUncertain},
		{reply(502, "", ""), providers.Unknown, fateUncertain},
		{errLost, providers.Unknown, fateUncertain},
		{context.DeadlineExceeded, providers.Unknown, fateUncertain},
		{&smithy.OperationError{Err: dial}, providers.Transient, fateUnsent},
		{&net.DNSError{Err: "no such host", Name: "ec2.nowhere.amazonaws.com"}, providers.Transient, fateUnsent},
		{&net.OpError{Op: "read", Err: errLost}, providers.Unknown, fateUncertain},
		{&smithy.OperationError{Err: &credentialError{errors.New("no EC2 IMDS role found")}}, providers.Unauthorized, fateRefused},
		{errNoTurn, providers.Throttled, fateUncertain},
	} {
		if got := providers.ClassOf(fail("create", &callError{op: "RunInstances", err: tc.err}, "launch")); got != tc.want {
			t.Errorf("%v has class %s, want %s", tc.err, got, tc.want)
		}
		if got := fateOf(tc.err); got != tc.fate && !errors.Is(tc.err, errNoTurn) {
			t.Errorf("%v: fate %d, want %d", tc.err, got, tc.fate)
		}
		if got := providers.ClassOf(fail("create", &callError{op: "RunInstances", err: tc.err, uncertain: true}, "launch")); got != providers.Unknown {
			t.Errorf("%v after a lost reply has class %s, want unknown", tc.err, got)
		}
	}
}

func TestNoCodeHasTwoClasses(t *testing.T) {
	t.Parallel()
	seen := map[string]providers.Class{}
	for class, list := range codes {
		for _, c := range list {
			if other, twice := seen[c]; twice {
				t.Errorf("%s is %s and %s", c, class, other)
			}
			seen[c] = class
		}
	}
}

func TestMissingPermissionIsNamed(t *testing.T) {
	t.Parallel()
	encoded := strings.Repeat("Zm9v", 400)
	for _, tc := range []struct{ code, message, want string }{
		{"UnauthorizedOperation", "You are not authorized to perform this operation. Encoded authorization failure message: " + encoded, "must allow ec2:RunInstances"},
		{"UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:eu-central-1:123456789012:instance/* because no identity-based policy allows the ec2:CreateTags action",
			"must allow ec2:CreateTags on arn:aws:ec2:eu-central-1:123456789012:instance/*"},
		{"AccessDenied", "User: x is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::1:role/r", "must allow sts:AssumeRole on arn:aws:iam::1:role/r"},
		{"ExpiredToken", "The security token included in the request is expired", "have expired"},
		{"AuthFailure", "AWS was not able to validate the provided access credentials", "access key and its secret"},
	} {
		text := fail("create", &callError{op: "RunInstances", err: reply(403, tc.code, tc.message)}, "launch m7i.large").Error()
		if !strings.Contains(text, tc.want) {
			t.Errorf("%s: %q does not say %q", tc.code, text, tc.want)
		}
		if strings.Contains(text, encoded) {
			t.Error("the encoded message is shown")
		}
	}
}

func TestTextFromOutsideIsBounded(t *testing.T) {
	t.Parallel()
	for _, err := range []error{reply(400, "X", strings.Repeat("y", 1<<20)), fmt.Errorf("%s", strings.Repeat("z", 1<<20))} {
		if n := len(fail("create", &callError{op: "RunInstances", err: err}, "launch").Error()); n > 2*maxText {
			t.Errorf("an error has %d bytes", n)
		}
	}
}
