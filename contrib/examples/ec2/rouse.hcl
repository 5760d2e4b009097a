# Latent workers on EC2: cheap spot machines for ordinary builds, one machine that is stopped instead of ended, because its disk has a warm cache,
# and one with a fixed address that a firewall lets through.
#
#   rouse validate -var master_url=wss://ci.example.org:9989 contrib/examples/ec2
#   rouse images linux contrib/examples/ec2               # which image would be taken, and why
#   rouse plan -var master_url=… contrib/examples/ec2     # asks EC2, in dry runs, whether all of it could be launched
#
# The images must have rouse-worker and cloud-init in them; images/ has recipes. What rouse may do in the account is contrib/ec2/policy.json.

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "master_url" {
  type        = string
  description = "how machines in EC2 reach the worker port, such as wss://ci.example.org:9989"
  default     = "ws://10.0.0.10:9989"
}

variable "endpoint" {
  type        = string
  description = "the EC2 API, if it is not Amazon's own"
  default     = ""
}

master {
  name           = "ec2-example"
  listen         = "0.0.0.0:9989"
  url            = var.master_url
  on_master_stop = "drain" # a long stop ends what is idle; a restart keeps everything
}

# Credentials: nothing is said here, so the usual places are asked in their order: AWS_ACCESS_KEY_ID, ~/.aws, the role of the machine that the master
# runs on. Others: profile = "ci", aws_id_file = "~/.ec2/aws_id", identifier with secret_identifier (from a sensitive variable), and on top of any of
# them a role block that assumes a role.
provider "ec2" "cloud" {
  region        = var.region
  endpoint      = var.endpoint
  max_instances = 20 # never more at once, whatever workers say
  tags          = { Project = "ci" }
}

worker "linux" {
  provider           = provider.ec2.cloud
  count              = 8
  max_builds         = 1
  build_wait_timeout = "10m" # a second build within ten minutes finds the machine warm
  missing_timeout    = "10m" # from the request to EC2 until the agent has attached
  orphan_timeout     = "20m" # without a master for so long, the machine ends itself

  instance {
    # The newest image: the greatest number in the name's first group. Only images that are available count.
    ami {
      owners         = ["self"]
      location_regex = ".*/rouse-worker-linux-([0-9]+)"
      filters        = { architecture = "x86_64" }
    }

    # Tried in this order when EC2 has no capacity; what was refused is remembered for some minutes.
    instance_types = ["m7i.large", "m7a.large", "m6i.large"]
    zones          = ["a", "b", "c"]

    spot {
      price_multiplier = 1.3         # the bid: the mean price of the last day, times this, …
      max_price        = 0.10        # … and never more dollars per hour than this
      fallback         = "on-demand" # after all spot choices were refused
    }

    security_groups       = ["rouse-workers"] # nothing is opened for rouse: the agent dials the master
    keypair_name          = ""                # nobody logs in
    instance_profile_name = "rouse-worker"    # what builds may do in AWS

    block_device {
      device = "/dev/sda1"
      size   = 40
      type   = "gp3"
    }

    user_data = <<-END
      #!/bin/sh
      # runs besides what starts the agent
      mkdir -p /var/cache/ccache
    END

    tags = { Name = "ci-linux" }
  }
}

worker "cached" {
  provider           = provider.ec2.cloud
  build_wait_timeout = "15m"
  idle               = "stop" # its disk is kept, and costs something; the next build starts it again

  instance {
    ami             = "ami-0123456789abcdef0"
    instance_type   = "c7i.2xlarge"
    security_groups = ["rouse-workers"]
    keypair_name    = ""
  }
}

worker "deploy" {
  provider           = provider.ec2.cloud
  build_wait_timeout = "0s" # a fresh machine for every build
  instance {
    ami             = "ami-0123456789abcdef0"
    instance_type   = "t3.small"
    elastic_ip      = "203.0.113.7" # one address: one worker
    security_groups = ["rouse-workers"]
    keypair_name    = ""
  }
}

builder "test" {
  workers = [worker.linux, worker.cached]

  step "git" "checkout" {
    repository = "https://git.example.org/app.git"
  }
  step "shell" "test" {
    command = ["make", "test"]
    timeout = "20m"
  }
}

builder "deploy" {
  workers = [worker.deploy]
  step "shell" "deploy" {
    command = ["deploy", "production"]
  }
}

scheduler "force" "force" {
  builders = [builder.test, builder.deploy]
}
