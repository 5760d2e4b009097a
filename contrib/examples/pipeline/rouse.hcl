# The machines of a pipeline, and what starts it. The builders are in builders.hcl: all *.hcl files of a directory are one configuration.

variable "repository" {
  type    = string
  default = "https://example.org/project.git"
}

master {
  name           = "pipeline"
  on_master_stop = "drain"
  log_max_age    = "90d"
  max_attempts   = 3
}

secret "release" {
  env = "RELEASE_TOKEN"
}

lock "release" {}

provider "local" "here" {
  max_instances = 6 # at once, whatever the workers below ask for
}

worker "builder" {
  provider   = provider.local.here
  count      = 2
  max_builds = 1
  price      = 0.12 # per hour; `rouse instances` adds it up

  instance {
    max_memory = "4GiB"
    env        = { GOMAXPROCS = "4" }
  }
}

worker "tester" {
  provider           = provider.local.here
  count              = 4
  max_builds         = 1
  build_wait_timeout = 0 # a fresh instance for every build

  instance {
    nice = 10
    env  = { SLOT = "${count.index}" }
  }
}

scheduler "force" "force" {
  builders = [builder.build]
  priority = 10
}

scheduler "nightly" "night" {
  builders   = [builder.build]
  cron       = "0 2 * * *"
  properties = { release = true }
  repository = var.repository
  branch     = "main"
}

scheduler "triggerable" "tests" {
  builders = [builder.test]
}

scheduler "triggerable" "release" {
  builders = [builder.release]
}
