#!/usr/bin/env python3
"""Steady, modest load for long: does what the services hold come back to where it began?

    soak.py [--minutes M] [--warm MINUTES] [--rate JOBS_A_SECOND] [--dir DIRECTORY]

Two api, two dispatchers (one a standby), two vmms of the null driver and a redis-server with an AOF (everysec). Beside jobs
with callbacks: feedback polled for, output watched by SSE, jobs cancelled, files uploaded anew, lists and metrics read, bad
requests, and connections that are cut in the middle of one. Retention is short (dead jobs, files), so that it is at work all the time.

First the same load for --warm, until retention is at its limits and all caches are filled; then all stop asking, everything
settles, and what each process holds is written down. Then --minutes of load, a sample each few seconds (DIRECTORY/samples.csv), and the
same look again. A table says both, and the exit status is 1 when

  - a job was not called back for, or called back for twice with different content;
  - a process has another number of descriptors or threads than at the beginning;
  - its anonymous memory (Pss_Anon), or what Redis uses, grew by more than 1 MiB;
  - Redis has more clients, or it or the store more than 2 % more keys or files;
  - a service was started anew, logged an error, or left something behind.

MILONGA_BUILD is the build; its programs are copied first, so that building meanwhile changes nothing.
"""

import argparse
import collections
import csv
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import socket
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))

THREADS = 4
GROWN_BYTES = 1 << 20
SAMPLE_S = 5
SETTINGS = {"slots": "16", "pool_size": "2", "beat_ms": "500ms", "lease_ms": "3s", "leader_lease_ms": "2s", "reap_interval_ms": "10s",
            "redis_timeout_ms": "5s", "pipe_lease_ms": "10s", "dup_window_ms": "10s", "dead_max_jobs": "2000", "rejected_max_jobs": "100",
            "collect_interval_s": "5s", "collect_grace_s": "20s", "collect_quiet_s": "0", "log_level": "warn"}
QUIET_S = 60  # longer than every one of those, and than an idle connection is kept


def take_programs(directory):
    build = HERE.parents[2] / os.environ.get("MILONGA_BUILD", "build")
    mine = directory / "build"
    mine.mkdir()
    for name in ("milonga-api", "milonga-dispatcher", "milonga-vmm", "milonga", "autodriver", "hostdriver"):
        shutil.copy2(build / name, mine / name)
    os.environ["MILONGA_BUILD"] = str(mine)


