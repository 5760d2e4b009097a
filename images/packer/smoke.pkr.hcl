# Whether Packer and QEMU work together on this machine, in seconds: it boots an image that powers off by itself, such as rouse's minimal image without
# settings for its agent, with the same builder as worker.pkr.hcl. BASE=FILE images/packer/build smoke

variable "base" {
  type = string
}

variable "base_checksum" {
  type = string
}

variable "accelerator" {
  type    = string
  default = "tcg"
}

variable "output" {
  type    = string
  default = "output"
}

source "qemu" "smoke" {
  disk_image       = true
  iso_url          = var.base
  iso_checksum     = var.base_checksum
  output_directory = var.output
  vm_name          = "smoke.qcow2"
  format           = "qcow2"
  disk_interface   = "virtio"
  net_device       = "virtio-net"
  accelerator      = var.accelerator
  memory           = 128
  headless         = true
  disable_vnc      = true
  boot_wait        = "0s"
  skip_compaction  = true
  skip_resize_disk = true
  communicator     = "none"
  shutdown_timeout = "2m"
  qemuargs         = [["-display", "none"]]
}

build {
  sources = ["source.qemu.smoke"]
}
