provider "local" "here" {}

worker "a" {
  provider = provider.local.here
  count    = 2
  instance {}
}

# What would worker.a be now?
worker "a" {
  provider = provider.local.here
  instance {}
}

worker "b" {
  provider = provider.local.here
  count    = 3
  instance {}
}

worker "b" {
  provider = provider.local.here
  count    = 3
  instance {}
}

builder "x" {
  workers = [worker.a, worker.b]
  step "shell" "s" { command = "true" }
}

scheduler "force" "f" { builders = [builder.x] }
