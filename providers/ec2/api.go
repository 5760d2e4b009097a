package ec2

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// call is one operation of AWS. Tests fake it as a plain func.
type call[I, O any] func(ctx context.Context, in *I) (*O, error)

// api is every call that this package makes; the policy in contrib/ec2 names exactly these. It holds funcs, never a client: a *ec2.Client that
// can be reached from an interface or a struct's field makes the linker keep all of its 700 operations (30 MB).
type api struct {
	RunInstances           call[ec2.RunInstancesInput, ec2.RunInstancesOutput]
	DescribeInstances      call[ec2.DescribeInstancesInput, ec2.DescribeInstancesOutput]
	DescribeInstanceStatus call[ec2.DescribeInstanceStatusInput, ec2.DescribeInstanceStatusOutput]
	TerminateInstances     call[ec2.TerminateInstancesInput, ec2.TerminateInstancesOutput]
	StopInstances          call[ec2.StopInstancesInput, ec2.StopInstancesOutput]
	StartInstances         call[ec2.StartInstancesInput, ec2.StartInstancesOutput]
	GetConsoleOutput       call[ec2.GetConsoleOutputInput, ec2.GetConsoleOutputOutput]

	DescribeImages                call[ec2.DescribeImagesInput, ec2.DescribeImagesOutput]
	DescribeSpotPriceHistory      call[ec2.DescribeSpotPriceHistoryInput, ec2.DescribeSpotPriceHistoryOutput]
	DescribeSubnets               call[ec2.DescribeSubnetsInput, ec2.DescribeSubnetsOutput]
	DescribeSecurityGroups        call[ec2.DescribeSecurityGroupsInput, ec2.DescribeSecurityGroupsOutput]
	DescribeKeyPairs              call[ec2.DescribeKeyPairsInput, ec2.DescribeKeyPairsOutput]
	DescribeLaunchTemplates       call[ec2.DescribeLaunchTemplatesInput, ec2.DescribeLaunchTemplatesOutput]
	DescribeInstanceTypes         call[ec2.DescribeInstanceTypesInput, ec2.DescribeInstanceTypesOutput]
	DescribeInstanceTypeOfferings call[ec2.DescribeInstanceTypeOfferingsInput, ec2.DescribeInstanceTypeOfferingsOutput]
	DescribeAvailabilityZones     call[ec2.DescribeAvailabilityZonesInput, ec2.DescribeAvailabilityZonesOutput]

	DescribeAddresses   call[ec2.DescribeAddressesInput, ec2.DescribeAddressesOutput]
	AssociateAddress    call[ec2.AssociateAddressInput, ec2.AssociateAddressOutput]
	DisassociateAddress call[ec2.DisassociateAddressInput, ec2.DisassociateAddressOutput]
	DescribeVolumes     call[ec2.DescribeVolumesInput, ec2.DescribeVolumesOutput]
	AttachVolume        call[ec2.AttachVolumeInput, ec2.AttachVolumeOutput]

	GetProducts       call[pricing.GetProductsInput, pricing.GetProductsOutput]
	GetServiceQuota   call[servicequotas.GetServiceQuotaInput, servicequotas.GetServiceQuotaOutput]
	GetCallerIdentity call[sts.GetCallerIdentityInput, sts.GetCallerIdentityOutput]
}

// clients are one client for each family of calls, so that what happens to one (retries, connections) never starves another.
type clients struct {
	run, describe, terminate, other func() *ec2.Client
	pricing                         func() *pricing.Client
	quotas                          func() *servicequotas.Client
	sts                             func() *sts.Client
}

// newAPI governs method values of the clients.
func newAPI(g *governor, c clients) *api {
	run, describe, terminate, other := c.run(), c.describe(), c.terminate(), c.other()
	prices, quotas, identity := c.pricing(), c.quotas(), c.sts()
	return &api{
		RunInstances:           governed(g, classRun, "RunInstances", run.RunInstances),
		DescribeInstances:      governed(g, classDescribe, "DescribeInstances", describe.DescribeInstances),
		DescribeInstanceStatus: governed(g, classDescribe, "DescribeInstanceStatus", describe.DescribeInstanceStatus),
		TerminateInstances:     governed(g, classTerminate, "TerminateInstances", terminate.TerminateInstances),
		StopInstances:          governed(g, classMutate, "StopInstances", terminate.StopInstances),
		StartInstances:         governed(g, classStart, "StartInstances", run.StartInstances),
		GetConsoleOutput:       governed(g, classConsole, "GetConsoleOutput", other.GetConsoleOutput),

		DescribeImages:                governed(g, classDescribe, "DescribeImages", other.DescribeImages),
		DescribeSpotPriceHistory:      governed(g, classDescribe, "DescribeSpotPriceHistory", other.DescribeSpotPriceHistory),
		DescribeSubnets:               governed(g, classDescribe, "DescribeSubnets", other.DescribeSubnets),
		DescribeSecurityGroups:        governed(g, classDescribe, "DescribeSecurityGroups", other.DescribeSecurityGroups),
		DescribeKeyPairs:              governed(g, classDescribe, "DescribeKeyPairs", other.DescribeKeyPairs),
		DescribeLaunchTemplates:       governed(g, classDescribe, "DescribeLaunchTemplates", other.DescribeLaunchTemplates),
		DescribeInstanceTypes:         governed(g, classDescribe, "DescribeInstanceTypes", other.DescribeInstanceTypes),
		DescribeInstanceTypeOfferings: governed(g, classDescribe, "DescribeInstanceTypeOfferings", other.DescribeInstanceTypeOfferings),
		DescribeAvailabilityZones:     governed(g, classDescribe, "DescribeAvailabilityZones", other.DescribeAvailabilityZones),

		DescribeAddresses:   governed(g, classDescribe, "DescribeAddresses", other.DescribeAddresses),
		AssociateAddress:    governed(g, classMutate, "AssociateAddress", other.AssociateAddress),
		DisassociateAddress: governed(g, classMutate, "DisassociateAddress", other.DisassociateAddress),
		DescribeVolumes:     governed(g, classDescribe, "DescribeVolumes", other.DescribeVolumes),
		AttachVolume:        governed(g, classMutate, "AttachVolume", other.AttachVolume),

		GetProducts:       governed(g, classOther, "GetProducts", prices.GetProducts),
		GetServiceQuota:   governed(g, classOther, "GetServiceQuota", quotas.GetServiceQuota),
		GetCallerIdentity: governed(g, classOther, "GetCallerIdentity", identity.GetCallerIdentity),
	}
}