class Load:
    """Who asks: THREADS clients, each a job every THREADS/rate seconds, and something else at some of them."""

    def __init__(self, rig, v1, stack, receiver, history, rate):
        self.rig, self.v1, self.stack, self.receiver, self.history = rig, v1, stack, receiver, history
        self.pause = THREADS / rate
        self.quit, self.numbers = threading.Event(), itertools.count(1)
        self.lock, self.counts, self.owed = threading.Lock(), collections.Counter(), set()
        self.threads, self.errors = [], []

    def start(self):
        self.quit.clear()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(THREADS)]
        for t in self.threads:
            t.start()

    def stop(self):
        self.quit.set()
        for t in self.threads:
            t.join(90)
        if self.errors:
            raise self.errors[0]

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def run(self, number):
        client = self.rig.Client(self.history, self.stack.ports, self.stack.image)
        client.ports = client.ports[number % 2:] + client.ports[:number % 2]
        extras = [(25, 0, self.watch), (25, 5, self.upload), (25, 10, self.cancel), (25, 15, self.bad), (50, 20, self.lists), (5, 1, self.read)]
        began, done = time.monotonic(), collections.deque()
        try:
            for turn in itertools.count():
                req = f"s{next(self.numbers)}"
                wanted = turn % 20 != 19
                ident = client.submit(req, self.receiver.url(req) if wanted else None, "20.mk" if turn % 25 else "300.mk")
                assert ident, f"{req} was not accepted"
                self.count("jobs")
                if wanted:
                    done.append(req)
                    with self.lock:
                        self.owed.add(req)
                for every, at, what in extras:
                    if turn % every == at:
                        what(client, ident, done)
                        self.count(what.__name__)
                late = time.monotonic() - began - (turn + 1) * self.pause
                if late > self.pause:
                    began += late  # a rate, not a debt
                if self.quit.wait(max(0, -late)):
                    return
        except Exception as e:  # told by stop(), in the thread that judges
            self.errors.append(e)
        finally:
            for conn in client.conns.values():
                conn.close()

    def watch(self, client, ident, done):
        _, end = self.v1.follow_output(self.v1.V1(client.ports[0]).stream(f"/v1/jobs/{ident}/output/stream"))
        assert end, f"the stream of {ident} was cut"

    def upload(self, client, ident, done):
        client.ask("POST", f"/upload/{self.rig.KEY}/{self.rig.LAB}/", random.randbytes(random.randrange(1, 1 << 16)),
                   {"Filename": f"data{random.randrange(20)}"}, good=client._ok)

    def cancel(self, client, ident, done):
        """That job is over before, or in the middle of it."""
        client.ask("POST", f"/v1/jobs/{ident}/cancel", headers={"Authorization": f"Bearer {self.rig.KEY}"}, good=lambda s, *_: s in (200, 202, 409))

    def bad(self, client, ident, done):
        port = client.ports[0]
        for method, path, body in (("GET", "/nowhere", None), ("GET", "/open/wrong/lab/", None), ("POST", f"/addJob/{self.rig.KEY}/{self.rig.LAB}/", "{"),
                                   ("POST", "/v1/jobs", "[]")):
            status, *_ = client.once(port, method, path, body)
            assert status in (400, 401, 404) or path.startswith(("/open", "/addJob")) and status == 200, (path, status)
        with socket.create_connection(("127.0.0.1", port)) as s:  # and goes
            s.sendall(b"POST /upload/" + f"{self.rig.KEY}/{self.rig.LAB}".encode() + b"/ HTTP/1.1\r\nHost: x\r\nFilename: cut\r\nContent-Length: 90000\r\n\r\nabc")

    def lists(self, client, ident, done):
        for path in ("/jobs/test/0/", "/jobs/test/1/", "/pool/test/", "/info/test/", "/readyz"):
            client.ask("GET", path, good=lambda s, *_: s == 200)
        for path in ("/metrics", "/v1/jobs?limit=100", "/v1/stats", "/v1/machines", f"/v1/jobs/{ident}/why"):
            client.ask("GET", path, headers={"Authorization": f"Bearer {self.rig.KEY}"}, good=lambda s, *_: s in (200, 409))

    def read(self, client, ident, done):
        while done and done[0] in self.receiver.whole:
            req = done.popleft()
            if not done or done[0] not in self.receiver.whole:
                client.poll(req)


