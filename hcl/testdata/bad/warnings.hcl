# Not errors: a builder that nothing starts, an address that no mail is sent to.
provider "test" "main" {}

worker "linux" {
  provider          = provider.test.main
  notify_on_missing = "ops@example.org"
}

builder "unit" {
  workers = [worker.linux]
  step "shell" "x" {
    command = "true"
  }
}
