"""A rouse master with its workers."""
import json
import os
import re
import socket
import sqlite3
import threading

from proc import Failed, Proc, until

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.join(HERE, "..", "..", "bin")
PASSWORD = "benchmark"


class Rouse:
    name = "rouse"

    def __init__(self, directory, config):
        self.dir = directory
        os.makedirs(self.dir)
        with open(os.path.join(self.dir, "rouse.hcl"), "w") as f:
            f.write(config)
        self.state = os.path.join(self.dir, "state")
        out = os.path.join(self.dir, "out")
        env = {"PATH": os.environ["PATH"], "HOME": self.dir, "TMPDIR": self.dir, "PW": PASSWORD}
        with open(out, "wb") as f:
            self.master = Proc([os.path.join(BIN, "rouse"), "master", "-config", self.dir, "-state", self.state], os.path.join(self.dir, "master.log"),
                               env=env, stdout=f)

        def serves():
            with open(out) as f:
                return re.search(r"serves workers on (\S+)", f.read())
        try:
            self.address = until("rouse serves", serves, procs=[self.master])[1]
        except BaseException:
            self.master.stop()
            raise
        self.workers = []
        self.db = sqlite3.connect(f"file:{self.state}/rouse.db?mode=ro", uri=True, isolation_level=None)

    def start_workers(self, names):
        for n in names:
            base = os.path.join(self.dir, n)
            env = {"PATH": os.environ["PATH"], "HOME": self.dir, "ROUSE_WORKER_PASSWORD": PASSWORD}
            self.workers.append(Proc([os.path.join(BIN, "rouse-worker"), "run", "-master", "ws://" + self.address, "-name", n, "-basedir", base],
                                     base + ".log", env=env))
        self.until_attached(len(names))

    def until_attached(self, n, seconds=60):
        until(f"{n} workers are attached", lambda: self.attached() >= n, seconds, 0.2, [self.master, *self.workers])

    def attached(self):
        """Agents that have been admitted."""
        return sum(int(n) for n in re.findall(r"^rouse_worker_attaches_total{.*} (\d+)", self.get("/metrics"), re.M))

    @staticmethod
    def names(n):
        """What worker "w" with this count makes."""
        return [f"w-{i}" for i in range(1, n + 1)]

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.connect(os.path.join(self.state, "rouse.sock"))
        return s

    def get(self, path):
        with self.connect() as s:
            s.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return b"".join(iter(lambda: s.recv(1 << 16), b"")).decode()

    def submit(self, builder, n):
        """Orders n builds through the API, as any client does: one request each, on a few connections."""
        lanes = min(n, 16)
        errors = []

        def lane(count):
            try:
                body = json.dumps({"builder": builder}).encode()
                one = b"POST /api/v1/force HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                with self.connect() as s, s.makefile("rb") as answers:
                    s.sendall(one * count)
                    for _ in range(count):
                        status, size = answers.readline(), 0
                        while (line := answers.readline().strip()):
                            key, _, value = line.partition(b":")
                            if key.lower() == b"content-length":
                                size = int(value)
                        text = answers.read(size)
                        if b" 200 " not in status and b" 201 " not in status and b" 202 " not in status:
                            raise Failed(f"force: {status!r} {text!r}")
            except BaseException as e:
                errors.append(e)
        threads = [threading.Thread(target=lane, args=(n // lanes + (i < n % lanes),)) for i in range(lanes)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if errors:
            raise errors[0]

    def finished(self):
        """(builds that have ended, those of them that did not succeed)"""
        return self.db.execute("SELECT count(*), count(*) FILTER (WHERE result <> 0) FROM builds WHERE phase = 2").fetchone()

    def stop(self):
        self.db.close()
        for p in [*self.workers, self.master]:
            p.stop()
