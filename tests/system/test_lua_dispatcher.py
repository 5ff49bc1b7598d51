"""The scripts of the dispatcher, one by one, on a real Redis."""

import time

import pytest

from dispatcher_rig import DIGEST, PREFIX, Rig, Vmm

SCRIPTS = {  # name: arguments behind the fence
    "generation": ["x", 1, 1, 2, 0],
    "observe": [1, 32, 100],
    "assign": ["x", 0, 1, "v", 1],
    "reclaim": ["v", 1, 1, 0],
    "due": [0, 10, 1000, 0, 0],
    "close": [1, 0, "infrastructure", "0" * 64, 1, "m"],
    "want": ["v", "img", 1],
    "outbox": [0, 1, 1, 1],
    "outbox_done": [1, "failed", "", 0],
    "retain": [0, 1, 0, 1, 0, 1],
    "expire": [0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0],
    "tidy": [0, 1, 0, 1, 1],
    "refs": [1],
    "resign": [],
}


@pytest.fixture(scope="module")
def server():
    r = Rig()
    yield r
    r.close()


@pytest.fixture
def rig(server):
    server.redis.flushall()
    return server


def lead(rig, holder="me"):
    reply = rig.eval("dispatcher", "lead", holder, "", "", "")
    assert reply[0] == b"ok", reply
    return f"{reply[1].decode()}@{holder}"


@pytest.fixture
def fence(rig):
    f = lead(rig)
    assert rig.eval("dispatcher", "generation", f, rig.run_id(), 7, 100, 100100, 5) == [b"ok"]
    return f


def now():
    return int(time.time() * 1000)


def place(rig):
    return rig.redis.hvals(rig.key("pl"))[-1].decode()


def due(rig, fence, at=None, oldest=0, most=10, offset=0):
    return rig.eval("dispatcher", "due", fence, at or now(), most, 1000, oldest, offset)


def assign(rig, fence, *moves):
    flat = [x for m in moves for x in m]
    return rig.eval("dispatcher", "assign", fence, rig.run_id(), now(), *flat)


# ---- the lease ----

def test_lead_take_renew_compare_and_set(rig):
    ev = lambda *a: rig.eval("dispatcher", "lead", *a)
    assert ev("a", "", "", "") == [b"ok", b"1", b"1"]
    assert ev("a", "1", "", "") == [b"ok", b"1", b"2"]
    assert ev("b", "", "", "") == [b"held", b"a", b"1", b"2"]
    assert ev("b", "", "1", "1")[0] == b"held"  # it has beaten since
    assert ev("b", "", "1", "2") == [b"ok", b"2", b"1"]
    assert ev("a", "1", "", "") == [b"held", b"b", b"2", b"1"]


def test_lead_of_an_older_redis_gets_another_epoch(rig):
    ev = lambda *a: rig.eval("dispatcher", "lead", *a)
    ev("a", "", "", "")
    rig.redis.hset(rig.key("lead"), "epoch", 5)
    assert ev("a", "9", "", "") == [b"ok", b"6", b"1"]


def test_resign_frees_at_once_and_says_so(rig):
    f = lead(rig, "a")
    sub = rig.redis.pubsub(ignore_subscribe_messages=True)
    sub.subscribe(rig.key("wake"))
    sub.get_message(timeout=1)
    assert rig.eval("dispatcher", "resign", f) == [b"ok"]
    m = sub.get_message(timeout=1)
    assert m and m["data"] == b"lead"
    assert rig.eval("dispatcher", "lead", "b", "", "", "") == [b"ok", b"2", b"1"]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_script_refuses_whoever_does_not_lead(rig, name):
    f = lead(rig, "a")
    before = rig.redis.keys("*")
    for other in ("", "@", "0@", "1@b", "2@a", f + "x"):
        assert rig.eval("dispatcher", name, other, *SCRIPTS[name]) == [b"deposed"], other
    rig.redis.flushall()
    assert rig.eval("dispatcher", name, f, *SCRIPTS[name]) == [b"deposed"]
    assert rig.redis.keys("*") == [] and before


# ---- generation ----

