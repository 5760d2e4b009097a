package ec2

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/rouse-ci/rouse/providers"
)

// Codes of EC2, IAM and STS errors, by class. A code that is not here is Unknown after a 5xx answer and BadConfig after a 4xx answer whose code begins
// with one of badPrefixes. Sources: "Error codes for the Amazon EC2 API" and the common errors of STS.
var codes = map[providers.Class][]string{
	providers.Throttled: {
		"RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
		"TooManyRequestsException", "ProvisionedThroughputExceededException", "BandwidthLimitExceeded", "SlowDown", "EC2ThrottledException",
		"PriorRequestNotComplete", "TransactionInProgressException",
	},
	providers.NoCapacity: {
		"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity", "InsufficientCapacity", "InsufficientCapacityOnHost",
		"InsufficientAddressCapacity", "InsufficientFreeAddressesInSubnet", "SpotMaxPriceTooLow", "Unsupported", "UnfulfillableCapacity", "InsufficientVolumeCapacity",
		"ReservationCapacityExceeded",
	},
	providers.OverQuota: {
		"InstanceLimitExceeded", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "MaxSpotFleetRequestCountExceeded", "VolumeLimitExceeded",
		"NetworkInterfaceLimitExceeded", "PrivateIpAddressLimitExceeded", "AddressLimitExceeded", "MaxIOPSLimitExceeded", "ResourceLimitExceeded",
		"ResourceCountExceeded", "AttachmentLimitExceeded", "InstanceCreditSpecificationLimitExceeded", "PendingVerification",
	},
	providers.Unauthorized: {
		"UnauthorizedOperation", "AuthFailure", "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken",
		"ExpiredTokenException", "RequestExpired", "MissingAuthenticationToken", "OptInRequired", "Blocked", "UnrecognizedClientException", "InvalidAccessKeyId",
		"SubscriptionRequired", "IncompleteSignature", "NotAuthorized", "InvalidIdentityToken", "CredentialsNotFound",
	},
	providers.NotFound: {"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"},
	providers.BadConfig: {
		"MissingParameter", "MissingAction", "UnknownParameter", "ValidationError", "ValidationException", "DependencyViolation", "OperationNotPermitted",
		"UnsupportedOperation", "UnsupportedHostConfiguration", "VPCIdNotSpecified", "DefaultVpcDoesNotExist", "EncryptedVolumesNotSupported",
		"NonEBSInstance", "UnsupportedHibernationConfiguration", "DryRunOperation", "Resource.AlreadyAssociated", "InvalidIPAddress.InUse", "VolumeInUse",
		"UnsupportedInstanceTypeOnHost", "NoSuchVersion", "InvalidBlockDeviceMapping", "SnapshotCreationPerVolumeRateExceeded",
	},
	providers.Transient: {"ServiceUnavailable", "Unavailable", "RequestTimeTooSkewed"},
}

// certain are codes that arrive with a 5xx status and nevertheless say that nothing was done.
var certain = []string{"ServiceUnavailable", "Unavailable", "RequestLimitExceeded"}

var badPrefixes = []string{"Invalid", "Missing", "Unknown", "Unsupported", "Malformed", "NoSuch"}

var classByCode = func() map[string]providers.Class {
	m := map[string]providers.Class{}
	for class, list := range codes {
		for _, c := range list {
			m[c] = class
		}
	}
	return m
}()

