"""A Buildbot master with its workers, as its own commands make them."""
import os
import socket
import sqlite3
import subprocess
import sys

from proc import Failed, Proc, free_port, until

BIN = os.path.dirname(sys.executable)
PASSWORD = "benchmark"

CONFIG = r"""
import os, subprocess, sys, time
from twisted.internet import defer, endpoints, protocol
from twisted.protocols import basic
from buildbot.plugins import schedulers, steps, util, worker
from buildbot.worker import AbstractLatentWorker
from buildbot.util.service import BuildbotService

names, latent = %(names)r, %(latent)r

def note(what, name):
    with open(%(notes)r, "a") as f:
        f.write("%%s %%s %%.6f\n" %% (what, name, time.time()))

class Instance(AbstractLatentWorker):
    "A worker that is a process, made for a build: Buildbot's own agent, without the time that twistd takes."
    agent = ("import sys; from twisted.internet import reactor; from buildbot_worker.bot import Worker\n"
             "base, name = sys.argv[1:]\n"
             "Worker('127.0.0.1', %(port)d, name, %(password)r, base, keepalive=600).startService(); reactor.run()")
    def start_instance(self, build):
        note("asked", self.name)
        base = os.path.join(%(instances)r, self.name)
        os.makedirs(base, exist_ok=True)
        self.process = subprocess.Popen([sys.executable, "-c", self.agent, base, self.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return defer.succeed(True)
    def attached(self, conn):
        note("attached", self.name)
        return super().attached(conn)
    def stop_instance(self, fast=False):
        note("destroyed", self.name)
        self.process.kill()
        self.process.wait()
        return defer.succeed(True)

class Noted(steps.ShellCommand):
    "A shell step that says when it starts and ends."
    @defer.inlineCallbacks
    def run(self):
        note("started", self.getProperty("workername"))
        result = yield super().run()
        note("finished", self.getProperty("workername"))
        return result

class Orders(basic.LineOnlyReceiver):
    delimiter = b"\n"
    @defer.inlineCallbacks
    def lineReceived(self, line):
        builder, n = line.decode().split()
        updates = self.factory.master.data.updates
        builderid = yield updates.findBuilderId(builder)
        for _ in range(int(n)):
            yield updates.addBuildset(waited_for=False, scheduler="bench", reason="bench", builderids=[builderid],
                sourcestamps=[{"codebase": "", "repository": "", "branch": None, "revision": None, "project": ""}])
        self.sendLine(b"done")

class Control(BuildbotService):
    "Takes orders for builds on a socket, as a scheduler would: what it costs is what addBuildset costs."
    name = "control"
    @defer.inlineCallbacks
    def startService(self):
        yield super().startService()
        from twisted.internet import reactor
        f = protocol.Factory.forProtocol(Orders)
        f.master = self.master
        self.port = yield endpoints.UNIXServerEndpoint(reactor, %(socket)r).listen(f)
    @defer.inlineCallbacks
    def stopService(self):
        yield self.port.stopListening()
        yield super().stopService()

c = BuildmasterConfig = {
    "workers": [Instance(n, %(password)r, build_wait_timeout=0) if latent else worker.Worker(n, %(password)r) for n in names],
    "protocols": {"pb": {"port": "tcp:%(port)d:interface=127.0.0.1"}},
    "builders": [util.BuilderConfig(name=b, workernames=names, factory=util.BuildFactory([(Noted if latent else steps.ShellCommand)(command=argv)]))
        for b, argv in %(builders)r.items()],
    "schedulers": [schedulers.ForceScheduler(name="force", builderNames=list(%(builders)r))],
    "services": [Control()],
    "collapseRequests": False,
    "buildbotNetUsageData": None,
    "title": "bench", "titleURL": "http://localhost/", "buildbotURL": "http://localhost/",
    "db": {"db_url": "sqlite:///state.sqlite"},
}
"""


class Buildbot:
    name = "Buildbot"

    def __init__(self, directory, names, builders, latent=False):
        self.dir, self.noted = directory, os.path.join(directory, "notes")
        self.env = {"PATH": BIN + ":" + os.environ["PATH"], "HOME": directory, "TMPDIR": directory, "LANG": "C.UTF-8"}
        os.makedirs(directory)
        base = os.path.join(directory, "master")
        self.run("buildbot", "create-master", base)
        self.port, self.socket = free_port(), os.path.join(directory, "orders")
        with open(os.path.join(base, "master.cfg"), "w") as f:
            f.write(CONFIG % {"names": names, "password": PASSWORD, "port": self.port, "socket": self.socket, "builders": builders, "latent": latent,
                              "notes": self.noted, "instances": os.path.join(directory, "instances")})
        self.workers = []
        self.db = None
        self.master = self.twistd(base)
        try:
            until("Buildbot serves", lambda: os.path.exists(self.socket), 60, procs=[self.master])
            self.db = sqlite3.connect(f"file:{base}/state.sqlite?mode=ro", uri=True, isolation_level=None, timeout=60)
        except BaseException:
            self.stop()
            raise

    def run(self, *argv):
        r = subprocess.run([os.path.join(BIN, argv[0]), *argv[1:]], env=self.env, capture_output=True, text=True)
        if r.returncode:
            raise Failed(f"{argv}: {r.stdout}{r.stderr}")

    def twistd(self, base):
        return Proc([os.path.join(BIN, "twistd"), "--nodaemon", "--no_save", "--logfile=twistd.log", "--python=buildbot.tac"], os.path.join(base, "twistd.log"),
                    env=self.env, cwd=base)

    def start_workers(self, names):
        for n in names:
            base = os.path.join(self.dir, n)
            self.run("buildbot-worker", "create-worker", base, f"127.0.0.1:{self.port}", n, PASSWORD)
            self.workers.append(self.twistd(base))
        self.until_attached(len(names))

    def until_attached(self, n, seconds=120):
        until(f"{n} workers are attached", lambda: self.attached() >= n, seconds, 0.2, [self.master, *self.workers])

    def attached(self):
        return self.db.execute("SELECT count(*) FROM connected_workers").fetchone()[0]

    def submit(self, builder, n):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(600)
            s.connect(self.socket)
            s.sendall(f"{builder} {n}\n".encode())
            if not s.recv(100):
                raise Failed("Buildbot did not take the order")

    def finished(self):
        return self.db.execute("SELECT count(*), count(*) FILTER (WHERE results <> 0) FROM builds WHERE results IS NOT NULL").fetchone()

    def notes(self):
        """[(what, worker, seconds)] of latent workers, in order."""
        if not os.path.exists(self.noted):
            return []
        with open(self.noted) as f:
            return [(what, name, float(at)) for what, name, at in (line.split() for line in f if line.endswith("\n"))]

    def stop(self):
        if self.db:
            self.db.close()
        for p in [*self.workers, self.master]:
            p.stop()