def test_generation_new_then_further_ids(rig):
    f = lead(rig)
    ev = lambda *a: rig.eval("dispatcher", "generation", f, *a)
    assert ev("0" * 40, 1, 1, 10, 0) == [b"stale"]
    assert ev(rig.run_id(), 1, 1, 10, 0) == [b"ok"]
    assert rig.get("meta", "id_limit") == "10" and rig.get("meta", "id_next") == "1"
    assert ev(rig.run_id(), 1, 1, 20, 0) == [b"ok"]
    assert ev(rig.run_id(), 1, 1, 15, 0) == [b"ok"]  # never back
    assert rig.get("meta", "id_limit") == "20"
    rig.redis.hset(rig.key("meta"), "run_id", "other")
    assert ev(rig.run_id(), 1, 30, 40, 0) == [b"behind", b"1"]
    assert ev(rig.run_id(), 2, 30, 40, 0) == [b"ok"]
    assert rig.get("meta", "id_next") == "30"


# ---- observe and assign ----

def test_observe(rig, fence):
    v = Vmm(rig, "v1", slots=1)
    for _ in range(3):
        rig.accept()
    reply = rig.eval("dispatcher", "observe", fence, 1, 32, 100)
    assert reply[1] == [rig.run_id().encode(), b"7", b"103", b"100100"]
    vm = reply[3][0]
    assert vm[0] == b"v1" and vm[3:8] == [b"up", b"1", b"0", b"1", b"0"]
    assert vm[9] == b"0" and vm[10] == [b"img", DIGEST.encode()]
    assert reply[4][0][1] == b"3" and len(reply[4][0]) == 4  # one head: one slot
    light = rig.eval("dispatcher", "observe", fence, 0, 32, 100)
    assert len(light[3][0]) == 10
    assign(rig, fence, (place(rig), "v1", 5))
    assert rig.eval("dispatcher", "observe", fence, 0, 32, 100)[4] == []  # no room: nothing to tell
    assert v.take()


def test_assign_bounds_order_tokens(rig, fence):
    v = Vmm(rig, "v1", slots=2)
    late = rig.accept(cls=5)
    jobs = [rig.accept(), rig.accept()]
    n = place(rig)
    assert assign(rig, fence, (n, "v1", 1)) == [b"ok", str(jobs[0]).encode(), b"v1"]
    assert assign(rig, fence, (n, "v1", 9)) == [b"ok", str(jobs[1]).encode(), b"v1"]
    assert assign(rig, fence, (n, "v1", 9)) == [b"ok"]
    assert v.take()[:4] == (jobs[0], "7.1", 1, 0)
    assert v.take()[:2] == (jobs[1], "7.1")
    assert v.commit(jobs[0]) == b"ok"
    assert v.giveback(jobs[1], charge=1) == b"ok"
    assert assign(rig, fence, (n, "v1", 9)) == [b"ok", str(jobs[1]).encode(), b"v1", str(late).encode(), b"v1"]
    assert v.take()[:4] == (jobs[1], "7.2", 2, 1)
    assert not rig.redis.exists(rig.key("places"))


def test_assign_skips_who_drains_is_lost_or_unknown(rig, fence):
    v = Vmm(rig)
    rig.accept()
    n = place(rig)
    rig.redis.hset(rig.key("vmm:v1"), "drain", 1)
    assert assign(rig, fence, (n, "v1", 1), (n, "nobody", 1)) == [b"ok"]
    rig.redis.hset(rig.key("vmm:v1"), mapping={"drain": 0, "state": "lost"})
    assert assign(rig, fence, (n, "v1", 1)) == [b"ok"]
    v.register()
    assert len(assign(rig, fence, (n, "v1", 1))) == 3
    assert rig.eval("dispatcher", "assign", fence, "0" * 40, now(), n, "v1", 1) == [b"stale"]


def test_assign_sets_a_job_without_body_aside(rig, fence):
    Vmm(rig)
    job = rig.accept()
    rig.redis.delete(rig.key(f"b:{job}"))
    assert assign(rig, fence, (place(rig), "v1", 1)) == [b"ok"]
    assert due(rig, fence, at=now() + 10)[2:] == [b"broken", str(job).encode(), b"its body is gone, or a none"]


# ---- reclaim, delays ----

