"""What the scripts make of lost workers and of damaged records, on a real Redis."""

import pytest

from dispatcher_rig import DIGEST, PREFIX, Vmm
from harness.stack import ROOT
from test_lua_dispatcher import assign, due, fence, now, place, rig, server  # noqa: F401 (fixtures)

FAR = 40000  # beyond every wait


def lose(rig, fence, v, how):
    if how == "reclaim":
        assert rig.eval("dispatcher", "reclaim", fence, v.name, v.epoch, v.beat_ct, now())[0] == b"ok"
    v.held.clear()
    v.beat_ct = 0
    v.register()


def marks(rig, job):
    return rig.get(f"j:{job}", "k"), rig.get(f"j:{job}", "su")


def text_of(rig, job):
    return rig.get("pln", rig.get(f"j:{job}", "pl"))


def run(rig, fence, v, *jobs):
    """All that wait come due and go to v; those named begin."""
    due(rig, fence, at=now() + FAR)
    for n in rig.redis.smembers(rig.key("places")):
        assign(rig, fence, (n.decode(), v.name, 9))
    while v.take(0.1):
        pass
    for job in jobs:
        assert v.step(job, "r") == b"ok"


# ---- tokens ----

STALE = {  # script of an attempt: what it is given behind id and token
    "step": ("r", "executed", 1, "x"), "output": (0, "late"), "giveback": (1, 0, 1, "failed", "late"),
    "commit": (1, "success", "b" * 64, 4, "late", 0),
}


def test_invariant_3_each_script_that_takes_a_token_is_tried_here():
    lua = (ROOT / "services/vmm/lua").glob("*.lua")
    takers = {p.stem for p in lua if "-- ARGV: id, token" in p.read_text()}
    assert takers == set(STALE)


@pytest.mark.parametrize("name", STALE)
@pytest.mark.parametrize("when", ["queued again", "with another", "finished"])
def test_invariant_3_a_stale_token_changes_nothing(rig, fence, name, when):
    first, second = Vmm(rig, "v1"), Vmm(rig, "v2")
    job = rig.accept()
    run(rig, fence, first, job)
    stale = first.held[job]
    lose(rig, fence, first, "reclaim")
    if when != "queued again":
        due(rig, fence, at=now() + FAR)
        assign(rig, fence, (rig.get(f"j:{job}", "pl"), "v2", 9))
        second.take()
        assert second.step(job, "r") == b"ok"
    if when == "finished":
        assert second.commit(job, "a" * 64) == b"ok"
    before = {k: rig.redis.dump(k) for k in rig.redis.keys()}
    assert rig.eval("vmm", name, job, stale, *STALE[name])[0] == b"fenced"
    assert {k: rig.redis.dump(k) for k in rig.redis.keys()} == before


# ---- lost workers ----

@pytest.mark.parametrize("how", ["reclaim", "register"])
def test_invariant_5_who_ran_alone_is_charged_and_set_apart_at_three(rig, fence, how):
    v = Vmm(rig)
    job = rig.accept()
    for i in range(3):
        assert due(rig, fence, at=now() + FAR)[2:] == []
        run(rig, fence, v, job)
        lose(rig, fence, v, how)
        assert marks(rig, job) == (str(i + 1), None)
    assert not rig.redis.exists(rig.key("places"))
    assert due(rig, fence)[2:] == [b"poison", str(job).encode(), b"3"]
    assert due(rig, fence)[2:] == []  # for a while
    assert due(rig, fence, at=now() + FAR)[2:4] == [b"poison", str(job).encode()]
    close = lambda: rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")
    assert close() == [b"ok"] and close() == [b"moved"]
    assert rig.state(job) == "f" and not rig.redis.exists(rig.key("delay"))


@pytest.mark.parametrize("how", ["reclaim", "register"])
def test_who_ran_with_others_is_a_suspect_and_not_charged(rig, fence, how):
    v = Vmm(rig, slots=8)
    jobs = [rig.accept() for _ in range(3)]
    waits = rig.accept()
    run(rig, fence, v, *jobs)
    assert rig.state(waits) == "a"
    lose(rig, fence, v, how)
    assert [marks(rig, j) for j in jobs] == [(None, "1")] * 3
    assert marks(rig, waits) == (None, None)  # it had not begun, so it goes on at once
    assert rig.redis.zrange(rig.key("q:1"), 0, -1) == [str(waits).encode()]
    assert rig.redis.zcard(rig.key("delay")) == 3
    for j in jobs:
        assert rig.get(f"j:{j}", "c") is None and not text_of(rig, j).endswith("alone")


