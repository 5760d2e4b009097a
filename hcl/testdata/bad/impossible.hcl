# Names that cannot be.
provider "test" "main" {}

worker "debug" {
  provider = provider.test.main
}

worker "" {
  provider = provider.test.main
}

worker "2fast" {
  provider = provider.test.main
}

worker "a-worker-whose-name-is-longer-than-anybody-would-ever-want-to-type" {
  provider = provider.test.main
}

worker "twice" {
  provider = provider.test.main
}

worker "twice" {
  provider = provider.test.main
}

worker "pool" {
  provider = provider.test.main
  count    = 2
}

worker "pool-2" {
  provider = provider.test.main
}

lock "l" {}

lock "l" {}

builder "unit" {
  workers = [worker.twice]
  step "shell" "x" {
    command = "true"
  }
}

builder "unit" {
  workers = [worker.twice]
  step "shell" "x" {
    command = "true"
  }
}

scheduler "force" "s" {
  builders = [builder.unit]
}

scheduler "periodic" "s" {
  builders = [builder.unit]
  every    = "1h"
}
