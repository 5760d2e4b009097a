# Mistakes inside steps, whose values nobody knows yet.
provider "test" "main" {}

secret "token" {
  env = "TOKEN"
}

worker "linux" {
  provider = provider.test.main
}

builder "unit" {
  workers = [worker.linux]
  env     = { N = build.numbr }

  step "shell" "one" {
    command = "echo ${build.numbr} ${source.barnch} ${worker.nmae} ${instance.kye} ${prop.anything} ${worker.info.any.thing}"
    when    = step.two.result == "success"
  }

  step "shell" "two" {
    command = "curl -H 'Token: ${secret.token}'"
    env     = { TOKEN = secret.tokne }
    timeout = "${build.number} minutes"
  }

  step "shell" "three" {
    timeout          = [1]
    halt_on_failure  = "maybe"
    interrupt_signal = "SIGSTOP"
    exit_codes       = { "2" = "warning", x = "failure" }
    command          = { make = "test" }
  }

  step "shell" "three" {
    command = "true"
  }

  step "shell" "name" {
    command = "true"
  }

  step "shel" "four" {}

  step "git" "five" {
    repository = "--upload-pack=evil"
    mode       = "incremental!"
    shallow    = "deep"
    branhc     = "main"
  }

  step "upload" "six" {
    to = "../../etc/passwd"
  }

  step "download" "seven" {
    from    = "a"
    content = "b"
    mode    = 644
    to      = "x"
  }

  step "set_property" "eight" {
    property = "p"
    value    = secret.token
  }

  step "set_property" "nine" {
    property = "p"
    value    = 1
    timeout  = 5
  }

  step "set_property" "ten" {}

  step "trigger" "eleven" {
    properties = { token = base64encode(secret.token) }
    wait       = "no idea"
    when       = "neither"
  }

  step "shell" "twelve" {
    command = ["echo", nosuch(1), upper(2, 3), secret[local.x]]
    env     = { "A=B" = "c", N = null }
  }

  step "shell" "thirteen" {
    command = "step ${step.one.reslut} ${step.one.result} ${file("nowhere.txt")} ${env("UNSET")}"
  }
}

# Nothing runs in this environment, but it is looked at all the same.
builder "copy" {
  workers = [worker.linux]
  env     = { TOKEN = secret.tokne }
  step "upload" "one" {
    from = "a"
    to   = "b"
  }
}

scheduler "force" "force" {
  builders = [builder.unit, builder.copy]
}
