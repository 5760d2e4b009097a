# Every block and most attributes.
variable "branch" {
  type        = string
  default     = "main"
  description = "what nightly builds"
  validation {
    condition     = length(var.branch) > 0
    error_message = "A branch is needed."
  }
}

variable "machines" {
  type    = list(object({ name = string, price = optional(number, 0.1) }))
  default = [{ name = "a" }, { name = "b", price = 2 }]
}

locals {
  project = upper(local.short)
  short   = "rouse"
  flags   = merge({ A = "1" }, { B = "2" })
}

master {
  name           = "ci"
  listen         = "127.0.0.1:0"
  api            = "127.0.0.1:8010"
  on_master_stop = "drain"
  max_attempts   = 3
  log_max_age    = "30d"
  log_max_size   = "10GiB"
  record_max_age = "1w2d12h"

  token "cli" {
    secret = secret.api
    role   = "admin"
  }

  mail {
    relay    = "mail.example.org"
    from     = "rouse@example.org"
    username = "rouse"
    secret   = secret.api
  }

  webhook {
    url    = "https://example.org/hook"
    secret = secret.api
  }
}

secret "api" {
  env = "ROUSE_API_TOKEN"
}

secret "worker_password" {
  file = "password"
}

secret "deploy" {
  command = ["pass", "show", "deploy"]
}

provider "test" "main" {
  region = "eu"
}

worker "linux" {
  provider           = provider.test.main
  count              = 3
  build_wait_timeout = -1
  missing_timeout    = 90
  price              = element(var.machines, 1).price
  max_builds         = 1
  properties         = { index = count.index, os = "linux", tags = ["a", 1, null] }

  instance {
    image = "debian-${count.index}"
  }
}

worker "mac" {
  password           = secret.worker_password
  notify_on_missing  = "ops@example.org"
  locks              = [lock.license.exclusive]
  keepalive_interval = 0
}

lock "license" {
  max = 2
}

lock "disk" {
  scope = "worker"
}


builder "unit" {
  workers     = [worker.linux, worker.mac]
  locks       = [lock.license, lock.disk.exclusive]
  collapse    = true
  description = "${local.project}'s tests"
  env         = merge(local.flags, { BUILD = build.number })
  properties  = { level = 3 }

  step "git" "checkout" {
    repository = source.repository
    shallow    = true
    submodules = true
  }

  step "shell" "test" {
    command    = ["make", "test", "J=${worker.info.numcpus}"]
    exit_codes = { "2" = "warnings" }
    timeout    = "1h"
    env        = { TOKEN = secret.deploy, AUTH = base64encode("ci:${secret.deploy}") }
  }

  step "set_property" "version" {
    property = "version"
    command  = "git describe"
    when     = step.test.result == "success" && try(prop.release, false)
  }

  step "upload" "result" {
    from       = "dist/${prop.version}.tar"
    always_run = true
  }

  step "download" "settings" {
    content = jsonencode({ worker = worker.name, key = instance.key })
    to      = "settings.json"
    mode    = "0600"
  }

  step "trigger" "deploy" {
    scheduler  = scheduler.triggerable.deploy
    wait       = true
    properties = { version = prop.version }
  }
}

builder "deploy" {
  workers = [for i in [0, 2] : worker.linux[i]]
  step "shell" "deploy" {
    command = "deploy --to $TARGET"
    env     = { TARGET = "production" }
  }
}

scheduler "force" "force" {
  builders = [builder.unit, "deploy"]
}

scheduler "triggerable" "deploy" {
  builders = [builder.deploy]
  priority = 5
}

scheduler "nightly" "night" {
  builders   = [builder.unit]
  cron       = "30 3 * * 1-5"
  zone       = "UTC"
  repository = "https://example.org/repo.git"
  branch     = var.branch
}

scheduler "periodic" "often" {
  builders = [builder.unit]
  every    = "15m"
}
