# Latent workers as guests of libvirt: small ones that are there in a second, ordinary ones from a cloud image on two hosts, one from a domain that somebody
# made with virt-manager, and one whose name comes from the network. Every guest boots a clone of its own and is thrown away whole.
#
#   rouse image build minimal -out /var/lib/libvirt/images       # on the host: a kernel, a small userland, the agent
#   rouse image build debian -out /var/lib/libvirt/images        # Debian with cloud-init, git and a compiler
#   rouse libvirt network -config contrib/examples/libvirt > network.xml
#   virsh net-define network.xml && virsh net-start rouse-network && virsh net-autostart rouse-network
#   rouse image test minimal -dir /var/lib/libvirt/images -network rouse-network -worker quick-1 -listen 192.168.201.1:0
#   rouse plan contrib/examples/libvirt                          # asks the hosts: image, pool, network, room

variable "master_url" {
  type        = string
  description = "how guests reach the worker port, such as ws://192.168.201.1:9989"
  default     = "ws://192.168.201.1:9989"
}

master {
  name   = "libvirt-example"
  listen = "0.0.0.0:9989"
  url    = var.master_url
}

# This machine's libvirt.
provider "libvirt" "here" {
  network = "rouse-network"
  memory  = "24GiB" # what guests may have of it together; default: all that it has
  vcpus   = 16
}

# Two more, as one provider: an instance goes where it fits. Disks are cloned there, through libvirt; nothing is copied from the master.
provider "libvirt" "farm" {
  pool    = "ssd"
  network = "rouse-network"

  host "left" {
    uri   = "qemu+ssh://root@left.example.org/system"
    slots = 8
  }
  host "right" {
    uri   = "qemu+ssh://root@right.example.org/system"
    slots = 8
  }
}

# From memory: one guest is booted once, saved where its agent waits for an identity, and every instance goes on from there with a name, an address and a
# disk of its own. It is made anew when image or definition change.
worker "quick" {
  provider           = provider.libvirt.here
  count              = 4
  build_wait_timeout = "0s" # a fresh guest for every build

  instance {
    base_image = "minimal.qcow2" # a volume of the pool, or an absolute path on the host
    memory     = "256MiB"
    fast       = true
  }
}

# Any cloud image with rouse-worker in it: cloud-init gets the settings from a small disk that is made for each instance.
worker "linux" {
  provider           = provider.libvirt.farm
  count              = 8
  build_wait_timeout = "10m"
  missing_timeout    = "5m" # from the request until the agent has attached
  orphan_timeout     = "10m"

  instance {
    base_image = "debian.qcow2"
    memory     = "4GiB"
    vcpus      = 2
    identity   = "nocloud"
    graceful   = "20s" # ACPI first, the plug after that
    user_data  = <<-END
      #cloud-config
      write_files:
      - path: /etc/gitconfig
        content: |
          [advice]
            detachedHead = false
    END
  }
}

# A domain that is defined on the host under the worker's own name, with whatever hardware it needs. It is the template: never started and never changed.
worker "windows" {
  provider        = provider.libvirt.here
  missing_timeout = "15m"
  instance {
    identity = "none" # the image knows its worker's name and password
    graceful = "2m"
  }
  password = secret.guests
}

# The same with the definition kept beside the configuration: instance { xml = file("tablet.xml") }.

# One image for all, told its name by DHCP: contrib/libvirt/vmbuilder makes it.
secret "guests" {
  file = "/etc/rouse/guest-password"
}

worker "named" {
  provider = provider.libvirt.here
  count    = 2 # named-1, named-2: rouse libvirt network puts both into the network's definition
  password = secret.guests
  instance {
    base_image = "worker.qcow2"
    memory     = "1GiB"
    identity   = "dhcp"
  }
}

builder "lint" {
  workers = [worker.quick]
  step "shell" "lint" {
    command = "uname -a; cat /proc/uptime"
    timeout = "1m"
  }
}

builder "test" {
  workers = [worker.linux, worker.named]
  step "git" "checkout" {
    repository = "https://git.example.org/app.git"
  }
  step "shell" "test" {
    command = ["make", "test"]
    timeout = "20m"
  }
}

builder "installer" {
  workers = [worker.windows]
  step "shell" "installer" {
    command = ["build-installer"]
  }
}

scheduler "force" "force" {
  builders = [builder.lint, builder.test, builder.installer]
}
