#!/usr/bin/env python3
"""Real services under load from a seeded plan of faults; check.py judges what came of it.

    chaos.py [--seed N] [--minutes M] [--driver null|oci|docker] [--faults PER_MINUTE] [--jobs MOST] [--dir DIRECTORY]

Two api, two dispatchers (one a standby), two vmms and a redis-server with appendfsync always. The plan is made of the seed
alone: the same seed is the same plan, though not the same run. What is done to each process: SIGKILL and a new start, SIGSTOP
for a moment or past its lease and SIGCONT, SIGTERM and a new start; Redis is killed and started; the callback receiver is slow,
answers 500, hangs, closes early. MILONGA_BUILD is the build.
"""

import argparse
import collections
import heapq
import itertools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import rig  # noqa: E402
from harness import engine as engine_module, image  # noqa: E402

SETTINGS = {"dup_window_ms": "1d", "callback_delay_ms": "100ms", "dead_max_jobs": "10000000",
            "callback_max_tries": "1000", "callback_parallel": "32"}
# (weight, what is done, to whom)
FAULTS = [(30, "kill", "vmm"), (22, "kill", "api"), (12, "kill", "dispatcher"), (4, "kill", "redis"),
          (6, "stop", "vmm"), (3, "stop", "api"), (4, "stop", "dispatcher"), (2, "stop", "redis"),
          (5, "term", "vmm"), (4, "term", "api"), (3, "term", "dispatcher"),
          (5, "mood", "receiver")]
LOADS = {"null": {"threads": 16, "live": 400, "slots": "16"}, "oci": {"threads": 8, "live": 24, "slots": "3"},
         "docker": {"threads": 6, "live": 8, "slots": "2"}}


def plan(seed, seconds, per_minute):
    """[(when, what, whom, which one, for how long, detail)] by rising time."""
    rng, now, out = random.Random(seed), 0.0, []
    while True:
        now += rng.expovariate(per_minute / 60)
        if now >= seconds:
            return out
        _, what, whom = rng.choices(FAULTS, [f[0] for f in FAULTS])[0]
        which, detail = rng.randrange(2), ""
        if what == "stop":
            long = rng.uniform(2.5, 5) if rng.random() < 0.6 else rng.uniform(0.05, 1)
        elif what == "mood":
            long, detail = rng.uniform(0.5, 4), rng.choice(["500", "slow", "hang", "close"])
        else:
            long = rng.choice([0, 0, rng.uniform(0, 0.5), rng.uniform(0, 3)])
        out.append((now, what, whom, which, long, detail))


class Load:
    """Clients that ask, each in a thread, as long as not too many jobs are under way."""

    def __init__(self, history, stack, receiver, driver, seed, most):
        self.history, self.stack, self.receiver, self.driver, self.most = history, stack, receiver, driver, most
        self.numbers, self.lock = itertools.count(1), threading.Lock()
        self.quit, self.owed, self.asked = threading.Event(), set(), 0
        self.live = LOADS[driver]["live"]
        self.threads = [threading.Thread(target=self.run, args=(random.Random(f"{seed}/{i}"),), daemon=True)
                        for i in range(LOADS[driver]["threads"])]
        self.files = {f"{i}.mk": rig.NULL_JOB % ms for i, ms in enumerate((0, 5, 20, 100))} if driver == "null" else \
            {f"{i}.mk": rig.REAL_JOB % s for i, s in enumerate(("0", "0.1", "0.5", "1"))}

    def start(self):
        rig.Client(self.history, self.stack.ports, self.stack.image).prepare(self.files)
        for t in self.threads:
            t.start()

    def under_way(self):
        with self.lock:
            self.owed -= self.receiver.whole.keys()
            return len(self.owed)

    def run(self, rng):
        client = rig.Client(self.history, self.stack.ports, self.stack.image, timeout=4)
        rng.shuffle(client.ports)
        done = collections.deque()
        while not self.quit.is_set():
            with self.lock:
                go = self.asked < self.most
                self.asked += go
            if not go:
                return
            while self.under_way() >= self.live and not self.quit.wait(0.02):
                pass
            req = f"r{next(self.numbers)}"
            wanted = rng.random() < 0.95
            ident = client.submit(req, self.receiver.url(req) if wanted else None, rng.choice(list(self.files)))
            if ident and wanted:
                with self.lock:
                    self.owed.add(req)
                done.append(req)
            if rng.random() < 0.05:
                self.read(client, done)

    def read(self, client, done):
        """One that has been called back for can be polled for, from then on."""
        while done and done[0] not in self.receiver.whole:
            done.rotate(-1)
            if done[0] not in self.receiver.whole:
                return
        if done:
            try:
                client.poll(done.popleft())
            except rig.Refused:
                pass  # nobody answered in so long; what is read is judged, not that it could be

    def stop(self):
        self.quit.set()
        for t in self.threads:
            t.join(90)