// codeOf is the error code of an answer of AWS, or "".
func codeOf(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// classOfAnswer is the class of one answer, or of its absence.
func classOfAnswer(err error) providers.Class {
	code, status := codeOf(err), statusOf(err)
	if class, ok := classByCode[code]; ok {
		return class
	}
	switch {
	case errors.Is(err, errNoTurn):
		return providers.Throttled
	case unsent(err):
		return providers.Transient
	case noCredentials(err):
		return providers.Unauthorized
	case code == "" || status == 0 || status >= 500:
		return providers.Unknown
	case code == "IdempotentParameterMismatch":
		return providers.Unknown // an instance was made with this token
	case slices.ContainsFunc(badPrefixes, func(p string) bool { return strings.HasPrefix(code, p) }):
		return providers.BadConfig
	}
	return providers.Unknown
}

// fate says what to do after one try of a call.
type fate uint8

const (
	fateRefused   fate = iota // an answer that another try would not change
	fateThrottled             // not done; asked too often
	fateUnsent                // not done; it never arrived
	fateUncertain             // perhaps done
)

func fateOf(err error) fate {
	code, status := codeOf(err), statusOf(err)
	switch class, known := classByCode[code]; {
	case class == providers.Throttled:
		return fateThrottled
	case slices.Contains(certain, code):
		return fateUnsent
	case known && class != providers.Transient, code == "IdempotentParameterMismatch":
		return fateRefused // also capacity errors, which come with status 500
	case unsent(err):
		return fateUnsent
	case noCredentials(err):
		return fateRefused
	case status == 429:
		return fateThrottled
	case status >= 400 && status < 500 && code != "":
		return fateRefused
	}
	return fateUncertain
}

// unsent says that a request certainly did not reach the service: its name did not resolve, or nobody accepted the connection.
func unsent(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}

// noSuchName says that there is no service of that name, as far as this machine's resolver knows.
func noSuchName(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// noCredentials says that a request was not signed, and so not sent, since there are no credentials.
func noCredentials(err error) bool {
	return err != nil && errors.As(err, new(*credentialError))
}

// credentialError is an error of what gives credentials.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

func statusOf(err error) int {
	var r *awshttp.ResponseError
	if errors.As(err, &r) {
		return r.HTTPStatusCode()
	}
	return 0
}

// fail makes the classed error of a provider's operation, beginning with what was tried. What is uncertain is Unknown, whatever the last try said.
func fail(op string, err error, format string, args ...any) error {
	class := classOfAnswer(err)
	var e *callError
	if errors.As(err, &e) && e.uncertain {
		class = providers.Unknown
	}
	var p *providers.Error
	if errors.As(err, &p) {
		class = p.Class
	}
	err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	if class == providers.Unauthorized && p == nil {
		err = fmt.Errorf("%w; %s", err, permission(err))
	}
	return &providers.Error{Class: class, Op: op, Err: err}
}

var actionPattern = regexp.MustCompile(`not authorized to perform:? ?([A-Za-z0-9-]+:[A-Za-z]+)(?: on resource:? (\S+))?`)

// permission says what is missing, by the IAM action.
func permission(err error) string {
	code, text := codeOf(err), describe(err)
	if m := actionPattern.FindStringSubmatch(text); m != nil {
		s := "the policy of these credentials must allow " + m[1]
		if m[2] != "" {
			s += " on " + strings.Trim(m[2], ".,")
		}
		return s
	}
	var e *callError
	switch {
	case slices.Contains([]string{"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}, code) && errors.As(err, &e):
		return "the policy of these credentials must allow " + action(e.op)
	case strings.HasPrefix(code, "ExpiredToken") || code == "RequestExpired":
		return "these credentials have expired (or this machine's clock is wrong)"
	case code == "OptInRequired" || code == "SubscriptionRequired" || code == "Blocked":
		return "the account is not signed up for this service or region, or is blocked"
	case code == "":
		return "there are no credentials: set identifier and secret_identifier, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run on a machine with a role"
	}
	return "these credentials were not accepted: check the access key and its secret, the region, and this machine's clock"
}

// action is the IAM action of an operation.
func action(op string) string {
	switch op {
	case "GetProducts":
		return "pricing:" + op
	case "GetServiceQuota":
		return "servicequotas:" + op
	case "GetCallerIdentity", "AssumeRole":
		return "sts:" + op
	}
	return "ec2:" + op
}

// describe is an error's text for people, without the SDK's layers: the code and the message of the answer.
func describe(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		msg, _, _ := strings.Cut(e.ErrorMessage(), "Encoded authorization failure message:")
		return strings.TrimSpace(clip(e.ErrorCode()+": "+msg, maxText))
	}
	var syntax *xml.SyntaxError
	var request *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer before the deadline"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &syntax):
		return "the answer is not XML: is this the endpoint of EC2?"
	case errors.As(err, &request):
		return clip(request.Error(), maxText)
	}
	return clip(err.Error(), maxText)
}

// maxText bounds, in bytes, what is kept of a text that came from outside.
const maxText = 1000

func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
