"""Processes that are measured: started in a session of their own, and ended whole."""
import os
import signal
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something did not run."""


class Proc:
    """One process. Its output goes to a file that is shown if it ends too early."""

    def __init__(self, argv, log, env=None, cwd=None, stdout=None):
        self.log = log
        with open(log, "ab") as f:
            self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout or f, stderr=f, env=env, cwd=cwd, start_new_session=True)
        self.pid = self.p.pid

    def check(self):
        if self.p.poll() is not None:
            with open(self.log, errors="replace") as f:
                raise Failed(f"{self.p.args[0]} ended with {self.p.returncode}:\n{f.read()[-3000:]}")

    def cpu(self):
        """Seconds of processor time of the process itself, all threads, without children."""
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self, name="VmRSS"):
        """Resident memory in bytes; VmHWM is the most since forget_peak."""
        with open(f"/proc/{self.pid}/status") as f:
            for line in f:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) * 1024
        raise Failed(f"no {name} of process {self.pid}")

    def forget_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w") as f:
            f.write("5")

    def settle(self, most=120):
        """Waits until the process has used next to no processor time for a second: what it does in the background is part of the figure."""
        end = time.monotonic() + most
        while time.monotonic() < end:
            before = self.cpu()
            time.sleep(1)
            if self.cpu() - before <= 2 / TICK:
                return
        raise Failed(f"{self.p.args[0]} is still busy after {most} s")

    def stop(self, sig=signal.SIGTERM):
        if self.p.poll() is None:
            self.p.send_signal(sig)
            try:
                self.p.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.p.wait()


def until(what, f, seconds=60, every=0.02, procs=()):
    """Waits until f() is true and returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        got = f()
        if got:
            return got
        for p in procs:
            p.check()
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(every)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def spawn_rate(seconds=1.0):
    """How many /bin/true per second two loops of fork, exec and wait reach side by side on this machine."""
    code = ("import os,sys,time\n"
            "n,end=0,time.monotonic()+%f\n"
            "while time.monotonic()<end:\n"
            "    os.waitpid(os.posix_spawn('/bin/true',['true'],{}),0)\n"
            "    n+=1\n"
            "print(n)\n") % seconds
    loops = [subprocess.Popen(["/usr/bin/env", "python3", "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    return sum(int(p.communicate()[0]) for p in loops) / seconds
