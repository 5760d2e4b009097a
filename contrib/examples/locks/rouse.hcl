# Two builders share two workers, and one of them may only run alone: the example of the README.

master {
  listen = "127.0.0.1:0"
}

provider "local" "here" {}

lock "database" { max = 1 }

worker "small" {
  provider           = provider.local.here
  count              = 2    # two identities, small-1 and small-2
  max_builds         = 1    # builds at once on each
  build_wait_timeout = "1m" # how long an idle instance is kept; 0 = a fresh one for every build; -1 = for good
  price              = 0.05 # per hour; rouse adds it up
  instance {}
}

builder "hello" {
  workers = [worker.small]
  step "shell" "greet" {
    command     = "echo Hello from ${worker.name}; sleep ${try(prop.seconds, 0)}"
    log_environ = false
  }
}

builder "migrate" {
  workers = [worker.small]
  locks   = [lock.database.exclusive]
  step "shell" "migrate" {
    command     = "sleep 5"
    log_environ = false
  }
}

scheduler "force" "force" {
  builders = [builder.hello, builder.migrate]
}
