# A count that cannot be read leaves nobody to say that its builders have no workers.
provider "local" "here" {}

worker "small" {
  provider = provider.local.here
  count    = "many"
  instance {}
}

builder "hello" {
  workers = [worker.small]
  step "shell" "greet" { command = "echo hello" }
}

scheduler "force" "force" {
  builders = [builder.hello]
}
