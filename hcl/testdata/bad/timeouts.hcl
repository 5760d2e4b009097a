# Not errors, but hardly meant.
provider "test" "main" {}

worker "swapped" {
  provider           = provider.test.main
  missing_timeout    = "30s"
  build_wait_timeout = "20m"
}

worker "patient" {
  provider        = provider.test.main
  missing_timeout = 0
}

worker "fine" {
  provider           = provider.test.main
  missing_timeout    = "5m"
  build_wait_timeout = "10m"
}

builder "unit" {
  workers = [worker.swapped, worker.patient, worker.fine]
  step "shell" "x" {
    command = "true"
  }
}

scheduler "force" "force" {
  builders = [builder.unit]
}
