# Names of things that are not there.
provider "test" "main" {}

worker "linux" {
  provider = provider.test.mian
  locks    = [lock.licence]
}

worker "bsd" {
  provider = "test.main"
}

worker "mac" {
  password = secret.pasword
  locks    = ["license", lock.license]
}

secret "password" {
  env = "PASSWORD"
}

lock "license" {}

builder "unit" {
  workers = [worker.linx, "lunix", worker.mac]
  locks   = [lock.license.exclusiv]
  step "shell" "test" {
    command = "make ${var.target} ${local.flag}"
  }
  step "trigger" "deploy" {
    scheduler = scheduler.triggerable.deplyo
  }
  step "trigger" "other" {
    scheduler = "deplyo"
  }
}

locals {
  flags = "-v"
}

scheduler "force" "force" {
  builders = [builder.unti, "untt"]
}

scheduler "triggerable" "deploy" {
  builders = [builder.unit]
}
