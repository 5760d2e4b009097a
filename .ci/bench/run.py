"""Runs Buildbot and rouse one after the other with the same work, and compares what it costs their masters."""
import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

import idle
import substantiate
from peer import Buildbot
from proc import Failed, spawn_rate, until
from rouse import Rouse

HCL = """
master {
  listen = "127.0.0.1:0"
}
secret "pw" { env = "PW" }
worker "w" {
  count    = %d
  password = secret.pw
}
builder "true" {
  workers = [worker.w]
  step "shell" "true" { command = ["/bin/true"] }
}
builder "lines" {
  workers = [worker.w]
  step "shell" "lines" { command = %s }
}
builder "few" {
  workers = [worker.w]
  step "shell" "few" { command = %s }
}
scheduler "force" "force" { builders = [builder.true, builder.lines, builder.few] }
"""

MIB = 1 << 20
ratios = {}


def say(text):
    print(text, flush=True)


def ratio(name, rouse, buildbot, more_is_better=False):
    better, worse = (rouse, buildbot) if more_is_better else (buildbot, rouse)
    ratios[name] = better / worse if worse > 0 else float("inf")


def run_builds(master, builder, n, limit, settle=True):
    """Orders n builds and waits for their end. Returns (seconds until the last one ended, processor seconds of the master)."""
    p = master.master
    done = master.finished()[0]
    cpu, began = p.cpu(), time.monotonic()
    master.submit(builder, n)
    until(f"{master.name}: {n} builds have ended", lambda: master.finished()[0] >= done + n, limit, 0.01, [p])
    took = time.monotonic() - began
    if settle:
        p.settle()
    if bad := master.finished()[1]:
        raise Failed(f"{master.name}: {bad} builds failed")
    return took, p.cpu() - cpu


def lines_file(path):
    """1 MiB and a bit of 80-character lines as compilers and tests print them, no two alike, from a fixed seed."""
    rng = random.Random(1)
    with open(path, "w") as f:
        for n in range(13108):
            part, module = rng.choice(["core", "net", "ui", "db", "parser"]), f"{rng.randrange(2000):04d}"
            line = rng.choice([
                f"[{n:5d}/13108] gcc -O2 -g -Wall -Iinclude -c src/{part}/module_{module}.c -o build/{part}_{module}.o",
                f"=== RUN   Test{part.title()}Module{module}/case_{rng.randrange(100):02d} on worker {rng.randrange(8)}, seed {rng.getrandbits(32):08x}",
                f"--- PASS: Test{part.title()}Module{module} ({rng.random() * 10:.2f}s) after {rng.randrange(20)} steps, nothing left behind",
            ])
            f.write(f"{line:79.79}\n")


def argv(path, size):
    """A command that prints size bytes of the file, over and over."""
    return ["/bin/sh", "-c", f"while cat {path}; do :; done 2>/dev/null | head -c {size // 80 * 80}"]


def make(kind, scratch, o, workers=16):
    path = os.path.join(scratch, "lines")
    big, few = argv(path, int((o.rouse_mb if kind is Rouse else o.buildbot_mb) * 1e6)), argv(path, 1_000_000)
    names = [f"w-{i}" for i in range(workers)]
    where = os.path.join(scratch, kind.__name__.lower())
    if kind is Rouse:
        quoted = ["[" + ", ".join('"' + a + '"' for a in c) + "]" for c in (big, few)]
        m = Rouse(where, HCL % (workers, *quoted))
        names = m.names(workers)
    else:
        m = Buildbot(where, names, {"true": ["/bin/true"], "lines": big, "few": few})
    return m, names


def dispatch(m, n):
    run_builds(m, "true", 16, 120)  # what is loaded at first use is not the question
    took, cpu = run_builds(m, "true", n, 60 + n)
    say(f"  dispatch: {n} builds of /bin/true on 16 workers in {took:.2f} s: {n / took:.1f} builds/s, {1000 * cpu / n:.2f} ms of the master's CPU per build")
    return {"rate": n / took, "cpu": cpu / n}


