# EC2 without an account: moto, a server that answers as EC2 does, on this machine. Everything is asked, launched, listed and terminated as it would be there,
# but no machine boots, so no agent ever attaches: what happens then is the second half of the lesson.
#
#   .ci/moto                                          # in the checkout: installs moto from PyPI
#   .cache/moto/bin/moto_server -p 5555 &
#   export AWS_ENDPOINT_URL=http://127.0.0.1:5555 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
#   rouse images linux contrib/examples/moto
#   rouse master -config contrib/examples/moto

master {
  listen = "127.0.0.1:0"
}

provider "ec2" "moto" {
  region = "us-east-1"
}

worker "linux" {
  provider           = provider.ec2.moto
  count              = 2
  build_wait_timeout = 0
  missing_timeout    = "15s" # on EC2 minutes: from the request until the agent has attached

  instance {
    ami {
      owners         = ["099720109477"]
      location_regex = "amazon/.*"
    }
    instance_types  = ["m5.large", "t3.small"]
    keypair_name    = ""
    security_groups = ["default"]
  }
}

builder "test" {
  workers = [worker.linux]

  step "shell" "test" {
    command = ["make", "test"]
  }
}

scheduler "force" "force" {
  builders = [builder.test]
}
