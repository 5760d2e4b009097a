# The worker port and the API cannot be the same.
master {
  listen = ":9989"
  api    = "127.0.0.1:9989"
  token "ci" {
    secret = secret.api
  }
}

secret "api" {
  env = "API"
}

provider "test" "main" {}

worker "linux" {
  provider = provider.test.main
}

builder "unit" {
  workers = [worker.linux]
  step "shell" "x" {
    command = "true"
  }
}

scheduler "force" "force" {
  builders = [builder.unit]
}
