# A configuration of rouse. All *.hcl files of this directory are one configuration, in any order.
#
#   rouse validate                # all mistakes at once
#   rouse fmt                     # tidy the layout
#   rouse master                  # runs until Ctrl-C
#   rouse force hello -wait       # in another terminal: ask for a build and wait for it
#   rouse logs -f BUILD           # its output, while it grows

# The master itself. Every line here is the default, so the block may be left out.
master {
  name           = "rouse"
  listen         = "127.0.0.1:9989" # the port that workers' agents attach to
  on_master_stop = "keep"           # running builds wait for the next master; or "drain", "terminate"
}

# A provider makes machines. The kind "local" makes processes on this machine, each in a directory of its own.
provider "local" "here" {}

# A latent worker: it exists only while there is work for it, and a while longer in case more comes.
worker "local" {
  provider           = provider.local.here
  count              = 2    # two workers, local-1 and local-2
  max_builds         = 1    # builds at once on each
  build_wait_timeout = "1m" # how long an idle one is kept; 0 = a fresh one for every build; -1 = kept for good

  instance {
    env = { GREETING = "Hello" } # the environment of its builds
  }
}

# A builder says how something is built and who may build it.
builder "hello" {
  workers = [worker.local]

  # Expressions are evaluated when the step starts. In scope are build, source, prop, worker, instance and step.
  step "shell" "greet" {
    command = "echo \"$GREETING from ${worker.name}, build ${build.number}\" | tee greeting.txt"
  }

  step "set_property" "words" {
    property = "words"
    command  = "wc -w < greeting.txt"
  }

  step "upload" "greeting" {
    from = "greeting.txt"
    when = step.greet.result == "success" # every expression may use the results of the steps before
  }
}

# A builder for a project of yours. Remove the number signs and change the address.
#
# builder "project" {
#   workers = [worker.local]
#   env     = { CI = "true" }
#
#   step "git" "checkout" {
#     repository = "https://example.org/project.git"
#     shallow    = true
#   }
#
#   step "shell" "test" {
#     command    = "make test"
#     timeout    = "20m"                # without output
#     exit_codes = { "2" = "warnings" } # everything else but 0 is a failure
#     env        = { TOKEN = secret.token }
#   }
# }
#
# # The text of a configuration is stored, so a secret is a reference. It is read when it is used, and masked in logs.
# secret "token" {
#   file = "/etc/rouse/token" # or env = "TOKEN", or command = ["pass", "show", "token"]
# }

# A scheduler says when builds are asked for: "force" by a person or a program, "periodic", "nightly", or "triggerable" by other builds.
scheduler "force" "force" {
  builders = [builder.hello]
}
