# An address that only one instance can have: two workers, and a counted one.
provider "test" "main" {}

worker "a" {
  provider = provider.test.main
  instance {
    address = "203.0.113.5"
  }
}

worker "b" {
  provider = provider.test.main
  instance {
    address = "203.0.113.5"
  }
}

worker "many" {
  provider = provider.test.main
  count    = 2
  instance {
    address = "203.0.113.6"
  }
}

worker "fine" {
  provider = provider.test.main
  count    = 2
  instance {
    address = "203.0.113.${100 + count.index}"
  }
}

builder "unit" {
  workers = [worker.a]
  step "shell" "x" {
    command = "true"
  }
}

scheduler "force" "force" {
  builders = [builder.unit]
}
