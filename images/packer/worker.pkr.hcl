# An image for latent workers: Debian with rouse-worker, for EC2 (an AMI) and for libvirt (a qcow2 file). Both are made by the same script.
#
#   images/packer/build qemu -var base=debian-12-genericcloud-amd64.qcow2     # leaves .cache/packer/rouse-worker.qcow2
#   images/packer/build amazon-ebs -var region=eu-west-1                       # needs credentials for AWS
#
# It holds no secret and no address of a master: an instance gets these when it is made, as user data (EC2, or libvirt with identity = "nocloud")
# or in its SMBIOS strings (libvirt's identity = "smbios" or "credential"). What builds need besides goes into setup, a script of your own.
#
# Written for Packer 1.6, as Debian has it, and for later ones; those from 1.10 on want their plugins first:
#   packer plugins install github.com/hashicorp/amazon
#   packer plugins install github.com/hashicorp/qemu

variable "worker" {
  type        = string
  description = "The static rouse-worker."
}

variable "setup" {
  type        = string
  default     = "images/packer/setup"
  description = "A script that installs what builds need; it runs as root before everything is cleaned."
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "instance_type" {
  type        = string
  default     = "t3.small"
  description = "What the image is made on, not what it is for."
}

variable "ami_owner" {
  type        = string
  default     = "136693071363"
  description = "Whose AMI it is made from: Debian's."
}

variable "ami_filter" {
  type    = string
  default = "debian-12-amd64-*"
}

variable "ami_user" {
  type    = string
  default = "admin"
}

variable "base" {
  type        = string
  default     = "debian-12-genericcloud-amd64.qcow2"
  description = "A cloud image in qcow2 that reads cloud-init's NoCloud."
}

variable "base_checksum" {
  type        = string
  default     = "none"
  description = "Such as sha512:… or file:SHA512SUMS."
}

variable "accelerator" {
  type        = string
  default     = "kvm"
  description = "tcg where there is no kvm; it takes ten times as long."
}

variable "disk_size" {
  type    = string
  default = "8G"
}

variable "compact" {
  type        = bool
  default     = true
  description = "Whether the finished file is made as small as it can be, which takes a while."
}

variable "seed" {
  type        = string
  description = "A directory with cloud-init's user-data and meta-data that let the key below in as root. images/packer/build makes it."
}

variable "ssh_key" {
  type        = string
  description = "The private key, for the time of the build only."
}

variable "output" {
  type    = string
  default = "output"
}

source "amazon-ebs" "worker" {
  region        = var.region
  instance_type = var.instance_type
  ssh_username  = var.ami_user
  ami_name      = "rouse-worker-{{timestamp}}"

  source_ami_filter {
    owners      = [var.ami_owner]
    most_recent = true
    filters = {
      name                = var.ami_filter
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
  }

  # newest_by and a filter on this tag find it: ami { owners = ["self"]  filters = { "tag:image" = "rouse-worker" } }
  tags = {
    image = "rouse-worker"
    base  = "{{ .SourceAMIName }}"
  }
  # Debian's Packer does not know this block yet. With a later one the machine that the image is made on, too, gives nothing to those who cannot ask for a
  # token first (IMDSv2; rouse's own instances never do):
  #
  # metadata_options {
  #   http_endpoint               = "enabled"
  #   http_tokens                 = "required"
  #   http_put_response_hop_limit = 1
  # }
  run_tags        = { Name = "packer rouse-worker" }
  run_volume_tags = { Name = "packer rouse-worker" }
}

source "qemu" "worker" {
  disk_image       = true
  iso_url          = var.base
  iso_checksum     = var.base_checksum
  output_directory = var.output
  vm_name          = "rouse-worker.qcow2"
  format           = "qcow2"
  disk_size        = var.disk_size
  disk_interface   = "virtio"
  net_device       = "virtio-net"
  accelerator      = var.accelerator
  memory           = 1024
  skip_compaction  = !var.compact
  headless         = true
  disable_vnc      = true
  boot_wait        = "0s"
  http_directory   = var.seed
  qemuargs = [
    ["-smbios", "type=1,serial=ds=nocloud-net;s=http://10.0.2.2:{{ .HTTPPort }}/"],
    ["-display", "none"],
  ]

  communicator           = "ssh"
  ssh_username           = "root"
  ssh_private_key_file   = var.ssh_key
  ssh_timeout            = "15m"
  ssh_handshake_attempts = 500
  shutdown_command       = "poweroff"
}

build {
  sources = ["source.amazon-ebs.worker", "source.qemu.worker"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/rouse"]
  }
  provisioner "file" {
    source      = var.worker
    destination = "/tmp/rouse/rouse-worker"
  }
  provisioner "file" {
    source      = var.setup
    destination = "/tmp/rouse/setup"
  }
  provisioner "file" {
    source      = "images/debian/rouse-smbios.service"
    destination = "/tmp/rouse/rouse-smbios.service"
  }
  provisioner "file" {
    source      = "images/debian/rouse-credential.service"
    destination = "/tmp/rouse/rouse-credential.service"
  }
  provisioner "file" {
    source      = "images/debian/net"
    destination = "/tmp/rouse/net"
  }
  provisioner "shell" {
    script          = "images/packer/provision"
    execute_command = "chmod +x {{ .Path }}; if [ $(id -u) = 0 ]; then {{ .Path }}; else sudo {{ .Path }}; fi"
  }
}
