provider "test" "main" {}

worker "linux" {
  provider = provider.test.main
}

builder "a.b" {
  workers = [worker.linux]
  step "shell" "x" {
    command = "true"
  }
}

builder "dup" {
  workers   = [worker.linux]
  build_dir = "a.b"
  step "shell" "x" {
    command = "true"
  }
}

builder "nobody" {
  workers = []
  step "shell" "x" {
    command = "true"
  }
}

builder "lost" {
  step "shell" "x" {
    command = "true"
  }
}

builder "idle" {
  workers = [worker.linux]
}