def test_reclaim_only_when_unchanged(rig, fence):
    v = Vmm(rig)
    job, waits = rig.accept(), rig.accept()
    assign(rig, fence, (place(rig), "v1", 2))
    v.take(), v.take()
    v.step(job, "r")
    v.beat()
    ev = lambda beat: rig.eval("dispatcher", "reclaim", fence, "v1", v.epoch, beat, now())
    assert ev(0) == [b"moved"]
    assert ev(1) == [b"ok", b"2"]
    assert rig.get("vmm:v1", "state") == "lost" and rig.state(job) == "q"
    assert rig.get(f"j:{job}", "k") == "1" and rig.get(f"j:{waits}", "k") is None
    assert ev(1) == [b"moved"]
    assert v.step(job, "c") == b"fenced" and v.commit(job) == b"fenced"
    assert v.beat() == [b"stale"]


def test_due_gives_back_and_bounds_clocks_that_disagree(rig, fence):
    v = Vmm(rig)
    job = rig.accept()
    assign(rig, fence, (place(rig), "v1", 1))
    v.take()
    v.giveback(job, due=now() + 10**9)
    assert due(rig, fence)[2:] == []
    assert rig.redis.zscore(rig.key("delay"), job) <= now() + 60000
    due(rig, fence, at=now() + 60001)
    assert rig.redis.zcard(rig.key("q:" + place(rig))) == 1


def test_due_finds_old_jobs_behind_old_ones_that_run(rig, fence):
    v = Vmm(rig, slots=8)
    running = [rig.accept(age_ms=100000) for _ in range(3)]
    assign(rig, fence, (place(rig), "v1", 3))
    old = rig.accept(age_ms=90000)
    rig.accept()
    offset, found = 0, []
    for _ in range(4):
        reply = due(rig, fence, oldest=now() - 50000, most=2, offset=offset)
        offset, found = int(reply[1]), found + reply[2:]
    assert set(found) == {b"age", str(old).encode(), b""} and running and v


# ---- the end ----

def test_close_makes_result_and_callback(rig, fence):
    job = rig.accept(callback="http://x/")
    rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")
    assert rig.get("res:main:lab", "out.txt") == f"{job} {'a' * 64} 9"
    assert rig.redis.zscore(rig.key("outbox"), job)
    assert not rig.redis.exists(rig.key("places")) and not rig.redis.exists(rig.key("alive"))
    assert rig.get("stats", "v_infrastructure") == "1"


def test_outbox(rig, fence):
    job = rig.accept(callback="http://x/")
    rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")
    ev = lambda at: rig.eval("dispatcher", "outbox", fence, at, 5, 1000, 1500)
    accepted = int(rig.get(f"j:{job}", "at"))
    reply = ev(accepted + 100)
    assert reply[2:] == [] and int(reply[1]) == accepted + 1500
    reply = ev(accepted + 1600)
    assert reply[2][0] == str(job).encode() and reply[2][2:5] == [b"a" * 64, b"0", b"infrastructure"]
    assert reply[2][5] == rig.redis.hget(rig.key(f"j:{job}"), "ft")
    assert ev(accepted + 2000)[2:] == []  # in somebody's hands
    assert ev(accepted + 2700)[2][0] == str(job).encode()  # who has died
    done = lambda *a: rig.eval("dispatcher", "outbox_done", fence, job, *a)
    assert done("retry", "status 500", accepted + 5000) == [b"ok"]
    assert ev(accepted + 4000)[2:] == []
    assert ev(accepted + 5000)[2][3] == b"1"
    assert done("release", "", accepted + 5001) == [b"ok"]
    assert ev(accepted + 5001)[2][3] == b"1"
    assert done("sent", "status 204", 0) == [b"ok"] and done("sent", "", 0) == [b"moved"]
    assert rig.get("stats", "callbacks_sent") == "1" and not rig.redis.exists(rig.key(f"ob:{job}"))


def test_outbox_done_ends_only_what_was_sent(rig, fence):
    """Redis came back older while the callback was under way, and the job has been done again with other feedback."""
    job = rig.accept(callback="http://x/")
    rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")
    done = lambda how, sha: rig.eval("dispatcher", "outbox_done", fence, job, how, "status 204", 0, sha)
    for how in ("sent", "failed", "retry", "release"):
        assert done(how, "b" * 64) == [b"moved"]
    assert rig.redis.zscore(rig.key("outbox"), job) is not None and rig.get(f"ob:{job}", "tries") == "0"
    assert done("sent", "a" * 64) == [b"ok"]
    assert rig.redis.zscore(rig.key("outbox"), job) is None


