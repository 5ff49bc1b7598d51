#!/usr/bin/env python3
"""Ten times as many jobs as the machines can do, for minutes: what is done goes on as before, and nothing fills up.

    overload.py [--minutes M] [--times N] [--slots N] [--live N] [--dir DIRECTORY]

Two api, two dispatchers, one vmm of the null driver with --slots jobs of a second at once, and Redis with an AOF (everysec). First
the peak: as many jobs under way as keep all slots busy, and no more. Then --times of that rate is asked for, half through
Tango's addJob and half through /v1/jobs, by clients that do not wait for one another; the queue has a bound of --live jobs.
A table, and the exit status is 1 when

  - less than 95 % of the peak is done in the second half of the time, when the queue is full;
  - an answer is neither yes nor a refusal in words: /v1 with 429 or 503 and Retry-After, addJob with statusId -1 and the reason;
  - more jobs are unfinished than --live, or Redis holds more of them than it may take;
  - a service has grown between the middle and the end by more than 4 MiB, or a job that was accepted is not done at the end.

MILONGA_BUILD is the build.
"""

import argparse
import collections
import http.client
import json
import pathlib
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "system"))

from harness.process import wait_for  # noqa: E402
from harness.stack import Stack  # noqa: E402

JOB_MS = 1000
LAB, KEY = "over", "test"
GOODPUT = 0.95
GROWN_BYTES = 4 << 20
BODY_BYTES = 900  # of Redis, a queued job; docs/operations.md
PREFIX = "{milonga}"


