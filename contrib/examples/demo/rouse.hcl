# Two latent workers, which are processes on this machine, build rouse's own agent from its repository.
#
#   rouse validate contrib/examples/demo
#   rouse master -config contrib/examples/demo
#   rouse force rouse-worker -wait        # in another terminal

variable "repository" {
  type        = string
  description = "what to clone: an address or a path"
  default     = "https://github.com/rouse-ci/rouse.git"
}

variable "branch" {
  type        = string
  description = "what to build; empty: the remote's HEAD"
  default     = ""
}

master {
  name   = "demo"
  listen = "127.0.0.1:0" # any free port: the workers are told
}

provider "local" "here" {}

worker "local" {
  provider           = provider.local.here
  count              = 2
  build_wait_timeout = "5s" # long enough for a second build to find a warm worker, short enough to see it end
  missing_timeout    = "1m"

  instance {}
}

builder "rouse-worker" {
  description = "compiles and tests rouse's agent, and keeps the program"
  workers     = [worker.local]

  step "git" "checkout" {
    repository = var.repository
    branch     = var.branch
  }

  step "shell" "compile" {
    command         = ["go", "build", "-trimpath", "-o", "dist/rouse-worker", "./cmd/rouse-worker"]
    env             = { CGO_ENABLED = "0" }
    log_environ     = false
    halt_on_failure = true
  }

  step "shell" "test" {
    command     = ["go", "test", "./worker/proto/..."]
    timeout     = "10m"
    log_environ = false
  }

  step "upload" "program" {
    from = "dist/rouse-worker"
    to   = "rouse-worker"
    when = step.compile.result == "success"
  }
}

builder "hello" {
  description = "the smallest build"
  workers     = [worker.local]

  step "shell" "hello" {
    command = "echo \"Hello from $(hostname): build ${build.number} on ${worker.name}\""
  }
}

scheduler "force" "force" {
  builders = [builder.rouse-worker, builder.hello]
}
