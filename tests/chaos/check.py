#!/usr/bin/env python3
"""The judge: check.py DIRECTORY. Says what in a run broke a rule, a line each, and ends with 1 if anything did.

It knows history.jsonl (what clients and callback receivers saw), final.json (Redis, and what the system still had of us),
the files of the store, docs/protocol.md, and the rules below. It has no code in common with the services or with what
drove them, and no tolerance: a rule holds or is broken. Standard library only.
"""

import collections
import hashlib
import json
import pathlib
import re
import sys

POISON = 3  # workers that a job may lose before it is set apart
AUTODRIVER_KILL_MS = 5000  # what docs/protocol.md gives the autodriver to kill what is left
ENDS = ("lost", "failed", "final")  # trace codes after which an attempt is over


class Run:
    """What is judged, read once."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.events = [json.loads(line) for line in (self.dir / "history.jsonl").read_text().splitlines()]
        self.final = json.loads((self.dir / "final.json").read_text())
        self.begin = next(e for e in self.events if e["ev"] == "begin")
        self.prefix = self.begin["prefix"] + ":"
        self.redis = {k[len(self.prefix):]: v for k, v in self.final["redis"].items() if k.startswith(self.prefix)}
        self.store = pathlib.Path(self.final["store"])
        self.jobs = {int(k[2:]): v for k, v in self.redis.items() if re.fullmatch(r"j:\d+", k)}
        self.asked = {e["req"]: e for e in self.of("ask")}
        self.accepted = {}  # req -> id
        self.calls = collections.defaultdict(list)
        self.broken, self.files = [], {}
        for e in self.of("call"):
            self.calls[e["req"]].append(e)

    def of(self, ev):
        return [e for e in self.events if e["ev"] == ev]

    def say(self, rule, text):
        self.broken.append(f"{rule}: {text}")

    def trace(self, ident):
        """[code, ms, arg] of each line. A worker whose Redis did not answer may send its lines again: the copies are
        exact, and are left out. Those of a transition are never copies."""
        lines, seen = [], set()
        for text in self.redis.get(f"t:{ident}", []):
            code, ms, arg = (text.split(" ", 2) + ["", ""])[:3]
            if text in seen and code not in (*ENDS, "dispatched"):
                continue
            seen.add(text)
            lines.append((code, int(ms), arg))
        return lines

    def blob(self, sha256):
        """Its bytes, or None."""
        if sha256 not in self.files:
            path = self.store / "blobs" / sha256[:2] / sha256
            self.files[sha256] = path.read_bytes() if path.is_file() else None
        return self.files[sha256]


# ---- what was asked and answered ----

def ids_are_unique_and_grow(run):
    """A job that was asked for after another's id was told has a higher one."""
    highest, owner = 0, {}
    for e in sorted(run.of("ask") + run.of("yes"), key=lambda e: e["t"]):
        if e["ev"] == "ask":
            e["above"] = highest
            continue
        if e["id"] in owner and owner[e["id"]] != e["req"]:
            run.say("id twice", f"{e['id']} was given to {owner[e['id']]} and to {e['req']}")
        owner[e["id"]] = e["req"]
        if e["id"] <= run.asked[e["req"]].get("above", 0):
            run.say("id not grown", f"{e['req']} has {e['id']}, though {run.asked[e['req']]['above']} was told before it was asked")
        if run.accepted.get(e["req"], e["id"]) != e["id"]:
            run.say("two answers", f"{e['req']} is {run.accepted[e['req']]} and {e['id']}")
        run.accepted[e["req"]] = e["id"]
        highest = max(highest, e["id"])


def each_request_is_one_job(run):
    """What was accepted is there; one request is one job; nothing is there that nobody asked for."""
    jobs_of = collections.defaultdict(list)
    for ident, job in run.jobs.items():
        jobs_of[job.get("of", "").removesuffix(".out")].append(ident)
    for req, ident in run.accepted.items():
        if ident not in run.jobs:
            run.say("lost", f"job {ident} ({req}) was accepted and is not in Redis")
        elif ident not in jobs_of[req]:
            run.say("another's job", f"{req} was told {ident}, which is {run.jobs[ident].get('of')}")
    for req, idents in jobs_of.items():
        if req not in run.asked:
            run.say("nobody's job", f"{idents}: nobody asked for {req}")
        elif len(idents) > 1:
            run.say("made twice", f"{req} is the jobs {sorted(idents)}")
    for req in run.calls:
        if req not in jobs_of:
            run.say("callback of nothing", f"{req} has a callback and no job")
    run.req_of = {i: req for req, idents in jobs_of.items() for i in idents}


# ---- the end of each job ----