def test_invariant_5_the_wait_grows_and_is_jittered(rig, fence):
    v = Vmm(rig, slots=8)
    jobs = [rig.accept() for _ in range(6)]
    waits = []
    for _ in range(2):
        run(rig, fence, v, *jobs)
        at = now()
        lose(rig, fence, v, "reclaim")
        waits.append([rig.redis.zscore(rig.key("delay"), j) - at for j in jobs])
    assert all(45 <= w <= 300 for w in waits[0]) and sum(waits[1]) > 1.2 * sum(waits[0]) and all(95 <= w <= 450 for w in waits[1]), waits
    assert len(set(waits[0])) > 1


def test_only_the_culprit_comes_to_the_bound(rig, fence):
    """One job kills whatever it runs on; eight others only shared a worker with it."""
    v = Vmm(rig, slots=3)
    good = [rig.accept() for _ in range(4)]
    bad = rig.accept()
    good += [rig.accept() for _ in range(4)]
    for _ in range(60):
        reply = due(rig, fence, at=now() + FAR)
        if reply[2:]:
            break
        run(rig, fence, v)
        for job in list(v.held):
            v.step(job, "r")
        if bad in v.held:
            lose(rig, fence, v, "register")
        else:
            for job in list(v.held):
                assert v.commit(job) == b"ok"
    assert reply[2:4] == [b"poison", str(bad).encode()]
    run(rig, fence, v)
    for _ in range(20):
        for job in list(v.held):
            assert v.commit(job) == b"ok"
        run(rig, fence, v)
    assert [rig.state(j) for j in good] == ["f"] * 8
    assert all(rig.get(f"j:{j}", "k") is None for j in good)


def test_a_suspect_of_two_losses_is_placed_alone(rig, fence):
    v, w = Vmm(rig, "v1", slots=4), Vmm(rig, "w", slots=4)
    jobs = [rig.accept(), rig.accept()]
    for _ in range(2):
        run(rig, fence, v, *jobs)
        lose(rig, fence, v, "register")
    assert text_of(rig, jobs[0]) == f"img\n{DIGEST}\n\n\nalone"
    assert {rig.get(f"j:{j}", "pl") for j in jobs} == {"2"}
    other = rig.accept()
    assert len(assign(rig, fence, ("1", "v1", 4))) == 3
    due(rig, fence, at=now() + FAR)
    assert assign(rig, fence, ("2", "v1", 4)) == [b"ok"]  # not empty
    assert assign(rig, fence, ("2", "w", 4)) == [b"ok", str(jobs[0]).encode(), b"w"]
    rig.accept()
    assert assign(rig, fence, ("1", "w", 4), ("2", "w", 4)) == [b"ok"]  # nothing joins it
    view = {e[0]: e[9] for e in rig.eval("dispatcher", "observe", fence, 0, 32, 100)[3]}
    assert view == {b"v1": b"0", b"w": b"1"}
    w.take()
    assert w.commit(jobs[0]) == b"ok"
    assert len(assign(rig, fence, ("1", "w", 4))) == 3 and other


def test_a_label_named_alone_is_only_a_label(rig, fence):
    Vmm(rig, slots=4, labels="alone")
    for _ in range(2):
        rig.accept(labels=["alone"])
    assert len(assign(rig, fence, (place(rig), "v1", 4))) == 5


@pytest.mark.parametrize("why, blamed", [("stopping", False), ("operator: maintenance", False),
                                         ("backend: no answer", True)])
def test_a_worker_that_was_drained_for_its_end_blames_nobody(rig, fence, why, blamed):
    v = Vmm(rig, slots=4)
    jobs = [rig.accept(), rig.accept()]
    run(rig, fence, v, *jobs)
    if why.startswith("operator"):
        rig.redis.hset(rig.key("vmm:v1"), mapping={"drain": 1, "why": why})
    else:
        assert rig.eval("vmm", "drain", "v1", v.epoch, 1, why) == [b"ok"]
    lose(rig, fence, v, "register")
    assert {marks(rig, j) for j in jobs} == {(None, "1" if blamed else None)}
    if not blamed:
        assert rig.redis.zcard(rig.key("q:1")) == 2  # at once
    assert rig.get("vmm:v1", "drain") == ("1" if why.startswith("operator") else "0")


# ---- the end ----

def test_the_newest_job_of_an_output_name_has_the_result(rig, fence):
    v = Vmm(rig, slots=2)
    older, newer = rig.accept(), rig.accept()
    assign(rig, fence, (place(rig), "v1", 2))
    v.take(), v.take()
    assert v.commit(newer, sha="b" * 64) == b"ok"
    assert v.commit(older, sha="a" * 64) == b"ok"
    assert rig.get("res:main:lab", "out.txt") == f"{newer} {'b' * 64} 1"
    assert rig.get(f"j:{older}", "fd") == "a" * 64
    last = rig.accept()
    rig.eval("dispatcher", "close", fence, last, now(), "infrastructure", "c" * 64, 9, "msg")
    assert rig.get("res:main:lab", "out.txt").startswith(f"{last} ")