def test_outbox_of_a_dispatcher_that_died_is_the_next_ones_at_once(rig, fence):
    job, later = (rig.accept(callback="http://x/") for _ in range(2))
    for x in (job, later):
        rig.eval("dispatcher", "close", fence, x, now(), "infrastructure", "a" * 64, 9, "msg")
    ev = lambda at, again: [r[0] for r in rig.eval("dispatcher", "outbox", fence, at, 5, 60000, 0, again)[2:]]
    at = now() + 10
    both = [str(x).encode() for x in (job, later)]
    assert ev(at, 0) == both
    assert rig.eval("dispatcher", "outbox_done", fence, later, "retry", "status 500", at + 5000) == [b"ok"]
    assert ev(at + 1, 0) == []
    assert ev(at + 1, 1) == both[:1]  # and the one that waits for its next try goes on waiting


def test_outbox_of_a_clock_that_is_ahead_waits_for_the_delay_only(rig, fence):
    job = rig.accept(callback="http://x/", age_ms=-3600000)
    rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")
    ev = lambda at: rig.eval("dispatcher", "outbox", fence, at, 5, 1000, 1500)
    at = now() + 10
    assert int(ev(at)[1]) == at + 1500
    assert ev(at + 1500)[2:]


def finished(rig, fence, **how):
    job = rig.accept(**how)
    rig.eval("dispatcher", "close", fence, job, now() - 600000, "infrastructure", "a" * 64, 9, "msg")
    return job


def retain(rig, fence, most, oldest=0, size=2, offset=0, most_bytes=10**9):
    return rig.eval("dispatcher", "retain", fence, now(), most, oldest, size, offset, most_bytes)


def test_retain_by_count_in_slices(rig, fence):
    jobs = [finished(rig, fence, output=f"o{i}") for i in range(5)]
    assert retain(rig, fence, 1) == [b"ok", b"2", b"0", b"1"]
    assert retain(rig, fence, 1) == [b"ok", b"2", b"0", b"1"]
    assert retain(rig, fence, 1) == [b"ok", b"0", b"0", b"0"]
    assert rig.redis.zrange(rig.key("dead"), 0, -1) == [str(jobs[-1]).encode()]
    left = {k.decode() for k in rig.redis.keys("*")}
    for job in jobs[:-1]:
        assert not any(k.endswith(f":{job}") for k in left), left
    assert rig.redis.hkeys(rig.key("res:main:lab")) == [b"o4"]
    assert rig.redis.zcard(rig.key("dead:main")) == 1


def test_retain_by_age_spares_recent_and_undelivered(rig, fence):
    pending = finished(rig, fence, callback="http://x/")
    old = finished(rig, fence)
    fresh = rig.accept()
    rig.eval("dispatcher", "close", fence, fresh, now(), "infrastructure", "a" * 64, 9, "msg")
    assert retain(rig, fence, 0, oldest=now(), size=1) == [b"ok", b"0", b"1", b"1"]
    assert retain(rig, fence, 0, oldest=now(), size=1, offset=1) == [b"ok", b"1", b"1", b"1"]
    assert retain(rig, fence, 0, oldest=now(), size=1, offset=1)[1] == b"0"
    assert {int(i) for i in rig.redis.zrange(rig.key("dead"), 0, -1)} == {pending, fresh} and old


def test_retain_leaves_a_newer_result_of_the_same_name(rig, fence):
    finished(rig, fence)
    newer = finished(rig, fence)
    retain(rig, fence, 1)
    assert rig.get("res:main:lab", "out.txt").startswith(f"{newer} ")


def test_refs(rig, fence):
    live = rig.accept(files=[["a", "a", b"\1" * 32, 3]])
    dead = finished(rig, fence)
    reply = rig.eval("dispatcher", "refs", fence, live, dead, 999)
    assert reply[1] == b"" and b"\1" * 32 in reply[2]
    assert reply[3:] == [b"a" * 64, b"", b"", b""]


def test_want_replaces_and_tells(rig, fence):
    v = Vmm(rig)
    rig.eval("dispatcher", "want", fence, "v1", "a", 1, "b", 2)
    rig.eval("dispatcher", "want", fence, "v1", "b", 3)
    assert rig.redis.hgetall(rig.key("vmm:v1:want")) == {b"b": b"3"}
    assert v.sub.get_message(timeout=1)["data"] == b"w"


# ---- all of them ----

