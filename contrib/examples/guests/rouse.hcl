# Guests of this machine's libvirt, from the minimal image: the example of the README, which has the commands that prepare the host.

master {
  listen = "0.0.0.0:9989"
  url    = "ws://192.168.201.1:9989" # where guests find the worker port: the host in rouse-network
}

provider "libvirt" "here" {
  network = "rouse-network" # uri = "qemu:///system", pool = "default"; or host blocks: several machines, one provider
}

worker "guest" {
  provider           = provider.libvirt.here
  count              = 2
  build_wait_timeout = 0 # a fresh guest for every build

  instance {
    base_image = "minimal.qcow2" # a volume of the pool, or a path on the host
    memory     = "128MiB"
    fast       = true # from memory instead of booting
  }
}

builder "hello" {
  workers = [worker.guest]

  step "shell" "greet" {
    command     = "echo Hello from $(hostname); cat /proc/uptime"
    log_environ = false
  }
}

scheduler "force" "force" {
  builders = [builder.hello]
}
