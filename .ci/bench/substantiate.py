"""Workers that are made for their builds: what rouse adds to the time that the machines take. Instances are processes here (provider local)."""
import os
import time

from peer import Buildbot
from proc import until
from rouse import Rouse

HCL = """
master {
  listen         = "127.0.0.1:0"
  on_master_stop = "terminate"
}
provider "local" "here" {}
worker "w" {
  count              = %d
  provider           = provider.local.here
  build_wait_timeout = "0s"
  instance {}
}
builder "true" {
  workers = [worker.w]
  step "shell" "true" { command = ["/bin/true"] }
}
scheduler "force" "force" { builders = [builder.true] }
"""

# Times are microseconds. A row is one instance and the one build that it was made for.
TIMES = """
SELECT r.submitted_at, i.asked_at, i.attached_at, s.started_at, s.finished_at, i.doomed_at, i.gone_at
FROM instances i JOIN builds b ON b.instance = i.key JOIN requests r ON r.id = b.request JOIN steps s ON s.build = b.id AND s.number = 0
WHERE b.id > ? ORDER BY b.id
"""


def settled(m, builds):
    rows = m.db.execute(TIMES, (0,)).fetchall()
    return len(rows) == builds and all(r[-1] for r in rows)


def middle(values):
    return sorted(values)[len(values) // 2] / 1000


def rouse(scratch, say, alone=9, together=20):
    say("Rouse:")
    m = Rouse(os.path.join(scratch, "rouse-latent"), HCL % together)
    try:
        for n in range(alone):
            m.submit("true", 1)
            until("the build and its instance have ended", lambda n=n: settled(m, n + 1), 60, procs=[m.master])
            time.sleep(0.2)
        rows = m.db.execute(TIMES, (0,)).fetchall()
        attach_to_step = middle([r[3] - r[2] for r in rows])
        say(f"  substantiate: one at a time, medians of {alone}: request to the decision to make an instance {middle([r[1] - r[0] for r in rows]):.1f} ms, "
            f"boot and attach of the process {middle([r[2] - r[1] for r in rows]):.1f} ms, attach to first step {attach_to_step:.1f} ms, "
            f"last step to the decision to destroy {middle([r[5] - r[4] for r in rows]):.1f} ms "
            f"(BenchmarkSubstantiate measures until the provider is called), decision to proven gone {middle([r[6] - r[5] for r in rows]):.1f} ms")
        m.submit("true", together)
        until("all have ended", lambda: settled(m, alone + together), 120, procs=[m.master])
        rows = m.db.execute(TIMES, (alone,)).fetchall()
        first = min(r[0] for r in rows)
        say(f"  substantiate: {together} requests at once on {together} workers: all attached after {(max(r[2] for r in rows) - first) / 1000:.0f} ms, "
            f"all built after {(max(r[4] for r in rows) - first) / 1000:.0f} ms")
        return attach_to_step, (max(r[2] for r in rows) - first) / 1000
    finally:
        m.stop()


def buildbot(scratch, say, alone=3, together=20):
    """The same with Buildbot's own agent as a process and a latent worker class of twenty lines, which notes the times."""
    say("Buildbot:")
    names = [f"w-{i}" for i in range(together)]
    m = Buildbot(os.path.join(scratch, "buildbot-latent"), names, {"true": ["/bin/true"]}, latent=True)

    def run(n):
        before, began = m.notes(), time.time()
        m.submit("true", n)

        def ended():
            return sum(what == "destroyed" for what, _, _ in m.notes()[len(before):]) == n
        until("all instances are destroyed", ended, 180, 0.05, [m.master])
        lives = {name: {"submitted": began} for _, name, _ in m.notes()[len(before):]}
        for what, name, at in m.notes()[len(before):]:
            lives[name][what] = at
        return list(lives.values())
    try:
        m.master.settle()
        lives = [run(1)[0] for _ in range(alone)]

        def ms(a, b):
            return 1000 * sorted(v[b] - v[a] for v in lives)[alone // 2]
        attach_to_step = ms("attached", "started")
        say(f"  substantiate: one at a time, medians of {alone}: request to instance asked for {ms('submitted', 'asked'):.1f} ms, "
            f"boot and attach of the process {ms('asked', 'attached'):.1f} ms, attach to first step {attach_to_step:.1f} ms, "
            f"last step to destroy {ms('finished', 'destroyed'):.1f} ms")
        lives = run(together)
        all_attached = 1000 * max(v["attached"] - v["submitted"] for v in lives)
        say(f"  substantiate: {together} requests at once on {together} workers: all attached after {all_attached:.0f} ms, "
            f"all built after {1000 * max(v['finished'] - v['submitted'] for v in lives):.0f} ms")
        return attach_to_step, all_attached
    finally:
        m.stop()
