# Old names mean what the new ones mean. Only one of them is an error: a name and its old name at once.
provider "test" "main" {}

slave "linux" {
  provider = provider.test.main
}

builder "unit" {
  slavenames = [worker.linux]
  builddir   = "u"
  step "shell" "x" {
    command = "true"
  }
}

builder "twice" {
  slaves  = [worker.linux]
  workers = [worker.linux]
  step "shell" "x" {
    command = "true"
  }
}

scheduler "force" "force" {
  builderNames = [builder.unit, builder.twice]
}
