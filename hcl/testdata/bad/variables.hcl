variable "needed" {
  type = string
}

variable "number" {
  type    = number
  default = "many"
}

variable "odd" {
  type = strnig
}

variable "checked" {
  default = 3
  validation {
    condition     = var.checked > 5
    error_message = "It must be above 5."
  }
}

variable "hidden" {
  sensitive = true
  default   = "hush"
}

locals {
  a = local.b
  b = local.c
  c = local.a
  d = local.e
}

provider "test" "main" {}

worker "linux" {
  provider   = provider.test.main
  properties = { hidden = "x${var.hidden}" }
}

builder "unit" {
  workers     = [worker.linux]
  description = var.hidden
  step "shell" "x" {
    command = var.number
    env     = { HIDDEN = var.hidden }
  }
}

scheduler "force" "force" {
  builders = [builder.unit]
}