# ---- damaged records ----

DAMAGES = {
    "state gone": lambda r, i: r.delete(f"{PREFIX}:j:{i}"),
    "state of another type": lambda r, i: (r.delete(f"{PREFIX}:j:{i}"), r.set(f"{PREFIX}:j:{i}", "x")),
    "no placement": lambda r, i: r.hdel(f"{PREFIX}:j:{i}", "pl"),
    "unknown placement": lambda r, i: r.hset(f"{PREFIX}:j:{i}", "pl", "999"),
    "no tenant": lambda r, i: r.hdel(f"{PREFIX}:j:{i}", "te"),
    "no output": lambda r, i: r.hdel(f"{PREFIX}:j:{i}", "la", "of"),
    "no state": lambda r, i: r.hdel(f"{PREFIX}:j:{i}", "s"),
    "attempts no number": lambda r, i: r.hset(f"{PREFIX}:j:{i}", "n", "many"),
    "losses no number": lambda r, i: r.hset(f"{PREFIX}:j:{i}", mapping={"k": "x", "su": "y"}),
    "body gone": lambda r, i: r.delete(f"{PREFIX}:b:{i}"),
    "body of another type": lambda r, i: (r.delete(f"{PREFIX}:b:{i}"), r.lpush(f"{PREFIX}:b:{i}", "x")),
    "trace of another type": lambda r, i: (r.delete(f"{PREFIX}:t:{i}"), r.set(f"{PREFIX}:t:{i}", "x")),
}


def close(rig, fence, job):
    return rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "msg")


def told(rig, fence, jobs):
    """What `due` tells, now and later, while all else goes on."""
    found = {}
    for at in (now(), now() + FAR, now() + 2 * FAR):
        reply = due(rig, fence, at=at, oldest=now() - 3600000)
        found.update({int(reply[i + 1]): reply[i].decode() for i in range(2, len(reply), 3)})
    return {j: found[j] for j in jobs if j in found}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("where", ["queue", "delay", "old", "running"])
def test_one_damaged_record_stops_nothing(rig, fence, damage, where):
    v = Vmm(rig, slots=3)
    age = 7200000 if where == "old" else 0
    bad = rig.accept(age_ms=age, callback="http://x/")
    good = rig.accept(age_ms=age)
    n = place(rig)
    if where in ("delay", "running"):
        assign(rig, fence, (n, "v1", 2))
        v.take(), v.take()
        v.step(bad, "r"), v.step(good, "r")
    if where == "delay":
        v.giveback(bad, due=now() + 1), v.giveback(good, due=now() + 1)
    DAMAGES[damage](rig.redis, bad)
    if where == "running" and damage != "state gone":
        lose(rig, fence, v, "register")
    elif where == "running":
        assert b"-" in v.beat()
    elif where == "queue":
        assert assign(rig, fence, (n, "v1", 3)) == [b"ok", str(good).encode(), b"v1"]
    found = told(rig, fence, (bad, good))
    if where == "old":
        assert found[good] == "age" and bad in found
    else:
        assert rig.state(good) in ("q", "a", "r") and good not in found
        waits = rig.redis.zscore(rig.key("q:" + n), bad) is not None
        assert found.get(bad) == "broken" or (damage == "no state" and where == "running" and waits)
    if bad in found:
        assert close(rig, fence, bad) == [b"ok"] and close(rig, fence, bad) == [b"moved"]
        assert rig.state(bad) == "f" and not rig.redis.zscore(rig.key("alive"), bad)
        assert rig.redis.zscore(rig.key("dead"), bad) and not rig.redis.exists(rig.key("broken"))
        if "body" not in damage:
            assert rig.get("res:main:lab", "out.txt").startswith(f"{bad} ")
            assert rig.redis.zscore(rig.key("outbox"), bad)
    for name, argv in (("observe", (1, 32, 100)), ("outbox", (now() + FAR, 9, 1, 1)),
                       ("retain", (now() + 3600000, 0, now() + FAR, 9, 0, 1)), ("tidy", (now(), 1, 1, 1, 1)),
                       ("refs", (bad, good))):
        assert rig.eval("dispatcher", name, fence, *argv)[0] == b"ok", name
    for dead in (0, 1):
        assert rig.eval("api", "jobs", "main", dead, 10)[0] == b"ok"
    assert v.beat()[0] == b"ok"
