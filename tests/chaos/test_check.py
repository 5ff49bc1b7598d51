"""The judge is judged: a run made by hand that holds every rule, then broken in one way at a time. Each must be said."""

import hashlib
import json
import pathlib
import re

import pytest

import check

FEEDBACK = "Autograder [Tue Nov 24 07:08:20 2026]: Received job %s:%d\nAutograder [Tue Nov 24 07:08:21 2026]: Success\n---\n" \
           "job %d token 1.%d\n"
P = "{milonga}:"


class Made:
    """Three jobs: a plain one, one whose first worker was lost, one without a callback."""

    def __init__(self, directory):
        self.dir = directory
        self.store = directory / "store"
        (self.store / "tmp").mkdir(parents=True)
        self.events = [{"t": 0, "ev": "begin", "driver": "null", "prefix": "{milonga}", "job_retries": 2, "pipe_lease_ms": 3000}]
        self.redis = {P + "dead": {}, P + "dead:main": {}, P + "res:main:chaos": {}, P + "stats": {"v_success": "3", "callbacks_sent": "2"},
                      P + "lab:main:chaos": {"": "1", "Makefile": f"{self.put(b'all:')} x 4"}}
        self.left = []
        for ident, tries, callback in ((1, 1, True), (2, 2, True), (3, 1, False)):
            self.job(ident, f"r{ident}", tries, callback)

    def put(self, data):
        name = hashlib.sha256(data).hexdigest()
        path = self.store / "blobs" / name[:2]
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        return name

    def job(self, ident, req, tries, callback):
        sha = self.put((FEEDBACK % (req, ident, ident, tries)).encode())
        size = str(len(FEEDBACK % (req, ident, ident, tries)))
        at = 1000 * ident
        trace = []
        for n in range(tries):
            m = 1000 + 10 * ident + n
            trace += [f"dispatched {at} {n}", f"machine {at + 1} {m} local-{m}-null", f"waiting {at + 1} ", f"ready {at + 2} ",
                      f"copied {at + 3} 0"]
            trace += [f"lost {at + 4} v0"] if n + 1 < tries else [f"executed {at + 5} 0", f"output {at + 5} 0", f"final {at + 6} Success"]
            at += 10
        job = {"s": "f", "te": "main", "la": "chaos", "of": f"{req}.out", "n": str(tries), "k": str(tries - 1), "x": "success",
               "fd": sha, "fs": size, "ft": "1"}
        if callback:
            job["cb"] = "1"
        self.redis.update({f"{P}j:{ident}": job, f"{P}b:{ident}": "body", f"{P}t:{ident}": trace})
        self.redis[P + "dead"][str(ident)] = at
        self.redis[P + "dead:main"][str(ident)] = ident
        self.redis[P + "res:main:chaos"][f"{req}.out"] = f"{ident} {sha} {size}"
        t = 10 * ident
        self.events += [{"t": t, "ev": "ask", "req": req, "callback": callback}, {"t": t + 1, "ev": "yes", "req": req, "id": ident}]
        if callback:
            self.events.append({"t": t + 2, "ev": "call", "req": req, "sha256": sha, "whole": True, "status": 204})
        self.events.append({"t": t + 3, "ev": "poll", "req": req, "sha256": sha})

    def event(self, ev, req):
        return next(e for e in self.events if e["ev"] == ev and e.get("req") == req)

    def judge(self):
        (self.dir / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in self.events))
        (self.dir / "final.json").write_text(json.dumps({"redis": self.redis, "store": str(self.store), "left": self.left}))
        return check.judge(self.dir)[0]


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def test_a_good_run_is_good(made):
    assert made.judge() == []


def test_what_may_happen_is_no_fault(made):
    first = made.event("call", "r1")
    made.events += [dict(first, status=500, t=11), dict(first, status=0, t=11.5), dict(first, t=12.5)]  # tried, and once more
    made.events.append({"t": 50, "ev": "call", "req": "r1", "sha256": "00", "whole": False, "status": 0})  # cut off
    made.redis[P + "t:1"].insert(2, made.redis[P + "t:1"][1])  # a line that was sent again
    made.put(b"Autograder [x]: Received job r2:2\nof its first attempt\n")
    made.events.append({"t": 60, "ev": "ask", "req": "r9", "callback": True})
    made.events.append({"t": 61, "ev": "lost", "req": "r9"})
    assert made.judge() == []


def lose(m):
    for key in ("j:1", "b:1", "t:1"):
        del m.redis[P + key]


def trace(ident, line, at=None):
    def broken(m):
        lines = m.redis[f"{P}t:{ident}"]
        lines.insert(len(lines) if at is None else at, line)
    return broken


def job(ident, **fields):
    return lambda m: m.redis[f"{P}j:{ident}"].update(fields)


def without(ident, field):
    return lambda m: m.redis[f"{P}j:{ident}"].pop(field)


def key(name, value):
    return lambda m: m.redis.__setitem__(P + name, value)


def event(ev, req, **fields):
    return lambda m: m.event(ev, req).update(fields)


def no_event(ev, req):
    return lambda m: m.events.remove(m.event(ev, req))