def test_a_full_redis_can_drain(rig, fence):
    v = Vmm(rig, slots=4)
    jobs = [rig.accept(callback="http://x/") for _ in range(3)]
    used = rig.redis.info("memory")["used_memory"]
    rig.redis.config_set("maxmemory", used - 100000)
    try:
        assert len(assign(rig, fence, (place(rig), "v1", 2))) == 5
        v.take(), v.take()
        v.step(jobs[0], "r")
        assert v.commit(jobs[0]) == b"ok"
        assert rig.eval("dispatcher", "lead", "me", fence.split("@")[0], "", "")[0] == b"ok"
        assert rig.eval("dispatcher", "observe", fence, 1, 32, 100)[0] == b"ok"
        assert rig.eval("dispatcher", "reclaim", fence, "v1", v.epoch, 0, now()) == [b"ok", b"1"]
        assert due(rig, fence)[0] == b"ok"
        assert rig.eval("dispatcher", "close", fence, jobs[1], now(), "infrastructure", "a" * 64, 9, "m") == [b"ok"]
        assert len(rig.eval("dispatcher", "outbox", fence, now() + 9999, 5, 1, 0)) == 4
        assert rig.eval("dispatcher", "outbox_done", fence, jobs[0], "sent", "", 0) == [b"ok"]
        assert retain(rig, fence, 0)[0] == b"ok"
    finally:
        rig.redis.config_set("maxmemory", 0)


def test_observe_is_cheap_with_many_jobs_and_vmms(rig, fence):
    pipe = rig.redis.pipeline()
    p = lambda k: f"{PREFIX}:{k}"
    for i in range(200):
        pipe.sadd(p("vmms"), f"v{i}")
        pipe.hset(p(f"vmm:v{i}"), mapping={"epoch": 1, "beat": 1, "state": "up", "slots": 8, "drain": 0, "body": 1,
                                           "labels": ""})
        pipe.hset(p(f"vmm:v{i}:img"), mapping={f"img{k}": DIGEST for k in range(20)})
    for n in range(20):
        pipe.sadd(p("places"), n)
        pipe.zadd(p(f"q:{n}"), {str(n * 5000 + k): 4 * 2**32 + n * 5000 + k for k in range(5000)})
    pipe.execute()
    times = []
    for _ in range(9):
        t = time.monotonic()
        reply = rig.eval("dispatcher", "observe", fence, 0, 32, 4096)
        times.append(time.monotonic() - t)
    assert len(reply[3]) == 200 and len(reply[4]) == 20 and reply[4][0][1] == b"5000"
    assert sorted(times)[4] < 0.1, times  # a few ms; the bound is for a loaded machine


def test_lists_of_jobs_are_bounded_in_bytes(rig, fence):
    """Each job may have a description of 256 KB."""
    jobs = [rig.accept() for _ in range(40)]
    for j in jobs:
        rig.redis.set(rig.key(f"b:{j}"), b"x" * (256 << 10))
    seen, cursor = [], ""
    while True:
        reply = rig.eval("api", "job_rows", "main", "", cursor, 500, "", "", "", 1000)
        rows = [int(r[0]) for r in reply[2:]]
        assert reply[0] == b"ok" and 0 < len(rows) <= 17
        seen += rows
        cursor = reply[1]
        if not cursor:
            break
    assert seen == jobs[::-1]
    # Tango's list has no pages: of the live the oldest
    for j in jobs:
        rig.redis.set(rig.key(f"b:{j}"), b"x" * (2 << 20))
    reply = rig.eval("api", "jobs", "main", 0, 100)
    assert reply[1] == b"40" and [int(r[0]) for r in reply[2:]] == jobs[:32]


def test_the_pace_is_not_that_of_idle_time(rig, fence):
    """How long a wait is, is told by what ended since there was something to wait for."""
    def pace():
        told, what, every = rig.accept(most=0)
        assert (told, what) == (b"full", b"jobs")
        return int(every)

    def end(job, age_ms):
        rig.redis.zadd(rig.key("dead"), {job: now() - age_ms})

    assert pace() == 0  # unknown
    end(finished(rig, fence), 200000)
    assert pace() == 300000
    waiting = rig.accept(age_ms=20000, labels=("nosuch",))
    assert pace() == 300000  # nothing better is known yet
    end(finished(rig, fence, output="other"), 1000)
    assert 20000 <= pace() < 40000
    why = rig.eval("api", "why", "main", waiting, now())
    assert 20000 <= float(why[9]) < 40000
