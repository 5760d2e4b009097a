package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rouse-ci/rouse/providers/ec2/ec2test"
)

// TestEC2ExampleRuns takes contrib/examples/ec2 as it is, but for two names that only its reader can know, and runs it in an account that has what the
// example asks for: images, a security group, an instance profile, an address.
func TestEC2ExampleRuns(t *testing.T) {
	c := newCloud(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "deploy"), []byte("#!/bin/sh\necho deployed to \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.guests.Env = append(c.guests.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	call := func(client *ec2test.Client, action string, params ...string) *ec2test.Node {
		t.Helper()
		n, err := client.Call(t.Context(), action, params...)
		if err != nil {
			t.Fatalf("%s: %v", action, err)
		}
		return n
	}
	account := c.ec2.Direct()
	maker := call(account, "RunInstances", "ImageId", "ami-00000000000000010", "MinCount", "1", "MaxCount", "1", "TagSpecification.1.ResourceType", "instance",
		"TagSpecification.1.Tag.1.Key", ec2test.TagKey, "TagSpecification.1.Tag.1.Value", "image-maker").Find("instanceId").Text
	for _, name := range []string{"rouse-worker-linux-9", "rouse-worker-linux-10", "rouse-worker-other-11"} {
		call(account, "CreateImage", "Name", name, "InstanceId", maker)
	}
	call(account, "TerminateInstances", "InstanceId.1", maker)
	c.play()
	call(account, "CreateSecurityGroup", "GroupName", "rouse-workers", "GroupDescription", "workers")
	address := call(account, "AllocateAddress", "Domain", "vpc").Find("publicIp").Text
	iam := &ec2test.Client{URL: account.URL, Account: account.Account, Service: "iam", Version: "2010-05-08"}
	call(iam, "CreateInstanceProfile", "InstanceProfileName", "rouse-worker")

	dir := filepath.Join(c.dir, "config")
	if err := os.CopyFS(dir, os.DirFS("../../../contrib/examples/ec2")); err != nil {
		t.Fatal(err)
	}
	c.rewrite("ami-0123456789abcdef0", "ami-00000000000000009", "203.0.113.7", address, `listen         = "0.0.0.0:9989"`, `listen = "127.0.0.1:0"`)
	vars := []string{"-var", "region=us-east-1", "-var", "master_url=" + c.proxy.url()}

	out, err := c.rouse(append([]string{"images", "linux", dir}, vars...)...)
	if err != nil || !strings.Contains(out, "rouse-worker-linux-10") {
		t.Errorf("rouse images: %v\n%s", err, out)
	}
	t.Logf("rouse images linux\n%s", out)
	c.up(nil, vars...)
	out, err = c.rouse(append([]string{"plan", dir}, vars...)...)
	if err != nil || strings.Contains(out, "Error") {
		t.Errorf("rouse plan: %v\n%s", err, out)
	}
	t.Logf("rouse plan\n%s", out)
	out, err = c.rouse("force", "deploy", "-wait")
	if err != nil {
		t.Errorf("rouse force: %v\n%s", err, out)
	}
	t.Logf("rouse force deploy -wait\n%s", out)
	out, _ = c.rouse("instances", "-all")
	t.Logf("rouse instances -all\n%s", out)
	if out, err = c.rouse("logs", "1"); err != nil || !strings.Contains(out, "deployed to production") {
		t.Errorf("rouse logs: %v\n%s", err, out)
	}
	if a := c.ends(30 * time.Second); a.Launched != 2 {
		t.Errorf("%s", a)
	}
}