def more(**fields):
    return lambda m: m.events.append(fields)


def stale_feedback(m):
    text = (FEEDBACK % ("r2", 2, 2, 1)).encode()
    sha = m.put(text)
    m.redis[P + "j:2"].update(fd=sha, fs=str(len(text)))
    m.redis[P + "res:main:chaos"]["r2.out"] = f"2 {sha} {len(text)}"
    for e in m.events:
        if e.get("req") == "r2" and "sha256" in e:
            e["sha256"] = sha


def gone_feedback(m):
    sha = m.redis[P + "j:1"]["fd"]
    (m.store / "blobs" / sha[:2] / sha).unlink()


def another_s_feedback(m):
    m.redis[P + "j:1"]["fd"] = m.redis[P + "j:3"]["fd"]


def damaged(m):
    sha = m.redis[P + "j:1"]["fd"]
    (m.store / "blobs" / sha[:2] / sha).write_bytes(b"half")


def made_twice(m):
    m.redis[P + "j:4"] = dict(m.redis[P + "j:1"])


BROKEN = [
    ("lost", lose),
    ("unfinished", job(1, s="q")),
    ("unfinished", job(2, s="r")),
    ("ended twice", trace(1, "final 2000 Success")),
    ("no end", lambda m: m.redis[P + "t:1"].pop()),
    ("after the end", trace(1, "executed 2000 0")),
    ("half an end", without(1, "x")),
    ("token kept", job(1, t="1.1")),
    ("lists", lambda m: m.redis[P + "dead"].pop("1")),
    ("lists", lambda m: m.redis[P + "dead:main"].pop("2")),
    ("lists", lambda m: m.redis[P + "dead"].update({"77": 1})),
    ("result", lambda m: m.redis[P + "res:main:chaos"].pop("r1.out")),
    ("counted", lambda m: m.redis[P + "stats"].update(v_success="4")),
    ("two at once", trace(2, "dispatched 2008 1", 5)),
    ("one token twice", trace(1, "machine 1002 1999 local-1999-null", 2)),
    ("stale write", trace(2, "ready 2009 ", 6)),
    ("stale write", trace(2, "machine 2009 1999 local-1999-null", 6)),
    ("attempts", job(1, n="2")),
    ("stale commit", stale_feedback),
    ("no feedback", gone_feedback),
    ("another's feedback", another_s_feedback),
    ("feedback", damaged),
    ("damaged file", damaged),
    ("verdict", job(1, x="infrastructure")),
    ("verdict", job(1, x="failed", c="2")),
    ("no callback", no_event("call", "r1")),
    ("no callback", event("call", "r1", status=500)),
    ("no callback", event("call", "r1", whole=False)),
    ("other callback", more(t=99, ev="call", req="r1", sha256="0" * 64, whole=True, status=500)),
    ("callback unasked", more(t=99, ev="call", req="r3", sha256="0" * 64, whole=True, status=204)),
    ("callback of nothing", more(t=99, ev="call", req="r77", sha256="0" * 64, whole=True, status=204)),
    ("callbacks counted", lambda m: m.redis[P + "stats"].update(callbacks_sent="1")),
    ("other feedback", event("poll", "r1", sha256="0" * 64)),
    ("id twice", event("yes", "r2", id=1)),
    ("id not grown", lambda m: (m.event("yes", "r1").update(id=3), m.event("yes", "r3").update(id=1))),
    ("two answers", more(t=99, ev="yes", req="r1", id=8)),
    ("another's job", lambda m: (m.event("yes", "r1").update(id=2), m.event("yes", "r2").update(id=1))),
    ("made twice", made_twice),
    ("nobody's job", job(1, of="other.out")),
    ("left behind", lambda m: m.left.append("process 77 crun")),
    ("left in Redis", key("alive", {"1": 1})),
    ("left in Redis", key("outbox", {"1": 1})),
    ("left in Redis", key("o:1", "out")),
    ("left in Redis", key("q:1", {"1": 1})),
    ("left in Redis", key("vmm:v0:run", {"1": "1.1"})),
    ("left in Redis", key("t:99", ["final 1 x"])),
    ("left in Redis", lambda m: m.redis.update({"other": "x"})),
    ("left in the store", lambda m: (m.store / "tmp" / "w-1").touch()),
    ("left in the store", lambda m: m.put(b"of nothing")),
    ("left in the store", lambda m: m.put(b"Autograder [x]: Received job r1:1\nwhich had one attempt\n")),
    ("runs late", more(t=99, ev="seen", pid=7, machine="local-1010-null", at=1006 + 3000 + 5000 + 1)),
]


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[f"{i}-{r.replace(' ', '-')}" for i, (r, _) in enumerate(BROKEN)])
def test_what_is_broken_is_said(made, number):
    rule, how = BROKEN[number]
    how(made)
    said = made.judge()
    assert any(line.startswith(f"{rule}: ") for line in said), said


def test_every_rule_has_been_broken():
    rules = set(re.findall(r'run\.say\("([^"]+)"', pathlib.Path(check.__file__).read_text())) | {"ended twice", "no end"}
    assert rules <= {r for r, _ in BROKEN}