def each_job_ended_once(run):
    for ident, job in run.jobs.items():
        if job.get("s") != "f":
            run.say("unfinished", f"job {ident} is in state {job.get('s')!r}")
            continue
        trace = run.trace(ident)
        finals = [i for i, line in enumerate(trace) if line[0] == "final"]
        if len(finals) != 1:
            run.say("ended twice" if finals else "no end", f"job {ident} has {len(finals)} final lines: {trace}")
        elif finals[0] != len(trace) - 1:
            run.say("after the end", f"job {ident}: {trace[finals[0] + 1:]} came after its end")
        for key in ("x", "fd", "fs", "ft"):
            if not job.get(key):
                run.say("half an end", f"job {ident} is finished and has no {key}")
        for name in ("t",):
            if name in job:
                run.say("token kept", f"job {ident} is finished and still has token {job[name]}")


def the_lists_agree(run):
    finished = {str(i) for i, j in run.jobs.items() if j.get("s") == "f"}
    dead = set(run.redis.get("dead", {}))
    for ident in finished ^ dead:
        run.say("lists", f"job {ident} is {'finished' if ident in finished else 'in dead'} and not {'in dead' if ident in finished else 'finished'}")
    for ident, job in run.jobs.items():
        if str(ident) in finished and str(ident) not in run.redis.get(f"dead:{job.get('te')}", {}):
            run.say("lists", f"job {ident} is not among the dead of its tenant")
        result = run.redis.get(f"res:{job.get('te')}:{job.get('la')}", {}).get(job.get("of", ""), "")
        if str(ident) in finished and result != f"{ident} {job.get('fd')} {job.get('fs')}":
            run.say("result", f"job {ident}: {job.get('of')} is {result!r}")
    stats = run.redis.get("stats", {})
    counted = sum(int(v) for k, v in stats.items() if k.startswith("v_"))
    if counted != len(finished):
        run.say("counted", f"{counted} verdicts were counted and {len(finished)} jobs are finished")


def attempts_are_whole(run):
    """Attempts follow each other: one machine each, the next one only after the end of the one before."""
    for ident, job in run.jobs.items():
        begun, open_, machines = 0, False, set()
        for code, _, arg in run.trace(ident):
            if code == "dispatched":
                if open_:
                    run.say("two at once", f"job {ident}: attempt {begun + 1} began before {begun} was over")
                begun, open_, machines = begun + 1, True, set()
            elif code in ENDS:
                open_ = False
            elif code == "machine":
                machines.add(arg)
                if len(machines) > 1:
                    run.say("one token twice", f"job {ident}: attempt {begun} had the machines {sorted(machines)}")
                if not open_:
                    run.say("stale write", f"job {ident}: machine {arg} was told of no attempt")
            elif code in ("waiting", "ready", "copied", "executed", "output") and not open_:
                run.say("stale write", f"job {ident}: {code} was told of no attempt")
        if begun != int(job.get("n", 0)):
            run.say("attempts", f"job {ident} began {job.get('n', 0)} attempts and {begun} were dispatched")


def feedback_is_that_of_the_last_attempt(run):
    for ident, job in run.jobs.items():
        if job.get("s") != "f" or not job.get("fd"):
            continue
        data = run.blob(job["fd"])
        if data is None:
            run.say("no feedback", f"job {ident} is finished and {job['fd']} is not in the store")
            continue
        if str(len(data)) != job.get("fs"):
            run.say("feedback", f"job {ident}: {len(data)} bytes, said to be {job.get('fs')}")
        head = data.split(b"\n", 1)[0]
        if not head.endswith(b": Received job %s:%d" % (run.req_of.get(ident, "?").encode(), ident)):
            run.say("another's feedback", f"job {ident}: begins with {head!r}")
        if run.begin["driver"] == "null" and job.get("x") == "success":
            said = re.findall(rb"^job (\d+) token \d+\.(\d+)$", data, re.M)
            if said != [(b"%d" % ident, job.get("n", "0").encode())]:
                run.say("stale commit", f"job {ident}: its last attempt is {job.get('n')}, its feedback of {said}")


def verdicts_have_their_reason(run):
    """These jobs do nothing wrong: another verdict is the infrastructure's, and only after the tries that are promised."""
    for ident, job in run.jobs.items():
        if job.get("s") != "f" or job.get("x") == "success":
            continue
        lost, charged = int(job.get("k", 0)), int(job.get("c", 0))
        if job.get("x") != "infrastructure" or (lost < POISON and charged < run.begin["job_retries"]):
            run.say("verdict", f"job {ident}: {job.get('x')} with {lost} lost workers and {charged} charged failures")


# ---- what the frontend was told ----