def logs(m, mb):
    run_builds(m, "few", 1, 120)
    m.master.forget_peak()
    before = m.master.memory()
    took, cpu = run_builds(m, "lines", 1, 60 + 3 * mb)
    grown = (m.master.memory("VmHWM") - before) / MIB
    say(f"  logs: {mb:g} MB of 80-character lines in {took:.2f} s: {mb / took:.1f} MB/s, {mb / cpu:.1f} MB per CPU-second of the master "
        f"(compression included), {grown:.1f} MiB more memory at its peak")
    return {"rate": mb / took, "cpu": mb / cpu, "memory": grown}


def measure(kind, scratch, o):
    say(f"{kind.__name__}:")
    m, names = make(kind, scratch, o)
    try:
        m.start_workers(names)
        m.master.settle()
        got = {}
        if "dispatch" in o.only:
            got["dispatch"] = dispatch(m, o.rouse_builds if kind is Rouse else o.buildbot_builds)
        if "logs" in o.only:
            got["logs"] = logs(m, o.rouse_mb if kind is Rouse else o.buildbot_mb)
        return got
    finally:
        m.stop()


def main():
    a = argparse.ArgumentParser(prog="bench-vs-buildbot", description=__doc__)
    a.add_argument("--rouse-builds", type=int, default=500)
    a.add_argument("--buildbot-builds", type=int, default=60)
    a.add_argument("--rouse-mb", type=float, default=1000)
    a.add_argument("--buildbot-mb", type=float, default=50)
    a.add_argument("--rouse-sessions", type=int, default=10_000)
    a.add_argument("--buildbot-sessions", type=int, default=200)
    a.add_argument("--only", nargs="+", default=["dispatch", "logs", "idle", "substantiate"], choices=["dispatch", "logs", "idle", "substantiate"])
    a.add_argument("--keep", action="store_true", help="keep all files, logs among them")
    a.add_argument("--peers-only", action="store_true", help="run only Buildbot")
    a.add_argument("--scratch", help="directory on the disk to measure on (default: .cache/bench)")
    o = a.parse_args()
    root = o.scratch or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".cache", "bench")
    os.makedirs(root, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=os.path.realpath(root))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        compare(scratch, o)
    except Failed as e:
        say(f"failed: {e}")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        if o.keep:
            say(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    for name, value in ratios.items():
        say(f"{name}_ratio={value:.1f}")
    return 0


def compare(scratch, o):
    with open("/proc/loadavg") as f:
        load = f.read().split()[0]
    say(f"{os.cpu_count()} processors, load {load}. Each master with its SQLite and its logs in one directory of the same disk; the processor time is the master process's alone.")
    lines_file(os.path.join(scratch, "lines"))
    if {"dispatch", "logs"} & set(o.only):
        if o.peers_only:
            measure(Buildbot, scratch, o)
            return
        spawns = spawn_rate()
        r, b = measure(Rouse, scratch, o), measure(Buildbot, scratch, o)
        if "dispatch" in o.only:
            ratio("dispatch_cpu", r["dispatch"]["cpu"], b["dispatch"]["cpu"])
            ratio("dispatch_rate", r["dispatch"]["rate"], b["dispatch"]["rate"], True)
            say(f"Two loops that only fork, exec and wait for /bin/true reach {spawns:.0f} per second here: rouse's builds are {100 * r['dispatch']['rate'] / spawns:.1f} % of that.")
        if "logs" in o.only:
            ratio("logs_cpu", r["logs"]["cpu"], b["logs"]["cpu"], True)
            ratio("logs_rate", r["logs"]["rate"], b["logs"]["rate"], True)
            say(f"log_memory_growth_mib: rouse {r['logs']['memory']:.1f} for {o.rouse_mb:g} MB, Buildbot {b['logs']['memory']:.1f} for {o.buildbot_mb:g} MB")
    if "idle" in o.only:
        r, b = idle.rouse(scratch, o.rouse_sessions, say), idle.buildbot(scratch, o.buildbot_sessions, say)
        ratio("idle_memory", r, b)
    if "substantiate" in o.only:
        r, b = substantiate.rouse(scratch, say), substantiate.buildbot(scratch, say)
        ratio("attach_to_step", r[0], b[0])
        ratio("twenty_attached", r[1], b[1])


if __name__ == "__main__":
    sys.exit(main())