class Client:
    """One of the many: asks at a pace of its own, and counts what it is told."""

    def __init__(self, port, native):
        self.port, self.native, self.conn = port, native, None
        self.counts, self.wrong, self.took = collections.Counter(), [], []
        self.number = 0

    def ask(self, stack):
        self.number += 1
        name = f"o{id(self)}.{self.number}"
        if self.native:
            path, headers = "/v1/jobs", {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            body = {"lab": LAB, "name": name, "image": stack.image, "files": [{"name": "Makefile"}]}
        else:
            path, headers, body = f"/addJob/{KEY}/{LAB}/", {}, stack.tango.body(name)
        begun = time.monotonic()
        try:
            if self.conn is None:
                self.conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            self.conn.request("POST", path, json.dumps(body), headers)
            answer = self.conn.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as e:
            self.conn = None
            self.counts["no answer"] += 1
            self.wrong.append(f"{path}: {e!r}")
            return
        self.took.append(time.monotonic() - begun)
        self.judge(path, answer, text)

    def judge(self, path, answer, text):
        value = json.loads(text)
        if self.native and answer.status == 201 or not self.native and value.get("statusId") == 0:
            self.counts["accepted"] += 1
        elif self.native and answer.status in (429, 503) and (answer.headers.get("Retry-After") or "").isdigit() and value["detail"]:
            self.counts[f"{answer.status} {value['code']}"] += 1
        elif not self.native and value.get("statusId") == -1 and "full" in value["statusMsg"]:
            self.counts["statusId -1, full"] += 1
        else:
            self.counts["other"] += 1
            self.wrong.append(f"{path}: {answer.status} {text[:200]!r}")


class Load:
    """`rate` requests a second by so many threads that each has time for its own."""

    def __init__(self, stack, rate, threads=24):
        self.stack, self.pause, self.quit = stack, threads / rate, threading.Event()
        self.clients = [Client(stack.ports[n % len(stack.ports)], n // 2 % 2 == 1) for n in range(threads)]
        self.threads = [threading.Thread(target=self.run, args=(c, n / threads * self.pause), daemon=True) for n, c in enumerate(self.clients)]

    def run(self, client, delay):
        due = time.monotonic() + delay
        while not self.quit.wait(max(0, due - time.monotonic())):
            client.ask(self.stack)
            due = max(due + self.pause, time.monotonic() - self.pause)

    def start(self):
        for t in self.threads:
            t.start()
        return self

    def stop(self):
        self.quit.set()
        for t in self.threads:
            t.join(60)

    def total(self):
        return sum((c.counts for c in self.clients), collections.Counter())

    def wrong(self):
        return [w for c in self.clients for w in c.wrong]


def finished(stack):
    """Jobs that were done, successfully."""
    return int(stack.redis.client.hget(f"{PREFIX}:stats", "v_success") or 0)


def rate_of(stack, seconds):
    begun, before = time.monotonic(), finished(stack)
    time.sleep(seconds)
    return (finished(stack) - before) / (time.monotonic() - begun)


def peak(stack, slots, seconds):
    """What is done a second when there are always a few more jobs than slots, by a client that is no burden."""
    client, quit_ = Client(stack.ports[0], False), threading.Event()

    def feed():
        while not quit_.is_set():
            live = stack.redis.client.zcard(f"{PREFIX}:alive")
            for _ in range(2 * slots - live):
                client.ask(stack)
            quit_.wait(JOB_MS / 4000)
    t = threading.Thread(target=feed, daemon=True)
    t.start()
    time.sleep(3)
    rates = [rate_of(stack, seconds / 3) for _ in range(3)]
    quit_.set()
    t.join(30)
    assert not client.wrong, client.wrong[:3]
    wait_for("an empty queue", lambda: not stack.redis.client.zcard(f"{PREFIX}:alive"), 60)
    return statistics.median(rates), client.counts["accepted"]


def memory(stack):
    out = {}
    for p in stack.processes:
        text = pathlib.Path(f"/proc/{p.pid}/smaps_rollup").read_text()
        out[p.name] = int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.M)[1]) << 10
    info = stack.redis.client.info("memory")
    out["redis"] = info["used_memory"]
    return out


def under_load(stack, args, best, before):
    live = []
    load = Load(stack, best * args.times).start()
    quit_ = threading.Event()

    def watch():
        while not quit_.wait(0.5):
            live.append(stack.redis.client.zcard(f"{PREFIX}:alive"))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wait_for("a full queue", lambda: load.total()["accepted"] >= args.live or load.wrong(), 120, 0.1)
    asked = sum(load.total().values())
    begun = time.monotonic()
    rate_of(stack, args.minutes * 30)
    middle = memory(stack)
    rate = rate_of(stack, args.minutes * 30)
    end = memory(stack)
    asked = (sum(load.total().values()) - asked) / (time.monotonic() - begun)
    load.stop()
    quit_.set()
    watcher.join()
    return load, rate, asked, middle, end, max(live)


def report(args, best, before, outcome, stack):
    load, rate, asked, middle, end, live = outcome
    failed = list(load.wrong()[:5])
    took = sorted(t for c in load.clients for t in c.took)
    print(f"peak {best:.1f} jobs/s; asked for {asked:.0f}/s, {asked / best:.1f} times; done {rate:.1f}/s, {100 * rate / best:.0f} % of the peak")
    print("answers: " + ", ".join(f"{n} {what}" for what, n in load.total().most_common()) +
          f"; p50 {took[len(took) // 2] * 1000:.0f} ms, p99 {took[len(took) * 99 // 100] * 1000:.0f} ms, worst {took[-1] * 1000:.0f} ms")
    print(f"unfinished at most {live}, bound {args.live}")
    print(f"{'':12} {'before':>10} {'middle':>10} {'end':>10}")
    for who in before:
        print(f"{who:12} {before[who] >> 10:8} K {middle[who] >> 10:8} K {end[who] >> 10:8} K")
        if who != "redis" and end[who] > middle[who] + GROWN_BYTES:
            failed.append(f"{who} grew by {end[who] - middle[who]} bytes")
    most = before["redis"] + args.live * BODY_BYTES + (finished(stack) + args.live) * 2 * BODY_BYTES
    if end["redis"] > most:
        failed.append(f"Redis holds {end['redis']} bytes, more than {most}")
    if rate < GOODPUT * best:
        failed.append(f"{rate:.1f} jobs/s are less than {GOODPUT:.0%} of {best:.1f}")
    if live > args.live:
        failed.append(f"{live} jobs were unfinished")
    if asked < 0.8 * args.times * best:
        failed.append(f"only {asked:.0f} jobs a second were asked for: the clients were too slow, and this says nothing")
    if not any(what.startswith(("429", "statusId")) for what in load.total()):
        failed.append("nothing was refused")
    return failed


def run(args, directory):
    stack = Stack(directory, driver="null", apis=2, dispatchers=2, slots=str(args.slots), max_live_jobs=str(args.live),
                  dead_max_jobs="2000", beat_ms="500ms", lease_ms="3s", leader_lease_ms="2s", redis_timeout_ms="5s", log_level="warn")
    try:
        stack.start()
        stack.redis.client.config_set("appendfsync", "everysec")
        stack.tango.open(LAB)
        stack.tango.upload(LAB, "Makefile", f"# null: sleep_ms={JOB_MS}\n")
        best, done = peak(stack, args.slots, min(30, args.minutes * 20))
        before = memory(stack)
        outcome = under_load(stack, args, best, before)
        accepted = done + outcome[0].total()["accepted"]
        failed = report(args, best, before, outcome, stack)
        wait_for("an empty queue", lambda: not stack.redis.client.zcard(f"{PREFIX}:alive"), 60 + 2 * args.live / best, 0.2)
        if finished(stack) != accepted:
            failed.append(f"{accepted} jobs were accepted and {finished(stack)} were done")
        stack.sane()
        for line in failed:
            print(f"FAILED: {line}")
        return failed
    finally:
        stack.stop_hard()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--live", type=int, default=500)
    parser.add_argument("--dir", default=None, help="keep the run here")
    args = parser.parse_args()
    directory = pathlib.Path(args.dir or tempfile.mkdtemp(prefix="mto."))
    directory.mkdir(exist_ok=True)
    try:
        failed = run(args, directory)
    finally:
        if not args.dir:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
