# Values that are wrong in type or size.
master {
  listen         = "nowhere"
  url            = "http://example.org"
  api            = ":8010"
  on_master_stop = "drian"
  max_attempts   = 0
  log_max_age    = "a month"
  log_max_size   = "10 gigs"
  tls_cert       = "cert.pem"
}

provider "test" "main" {}

worker "linux" {
  provider           = provider.test.main
  count              = 1.5
  missing_timeout    = -1
  build_wait_timeout = "ten minutes"
  max_builds         = "many"
  notify_on_missing  = ["nobody"]
  price              = -2
  properties         = "none"
}

worker "many" {
  provider = provider.test.main
  count    = 10001
}

worker "bad" {
  provider           = provider.test.main
  missing_timeout    = -1
  build_wait_timeout = "ten minutes"
  max_builds         = "many"
  notify_on_missing  = ["nobody"]
  price              = -2
  properties         = "none"
  orphan_timeout     = 5
  keepalive_interval = "11y"
}

worker "standard" {
  build_wait_timeout = 0
  password           = "hunter2"
}

worker "open" {}

worker "half" {
  instance {}
}

lock "l" {
  max   = 0
  scope = "universe"
}

builder "unit" {
  workers   = worker.bad
  build_dir = "../up"
  collapse  = "perhaps"
  locks     = [3]
  step "shell" "x" {
    command = ["true"]
  }
}

scheduler "nightly" "n" {
  builders = [builder.unit]
  cron     = "30 25 * * *"
  zone     = "Mars/Olympus"
}

scheduler "nightly" "m" {
  builders = []
}

scheduler "periodic" "p" {
  builders = [builder.unit]
}

scheduler "periodic" "q" {
  builders = [builder.unit]
  every    = "10ms"
  priority = 1e12
}
