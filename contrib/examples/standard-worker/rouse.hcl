# Standard workers: machines that somebody else starts and stops, each with a name and a password. Both rouse-worker and
# Buildbot's own agent (buildbot-worker --protocol=msgpack_experimental_v7) may attach to this port.

master {
  name   = "standard"
  listen = "127.0.0.1:9989"

  mail {
    relay = "localhost:25"
    from  = "rouse@example.org"
  }
}

secret "workers" {
  file = "/etc/rouse/worker-password"
}

locals {
  machines = ["bench-1", "bench-2"]
}

worker "mac-mini" {
  password          = secret.workers
  max_builds        = 2
  missing_timeout   = "15m" # tell somebody when it has been away for so long
  notify_on_missing = ["ops@example.org"]
  properties        = { os = "darwin" }
}

worker "bench" {
  count      = 2
  password   = secret.workers
  max_builds = 1
}

# One build at a time may use the license, whichever worker it is on.
lock "license" {}

builder "benchmark" {
  workers = local.machines
  locks   = [lock.license.exclusive]

  step "git" "checkout" {
    repository = "https://example.org/project.git"
    mode       = "clean"
  }

  step "shell" "run" {
    command    = "make bench"
    timeout    = "1h"
    exit_codes = { "2" = "warnings" } # slower than last time, but it works
  }
}

builder "mac" {
  workers = [worker.mac-mini]
  env     = { LANG = "C.UTF-8" }

  step "shell" "test" {
    command = ["make", "test", "OS=${worker.info.system}"]
  }
}

scheduler "force" "force" {
  builders = [builder.benchmark, builder.mac]
}

scheduler "nightly" "night" {
  builders = [builder.benchmark]
  cron     = "30 3 * * *"
  zone     = "UTC"
}