class Faults:
    """Carries the plan out. One thing at a time is done to a process; what finds it busy is left out."""

    def __init__(self, history, stack, receiver):
        self.history, self.stack, self.receiver = history, stack, receiver
        self.busy, self.later, self.numbers = set(), [], itertools.count()
        self.counts = collections.Counter()

    def process(self, whom, which):
        return self.stack.redis.process if whom == "redis" else getattr(self.stack, f"{whom}s")[which]

    def after(self, seconds, what):
        heapq.heappush(self.later, (time.monotonic() + seconds, next(self.numbers), what))

    def do(self, what, whom, which, long, detail):
        if what == "mood":
            self.note(what, whom, detail)
            self.receiver.set_mood(detail)
            self.after(long, lambda: self.receiver.set_mood("ok"))
            return
        p = self.process(whom, which)
        if p in self.busy or not p.running():
            return
        self.busy.add(p)
        self.note(what, whom, f"{p.name} {long:.2f}")
        if what == "kill":
            p.kill()
            self.after(long, lambda: self.up(p))
        elif what == "stop":
            p.signal(signal.SIGSTOP)
            self.after(long, lambda: (p.signal(signal.SIGCONT), self.busy.discard(p)))
        else:
            p.signal(signal.SIGTERM)
            self.after(0.05, lambda: self.ended(p, time.monotonic() + 20, long))

    def note(self, what, whom, detail):
        self.counts[f"{what} {whom}"] += 1
        self.history.add("fault", what=what, who=f"{whom} {detail}")

    def up(self, p):
        p.start()
        self.busy.discard(p)

    def ended(self, p, until, long):
        if p.running() and time.monotonic() < until:
            self.after(0.05, lambda: self.ended(p, until, long))
            return
        if p.running():
            self.note("kill", p.name, "did not end in 20 s of SIGTERM")
            p.kill()
        self.after(long, lambda: self.up(p))

    def due(self):
        while self.later and self.later[0][0] <= time.monotonic():
            heapq.heappop(self.later)[2]()

    def run(self, steps, over):
        """Until the plan is through or over() says so."""
        began = time.monotonic()
        for when, *step in steps:
            while time.monotonic() < began + when and not over():
                self.due()
                time.sleep(0.01)
            if over():
                break
            self.do(*step)
        while self.later:
            self.due()
            time.sleep(0.01)


class Watch:
    """What runs on this host of any machine, a look a second, for the judge to compare with the ends of attempts."""

    def __init__(self, history, stack):
        self.history, self.stack, self.quit = history, stack, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.quit.wait(1):
            at = int(time.time() * 1000)
            for base in rig.clean.tops(self.stack.name):
                for procs in base.glob("*/*/cgroup.procs"):
                    try:
                        pids = procs.read_text().split()
                    except OSError:
                        continue
                    for pid in pids:
                        self.history.add("seen", pid=int(pid), machine=procs.parent.name, at=at)

    def stop(self):
        self.quit.set()
        self.thread.join()


def run(args, directory):
    driver, engine = args.driver, None
    # A warm machine at the end would be one left behind, as the system sees it.
    settings = dict(SETTINGS, slots=LOADS[driver]["slots"], pool_size="1" if driver == "null" else "0")
    try:
        if driver == "docker":
            (directory / "e").mkdir()
            engine = engine_module.Dockerd(directory / "e").start()
            engine.load(image.tarball())
            settings["docker_url"] = engine.url
        stack = rig.Stack(directory, driver=driver, apis=2, dispatchers=2, vmms=2, **settings)
        if engine:
            stack.engine_url = engine.url
        history = rig.History(directory / "history.jsonl")
        history.add("begin", driver=driver, prefix=rig.PREFIX, job_retries=2, pipe_lease_ms=3000)
        receiver = rig.Receiver(history)
        try:
            stack.start()
            return under_load(args, directory, stack, history, receiver)
        finally:
            receiver.stop()
            stack.stop_hard()
            rig.clean.remove_groups(stack)
    finally:
        if engine:
            engine.stop()


def under_load(args, directory, stack, history, receiver):
    steps = plan(args.seed, args.minutes * 60, args.faults)
    load = Load(history, stack, receiver, args.driver, args.seed, args.jobs)
    faults, watch = Faults(history, stack, receiver), Watch(history, stack)
    began = time.monotonic()
    if args.driver == "oci":
        watch.thread.start()
    load.start()
    faults.run(steps, lambda: not any(t.is_alive() for t in load.threads))
    while args.fill and any(t.is_alive() for t in load.threads):
        time.sleep(0.1)
    load.stop()
    took = time.monotonic() - began
    try:
        settled = rig.settle(stack, 120)
        print(f"settled {settled:.1f} s after the last request", flush=True)
    except AssertionError as e:
        print(f"{e}", flush=True)
    if args.driver == "oci":
        watch.stop()
    history.flush()
    rig.dump(stack, directory / "final.json")
    stack.sane()
    print(f"seed {args.seed}, {args.driver}, {took:.0f} s: " + ", ".join(f"{n} {what}" for what, n in sorted(faults.counts.items())) +
          f"; {sum(n for w, n in faults.counts.items() if w.startswith('kill'))} kills", flush=True)
    return subprocess.run([sys.executable, pathlib.Path(__file__).parent / "check.py", directory]).returncode


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--driver", default="null", choices=sorted(LOADS))
    parser.add_argument("--faults", type=float, default=None, help="faults a minute")
    parser.add_argument("--jobs", type=int, default=10 ** 9, help="most jobs")
    parser.add_argument("--fill", action="store_true", help="go on without faults until there were so many jobs")
    parser.add_argument("--dir", default=None, help="keep the run here")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = random.randrange(10 ** 6)
    if args.faults is None:
        args.faults = 90 if args.driver == "null" else 30
    directory = pathlib.Path(args.dir or tempfile.mkdtemp(prefix="mtx."))
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    print(f"seed {args.seed}", flush=True)
    failed = True
    try:
        failed = bool(run(args, directory))
    finally:
        if args.dir or (failed and os.environ.get("MILONGA_CHAOS_KEEP")):
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
