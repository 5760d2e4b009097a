package ec2

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/rouse-ci/rouse/providers"
)

const (
	defaultRegion = "us-east-1"
	pricingRegion = "us-east-1" // the price list is served in few regions, for all of them
	maxIDFile     = 4 << 10
)

// connect finds region and credentials, without any call of AWS, and makes the clients. Credentials are read now or when they are first needed, and
// refreshed by the SDK before they expire.
func connect(ctx context.Context, c Config, log *slog.Logger) (clients, string, error) {
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), // the governor repeats; the SDK would repeat capacity errors, too
		awsconfig.WithDefaultRegion(defaultRegion),
		awsconfig.WithLogger(logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) { // else it writes lines of its own to stderr
			log.Debug("ec2: the SDK says: " + fmt.Sprintf(format, v...))
		})),
	}
	if c.Region != "" {
		options = append(options, awsconfig.WithRegion(c.Region))
	}
	if c.Profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(c.Profile))
	}
	static, err := c.static(log)
	if err != nil {
		return clients{}, "", err
	}
	if static != nil {
		// The metadata service of a cloud is the last place of the chain; whoever has credentials needs not ask an address that may not answer.
		options = append(options, awsconfig.WithCredentialsProvider(static), awsconfig.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return clients{}, "", fmt.Errorf("read AWS configuration: %w", err)
	}
	stsClient := func() *sts.Client {
		return sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = base(c.STSEndpoint, c.Endpoint, o.BaseEndpoint) })
	}
	if c.Role != nil {
		source := stsClient()
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(source, c.Role.ARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration = c.Role.SessionName, c.Role.Duration
			if c.Role.ExternalID != "" {
				o.ExternalID = aws.String(c.Role.ExternalID)
			}
		}))
	}
	cfg.Credentials = honest{cfg.Credentials}
	family := func() *ec2.Client {
		return ec2.NewFromConfig(cfg, func(o *ec2.Options) {
			o.BaseEndpoint = base(c.Endpoint, o.BaseEndpoint)
			o.HTTPClient = awshttp.NewBuildableClient() // connections of its own
		})
	}
	prices := func() *pricing.Client {
		return pricing.NewFromConfig(cfg, func(o *pricing.Options) {
			o.Region, o.BaseEndpoint = pricingRegion, base(c.PricingEndpoint, o.BaseEndpoint)
		})
	}
	quotas := func() *servicequotas.Client {
		return servicequotas.NewFromConfig(cfg, func(o *servicequotas.Options) { o.BaseEndpoint = base(c.Endpoint, o.BaseEndpoint) })
	}
	return clients{run: family, describe: family, terminate: family, other: family, pricing: prices, quotas: quotas, sts: stsClient}, cfg.Region, nil
}

// base is the first endpoint that is given: a string or a *string.
func base(choices ...any) *string {
	for _, c := range choices {
		switch c := c.(type) {
		case string:
			if c != "" {
				return aws.String(strings.TrimRight(c, "/"))
			}
		case *string:
			if c != nil {
				return c
			}
		}
	}
	return nil
}

// static are the credentials that the configuration names, or nil for the SDK's chain.
func (c Config) static(log *slog.Logger) (aws.CredentialsProvider, error) {
	if c.Identifier != "" {
		return credentials.NewStaticCredentialsProvider(c.Identifier, c.SecretIdentifier.Reveal(), c.SessionToken.Reveal()), nil
	}
	path := c.AWSIDFile
	if path == "" {
		if c.Profile != "" || os.Getenv("AWS_ACCESS_KEY_ID") != "" || os.Getenv("AWS_PROFILE") != "" {
			return nil, nil
		}
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil //nolint:nilerr // without a home there is no file in it
		}
		path = filepath.Join(home, ".ec2", "aws_id")
		if _, err := os.Stat(path); err != nil {
			return nil, nil //nolint:nilerr // it is used where it exists
		}
	}
	id, secret, err := readIDFile(path, log)
	if err != nil {
		return nil, err
	}
	return credentials.NewStaticCredentialsProvider(id, secret.Reveal(), ""), nil
}

// readIDFile reads Buildbot's two lines: the access key and its secret.
func readIDFile(path string, log *slog.Logger) (id string, secret providers.Secret, err error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", "", fmt.Errorf("find %s: %w", path, err)
		}
		path = filepath.Join(home, rest)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", "", fmt.Errorf("read aws_id_file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "", "", fmt.Errorf("read aws_id_file: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		log.Warn("others can read the credentials of EC2; run: chmod 600 "+path, "file", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	var lines []string
	s := bufio.NewScanner(io.LimitReader(f, maxIDFile))
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if err := s.Err(); err != nil {
		return "", "", fmt.Errorf("read aws_id_file %s: %w", path, err)
	}
	if len(lines) != 2 {
		return "", "", fmt.Errorf("aws_id_file %s has %d lines; it must have two: the access key and its secret", path, len(lines))
	}
	return lines[0], providers.Secret(lines[1]), nil
}

// honest marks errors of the credentials themselves: without credentials a request is not signed, and so not sent.
type honest struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider.
func (h honest) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := h.CredentialsProvider.Retrieve(ctx)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return c, &credentialError{err}
	}
	return c, err
}
