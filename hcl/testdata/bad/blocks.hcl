# Unknown blocks and attributes, wrong labels, duplicates.
wroker "linux" {}

provider "tset" "main" {}

provider "test" "main" {}

provider "test" "main" {
  regoin = "eu"
}

worker "linux" {
  provider = provider.test.main
  instance {
    imaeg = "debian"
  }
  instance {}
}

worker "linux" {
  provider = provider.test.main
}

worker "debug" {
  password = secret.pw
}

worker "two words" {}

worker "counted" {
  provider = provider.test.main
  count    = 2
}

worker "counted-2" {
  provider = provider.test.main
}

worker "a-name-that-is-so-long-that-nobody-could-want-to-type-it" {
  provider = provider.test.main
}

master {}

master {
  nmae = "x"
}

scheduler "hourly" "x" {}

builder "unit" {
  wrokers = ["linux"]
  stp "shell" "x" {}
}

locals {
  a = 1
}

locals {
  a = 2
}

secret "none" {}

secret "two" {
  env  = "A"
  file = "b"
}
