# Passwords in the addresses of repositories.
provider "test" "main" {}

worker "linux" {
  provider = provider.test.main
}

locals {
  where = "https://bob:word@example.org"
}

builder "unit" {
  workers = [worker.linux]

  step "git" "checkout" {
    repository = "${local.where}/x.git"
  }

  step "git" "good" {
    repository = "ssh://git@example.org:2222/x.git"
  }
}

scheduler "nightly" "night" {
  builders   = [builder.unit]
  cron       = "0 3 * * *"
  repository = "https://bob:word@example.org/x.git"
}