def memory(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {k: int(re.search(rf"^{k}:\s+(\d+)", text, re.M)[1]) << 10 for k in ("Rss", "Pss", "Pss_Anon")}


class Look:
    """What each process holds, now."""

    def __init__(self, stack):
        self.stack, self.born = stack, {p.name: p.pid for p in stack.processes}

    def __call__(self):
        out = {}
        for p in self.stack.processes:
            base = pathlib.Path(f"/proc/{p.pid}")
            for what, value in memory(p.pid).items():
                out[p.name, what] = value
            out[p.name, "descriptors"] = len(os.listdir(base / "fd"))
            out[p.name, "threads"] = len(os.listdir(base / "task"))
        out["redis", "Rss"] = memory(self.stack.redis.process.pid)["Rss"]
        info = self.stack.redis.client.info()
        out["redis", "used"] = info["used_memory"]
        out["redis", "clients"] = info["connected_clients"]
        out["redis", "keys"] = sum(db["keys"] for name, db in info.items() if re.fullmatch(r"db\d+", name))
        files = [f for f in (self.stack.data / "store").rglob("*") if f.is_file()]
        out["store", "files"] = len(files)
        return out


def keys(client):
    """How many keys of which pattern, to say which grew."""
    return collections.Counter(re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{32,}", "H", k.decode())) for k in client.scan_iter(count=1000))


def settled(rig, stack, load):
    load.stop()
    rig.settle(stack, 60)
    time.sleep(QUIET_S)  # for what ends by its own clock: idle connections, windows, graces
    rig.settle(stack, 10)


def sample(look, end, load, writer):
    worst = {}
    while time.monotonic() < end and not load.errors:
        time.sleep(min(SAMPLE_S, max(0, end - time.monotonic())))
        now = look()
        for key, value in now.items():
            worst[key] = max(value, worst.get(key, 0))
        writer.writerows([round(time.monotonic(), 1), *key, value] for key, value in now.items())
    return worst


def allowed(what, before):
    if what in ("descriptors", "threads", "clients"):
        return before
    if what in ("Pss_Anon", "used"):
        return before + GROWN_BYTES
    if what in ("keys", "files"):
        return before * 1.02
    return None  # told only


def table(before, worst, after):
    failed = []
    print(f"{'':12} {'':12} {'begin':>12} {'most':>12} {'end':>12}")
    for (who, what), value in before.items():
        most, now = worst.get((who, what), 0), after[who, what]
        limit = allowed(what, value)
        bad = limit is not None and (now > limit or what == "threads" and now != value)
        if bad:
            failed.append(f"{who} has {now} {what}, {value} at the beginning")
        unit = (lambda n: f"{n / 1024:.0f} K") if what in ("Rss", "Pss", "Pss_Anon", "used") else str
        print(f"{who:12} {what:12} {unit(value):>12} {unit(most):>12} {unit(now):>12}  {'GREW' if bad else 'ok' if limit is not None else ''}")
    return failed


def judge(stack, look, receiver, history_path, load):
    failed = []
    calls = collections.defaultdict(set)
    for line in open(history_path):
        e = json.loads(line)
        if e["ev"] == "call":
            calls[e["req"]].add(e["sha256"])
    failed += [f"{r} was not called back for" for r in load.owed if r not in receiver.whole]
    failed += [f"{r} was called back for with different content" for r, shas in calls.items() if len(shas) > 1]
    failed += [f"{p.name} was started anew" for p in stack.processes if not p.running() or look.born[p.name] != p.pid]
    failed += [f"left behind: {x}" for x in stack.leftovers()]
    for p in stack.processes:
        errors = [line for line in p.text().splitlines() if "level=error" in line]
        failed += [f"{p.name} logged: {line}" for line in errors[:3]]
    stack.sane()
    return failed


def run(args, directory):
    take_programs(directory)
    import rig
    from harness import v1
    stack = rig.Stack(directory, driver="null", apis=2, dispatchers=2, vmms=2, **SETTINGS)
    history = rig.History(directory / "history.jsonl")
    receiver = rig.Receiver(history)
    receiver.set_mood("once")
    try:
        stack.start()
        stack.redis.client.config_set("appendfsync", "everysec")
        load, look = Load(rig, v1, stack, receiver, history, args.rate), Look(stack)
        rig.Client(history, stack.ports, stack.image).prepare({f"{ms}.mk": rig.NULL_JOB % ms for ms in (20, 300)})
        with open(directory / "samples.csv", "w", newline="") as f:
            writer = csv.writer(f)
            load.start()
            sample(look, time.monotonic() + args.warm * 60, load, writer)
            settled(rig, stack, load)
            before, keys_before, warm = look(), keys(stack.redis.client), load.counts.copy()
            load.start()
            began = time.monotonic()
            worst = sample(look, began + args.minutes * 60, load, writer)
            took = time.monotonic() - began
            settled(rig, stack, load)
            after, keys_after = look(), keys(stack.redis.client)
        counts = load.counts - warm
        print(f"{took:.0f} s after {args.warm:g} min of the same to warm up: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
        failed = table(before, worst, after)
        history.flush()
        failed += judge(stack, look, receiver, directory / "history.jsonl", load)
        for pattern in sorted(keys_after | keys_before):
            if keys_after[pattern] != keys_before[pattern]:
                print(f"keys {pattern}: {keys_before[pattern]}, then {keys_after[pattern]}")
        for line in failed:
            print(f"FAILED: {line}")
        print("back to where it began" if not failed else f"{len(failed)} failures")
        return failed
    except BaseException:
        print(stack.report(), file=sys.stderr)
        raise
    finally:
        receiver.stop()
        stack.stop_hard()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm", type=float, default=5)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--dir", default=None, help="keep the run here")
    args = parser.parse_args()
    directory = pathlib.Path(args.dir or tempfile.mkdtemp(prefix="mts."))
    directory.mkdir(exist_ok=True)
    failed = True
    try:
        failed = run(args, directory)
    finally:
        if args.dir:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