def callbacks_arrive(run):
    for ident, job in run.jobs.items():
        req = run.req_of[ident]
        if req not in run.asked:
            continue
        calls = run.calls.get(req, [])
        if not run.asked[req]["callback"]:
            if calls:
                run.say("callback unasked", f"job {ident} ({req}) has {len(calls)}")
            continue
        if not any(c["whole"] and 200 <= c["status"] < 300 for c in calls):
            run.say("no callback", f"job {ident} ({req}): {[c['status'] for c in calls]}")
        for c in calls:
            if c["whole"] and c["sha256"] != job.get("fd"):
                run.say("other callback", f"job {ident} ({req}): {c['sha256']} is not its feedback {job.get('fd')}")
    sent = int(run.redis.get("stats", {}).get("callbacks_sent", 0))
    wanted = sum(1 for j in run.jobs.values() if j.get("cb"))
    if sent != wanted:
        run.say("callbacks counted", f"{sent} are counted as sent, {wanted} jobs have one")


def polls_agree(run):
    for e in run.of("poll"):
        ident = run.accepted.get(e["req"])
        if ident in run.jobs and e["sha256"] != run.jobs[ident].get("fd"):
            run.say("other feedback", f"job {ident} ({e['req']}): {e['sha256']} was read, {run.jobs[ident].get('fd')} is committed")


# ---- what is left ----

def nothing_is_left(run):
    for what in run.final["left"]:
        run.say("left behind", what)
    for key in run.redis:
        if key in ("alive", "outbox", "delay", "places") or key.split(":")[0] in ("live", "q", "o", "ob") or \
                (key.startswith("vmm:") and key.endswith(":run")):
            run.say("left in Redis", key)
        about = re.fullmatch(r"[bt]:(\d+)", key)
        if about and int(about[1]) not in run.jobs:
            run.say("left in Redis", f"{key} of no job")
    for key in run.final["redis"]:
        if not key.startswith(run.prefix):
            run.say("left in Redis", f"{key} is not ours to write")


def the_store_is_whole(run):
    """No file in the making; each file is what its name says; what nothing refers to is feedback that lost its race."""
    kept = {j.get("fd") for j in run.jobs.values()}
    for key, files in run.redis.items():
        if key.startswith("lab:"):
            kept.update(v.split(" ")[0] for name, v in files.items() if name)
    for path in (run.store / "tmp").iterdir():
        run.say("left in the store", f"tmp/{path.name}")
    for path in (run.store / "blobs").glob("*/*"):
        data = run.blob(path.name)
        if data is None or hashlib.sha256(data).hexdigest() != path.name or path.parent.name != path.name[:2]:
            run.say("damaged file", str(path.relative_to(run.store)))
        elif path.name not in kept:
            about = re.match(rb"Autograder \[[^\]]*\]: Received job [^\n]*:(\d+)\n", data)
            job = run.jobs.get(int(about[1])) if about else None
            if job is None or int(job.get("n", 0)) < 2:
                run.say("left in the store", f"{path.name}, which nothing refers to")


def nothing_runs_late(run):
    """No process of a machine once its attempt has been over for as long as the pipe's lease and the killing may take."""
    grace = run.begin["pipe_lease_ms"] + AUTODRIVER_KILL_MS
    lives = collections.defaultdict(list)  # machine -> (from, to)
    for ident in run.jobs:
        since, name = None, None
        for code, ms, arg in run.trace(ident):
            if code == "machine":
                since, name = ms, arg.partition(" ")[2]
            elif code in ENDS and since is not None:
                lives[name].append((since, ms))
                since = None
    for e in run.of("seen"):
        ended = [to for since, to in lives[e["machine"]] if since <= e["at"]]
        if ended and e["at"] > max(ended) + grace:
            run.say("runs late", f"process {e['pid']} of {e['machine']} {e['at'] - max(ended)} ms after the end of its attempt")


RULES = [ids_are_unique_and_grow, each_request_is_one_job, each_job_ended_once, the_lists_agree, attempts_are_whole,
         feedback_is_that_of_the_last_attempt, verdicts_have_their_reason, callbacks_arrive, polls_agree, nothing_is_left,
         the_store_is_whole, nothing_runs_late]


def judge(directory):
    """(what is broken, figures)"""
    run = Run(directory)
    for rule in RULES:
        rule(run)
    jobs = run.jobs.values()
    figures = {
        "jobs": len(run.jobs), "accepted": len(run.accepted), "answers lost": len(run.of("lost")),
        "again": sum(1 for j in jobs if int(j.get("n", 0)) > 1), "attempts": sum(int(j.get("n", 0)) for j in jobs),
        "set apart": sum(1 for j in jobs if j.get("x") == "infrastructure"),
        "callbacks": sum(len(c) for c in run.calls.values()),
        "callbacks again": sum(max(0, sum(1 for c in calls if c["whole"] and 200 <= c["status"] < 300) - 1) for calls in run.calls.values()),
        "faults": len(run.of("fault"))}
    return run.broken, figures


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check.py DIRECTORY")
    broken, figures = judge(sys.argv[1])
    for line in broken:
        print(line)
    print(", ".join(f"{v} {k}" for k, v in figures.items()))
    print(f"{len(broken)} broken" if broken else "all rules hold")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
