# Build, then test what was built in parallel, then release: builders that trigger each other.

locals {
  suites = ["unit", "race", "integration"]
}

builder "build" {
  workers  = [worker.builder]
  collapse = true # requests for the same revision are one build

  step "git" "checkout" {
    repository = var.repository
    branch     = coalesce(source.branch, "main")
    shallow    = true
  }

  step "set_property" "version" {
    property = "version"
    command  = "git rev-parse --short HEAD"
  }

  step "shell" "compile" {
    command         = "make dist VERSION=${prop.version}"
    halt_on_failure = true
  }

  step "upload" "dist" {
    from = "dist"
    to   = "dist-${prop.version}"
  }

  step "trigger" "tests" {
    scheduler       = scheduler.triggerable.tests
    wait            = true
    revision        = source.revision
    halt_on_failure = true
    properties      = { version = prop.version, suites = local.suites }
  }

  step "trigger" "release" {
    scheduler  = scheduler.triggerable.release
    properties = { version = prop.version }
    when       = step.tests.result == "success" && try(prop.release, false)
  }

  step "shell" "clean" {
    command          = "make clean"
    always_run       = true
    flunk_on_failure = false
  }
}

builder "test" {
  workers = [worker.tester]

  step "git" "checkout" {
    repository = var.repository
  }

  step "shell" "test" {
    command  = ["make", "test", "SUITES=${join(",", try(prop.suites, local.suites))}"]
    max_time = "2h"
  }
}

builder "release" {
  workers = [worker.builder[0]]
  locks   = [lock.release.exclusive]

  step "download" "netrc" {
    content = "machine example.org login ci password ${secret.release}\n"
    to      = ".netrc"
    mode    = "0600"
  }

  step "shell" "release" {
    command = ["make", "release", "VERSION=${prop.version}"]
    env     = { RELEASE_TOKEN = secret.release }
  }
}
