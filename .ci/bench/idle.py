"""Many idle sessions: what each costs the master."""
import os
import subprocess
import sys
import time

from peer import Buildbot
from proc import Proc, until
from rouse import PASSWORD, Rouse

HERE = os.path.dirname(os.path.abspath(__file__))
HCL = """
master { listen = "127.0.0.1:0" }
secret "pw" { env = "PW" }
worker "w" {
  count    = %d
  password = secret.pw
}
builder "true" {
  workers = [worker.w]
  step "shell" "true" { command = ["/bin/true"] }
}
"""


def measure(m, n, clients, say):
    """Attaches n agents, which other processes play, and returns bytes of the master's memory per session."""
    m.master.settle()
    before = m.master.memory()
    m.workers += clients(n)
    m.until_attached(n, 60 + n / 10)
    m.master.settle(300)
    each = (m.master.memory() - before) / n
    cpu, seconds = m.master.cpu(), 10
    time.sleep(seconds)
    say(f"  idle: {n} attached workers: {each / 1024:.1f} KiB of the master's memory each, {100 * (m.master.cpu() - cpu) / seconds:.2f} % CPU while they do nothing")
    return each


def rouse(scratch, n, say):
    say("Rouse:")
    m = Rouse(os.path.join(scratch, "rouse-idle"), HCL % n)
    try:
        def clients(n):
            names = os.path.join(m.dir, "names")
            with open(names, "w") as f:
                f.write("\n".join(Rouse.names(n)))
            return [Proc([sys.executable, "-B", os.path.join(HERE, "agents.py"), m.address, PASSWORD, names], os.path.join(m.dir, "agents.log"))]
        return measure(m, n, clients, say)
    finally:
        m.stop()


def buildbot(scratch, n, say):
    say("Buildbot:")
    names = [f"w-{i}" for i in range(n)]
    m = Buildbot(os.path.join(scratch, "buildbot-idle"), names, {"true": ["/bin/true"]})
    try:
        def clients(n):
            code = ("import sys\n"
                    "from twisted.internet import reactor\n"
                    "from buildbot_worker.bot import Worker\n"
                    "base, port, password, *names = sys.argv[1:]\n"
                    "import os\n"
                    "for n in names:\n"
                    "    os.makedirs(base + '/' + n)\n"
                    "    Worker('127.0.0.1', int(port), n, password, base + '/' + n, keepalive=600).startService()\n"
                    "reactor.run()\n")
            return [Proc([sys.executable, "-c", code, os.path.join(m.dir, "agents"), str(m.port), PASSWORD, *names], os.path.join(m.dir, "agents.log"))]
        return measure(m, n, clients, say)
    finally:
        m.stop()
