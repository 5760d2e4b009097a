
worker "a" {
  provider = provider.local.here
  instance {}
}
builder "x" {
  workers = [worker.a]
  step "shell" "s" {
    command = "echo ${worker.name"
    log_environ = false
  }
  step "shell" "t" {
    command = "echo"
  }
  step "shell" "u" { command = "true" }
}
scheduler "force" "force" { builders = [builder.x] }
