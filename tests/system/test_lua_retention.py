"""What bounds Redis: admission by count and bytes, and what is forgotten by age and count, on a real Redis."""

import pytest

from dispatcher_rig import Vmm
from test_lua_dispatcher import assign, fence, finished, now, place, retain, rig, server  # noqa: F401 (fixtures)

HOUR = 3600000
MANY = 10**6


def expire(rig, fence, at=None, size=100, labs=(MANY, 0), rejected=(MANY, 0), callbacks=(MANY, 0), builds=(MANY, 0),
           places=(MANY, 0)):
    return rig.eval("dispatcher", "expire", fence, at or now(), size, *labs, *rejected, *callbacks, *builds, *places)


def number(rig, field):
    return int(rig.get("meta", field) or 0)


def open_lab(rig, lab, at=None, most=MANY):
    at = at or now()
    return rig.eval("api", "lab_open", "main", lab, at, 5000, most, at - HOUR)


# ---- admission ----

def test_accept_is_bounded_by_count_and_by_bytes(rig, fence):
    one = len(rig.body())
    jobs = [rig.accept(most=2), rig.accept(most=2)]
    assert number(rig, "live_bytes") == 2 * one
    before = rig.redis.dbsize(), rig.get("meta", "id_next")
    assert rig.accept(most=2) == [b"full", b"jobs", b"0"]
    assert rig.accept(most_bytes=3 * one - 1) == [b"full", b"bytes", b"0"]
    assert (rig.redis.dbsize(), rig.get("meta", "id_next")) == before
    jobs.append(rig.accept(most_bytes=3 * one))
    v = Vmm(rig, slots=9)
    assign(rig, fence, (place(rig), "v1", 9))
    for job in jobs:
        v.take()
        v.commit(job)
    assert number(rig, "live_bytes") == 0 and number(rig, "dead_bytes") == 3 * one


def test_rejected_jobs_have_a_bound_of_their_own(rig, fence):
    graded = finished(rig, fence)
    jobs = [rig.reject(most=3) for _ in range(6)]
    assert rig.redis.zrange(rig.key("rejected"), 0, -1) == [str(j).encode() for j in jobs[3:]]
    assert rig.redis.zrange(rig.key("dead"), 0, -1) == [str(graded).encode()]
    assert rig.redis.zcard(rig.key("dead:main")) == 4
    assert not rig.redis.exists(*[rig.key(f"{k}:{j}") for j in jobs[:3] for k in "jbt"])
    assert number(rig, "dead_bytes") == 4 * len(rig.body())
    old = rig.reject(age_ms=2 * HOUR)
    assert expire(rig, fence, rejected=(MANY, now() - HOUR)) == [b"ok", b"0"]
    assert rig.state(old) is None and rig.redis.zcard(rig.key("rejected")) == 3
    for _ in range(3):
        expire(rig, fence, size=1, rejected=(0, 0))
    assert not rig.redis.exists(rig.key("rejected"))


def test_dead_jobs_go_by_bytes(rig, fence):
    jobs = [finished(rig, fence) for _ in range(4)]
    one = len(rig.body())
    assert retain(rig, fence, MANY, size=9, most_bytes=4 * one)[1] == b"0"
    assert retain(rig, fence, MANY, size=9, most_bytes=3 * one - 1)[1] == b"2"
    assert rig.redis.zrange(rig.key("dead"), 0, -1) == [str(j).encode() for j in jobs[2:]]
    retain(rig, fence, 0, size=9)
    assert number(rig, "dead_bytes") == 0


# ---- labs ----

def test_labs_go_by_age_since_they_were_used(rig, fence):
    t = now()
    for lab in ("opened", "filled", "used", "idle"):
        open_lab(rig, lab, t - 9 * HOUR)
    open_lab(rig, "opened", t - 2 * HOUR)
    rig.eval("api", "lab_put", "main", "filled", "f", "x", 9, t - 2 * HOUR)
    rig.accept(lab="used", age_ms=2 * HOUR)
    reply = expire(rig, fence, labs=(MANY, t - 3 * HOUR))
    assert reply == [b"ok", b"0", b"lab", b"main:idle"]
    assert {k.decode().split(":")[-1] for k in rig.redis.keys("*:lab:*")} == {"opened", "filled", "used"}


def test_labs_go_by_count_but_none_of_the_last_hour(rig, fence):
    t = now()
    for i in range(5):
        open_lab(rig, f"l{i}", t - (9 - i) * HOUR)
    open_lab(rig, "new", t - HOUR // 2)
    assert expire(rig, fence, size=2, labs=(1, 0))[:2] == [b"ok", b"1"]
    assert expire(rig, fence, size=2, labs=(1, 0))[:2] == [b"ok", b"1"]
    assert expire(rig, fence, size=2, labs=(1, 0))[:2] == [b"ok", b"0"]
    assert expire(rig, fence, size=1, labs=(0, t)) == [b"ok", b"0"]  # promised
    assert rig.redis.keys("*:lab:*") == [rig.key("lab:main:new").encode()]


def test_open_makes_room_or_says_that_there_is_none(rig, fence):
    t = now()
    for i in range(3):
        assert open_lab(rig, f"l{i}", t - (4 - i) * HOUR, most=3)[0] == b"ok"
    assert open_lab(rig, "l3", t, most=3)[:2] == [b"ok", b"1"]
    assert not rig.redis.exists(rig.key("lab:main:l0"))
    for i in range(4, 6):
        assert open_lab(rig, f"l{i}", t, most=3)[0] == b"ok"
    full, until = open_lab(rig, "l6", t, most=3)
    assert full == b"full" and int(until) == HOUR + 1
    assert open_lab(rig, "l5", t, most=3)[:2] == [b"ok", b"0"]
    assert rig.redis.zcard(rig.key("labs")) == 3


# ---- callbacks ----

@pytest.mark.parametrize("bound", [(1, 0), (MANY, "mid")])
def test_callbacks_are_given_up_by_age_and_count(rig, fence, bound):
    jobs = []
    for i in range(3):
        jobs.append(rig.accept(callback="http://x/"))
        rig.eval("dispatcher", "close", fence, jobs[-1], now() - (9 - 4 * i) * HOUR, "infrastructure", "a" * 64, 9, "m")
    oldest = now() - 3 * HOUR if bound[1] == "mid" else 0
    reply = expire(rig, fence, callbacks=(bound[0], oldest))
    assert reply[2:] == [x for j in jobs[:2] for x in (b"callback", str(j).encode())]
    assert rig.redis.zrange(rig.key("outbox"), 0, -1) == [str(jobs[2]).encode()]
    assert not rig.redis.exists(rig.key(f"ob:{jobs[0]}")) and rig.get("stats", "callbacks_failed") == "2"
    assert [rig.get(f"j:{j}", "cs") for j in jobs] == ["failed", "failed", None]  # as the API tells it
    done = lambda j: rig.eval("dispatcher", "outbox_done", fence, j, "sent", "", 0)
    assert done(jobs[0]) == [b"moved"] and done(jobs[2]) == [b"ok"]
    assert not rig.redis.exists(rig.key("outbox_at"))
    assert retain(rig, fence, 0, size=9)[1] == b"3"  # they are free to go now


def test_a_callback_that_is_asked_for_again_has_the_bounds_of_others(rig, fence):
    job = rig.accept(callback="http://x/")
    rig.eval("dispatcher", "close", fence, job, now() - 9 * HOUR, "infrastructure", "a" * 64, 9, "m")
    assert rig.eval("dispatcher", "outbox_done", fence, job, "failed", "status 500", 0) == [b"ok"]
    assert rig.eval("api", "callback_retry", "main", job, now())[0] == b"ok" and rig.get(f"j:{job}", "cs") is None
    assert expire(rig, fence, callbacks=(MANY, now() - HOUR))[2:] == []  # from now on, not since it finished
    assert expire(rig, fence, callbacks=(0, 0))[2:] == [b"callback", str(job).encode()]
    assert not rig.redis.exists(rig.key("outbox")) and rig.get(f"j:{job}", "cs") == "failed"


def test_that_a_callback_was_sent_is_heard_from_whoever_sent_it(rig, fence):
    job = rig.accept(callback="http://x/")
    rig.eval("dispatcher", "close", fence, job, now(), "infrastructure", "a" * 64, 9, "m")
    rig.redis.hset(rig.key("lead"), mapping={"holder": "other", "epoch": 9})
    done = lambda how: rig.eval("dispatcher", "outbox_done", fence, job, how, "", 0)
    assert done("retry") == done("release") == done("failed") == [b"deposed"]
    assert done("sent") == [b"ok"] and done("sent") == [b"moved"]
    assert not rig.redis.exists(rig.key("outbox"))


# ---- placements, images, vmms, builds ----

def test_placements_without_a_live_job_go(rig, fence):
    v = Vmm(rig, slots=9)
    live = rig.accept(labels=["live"])
    for i in range(5):
        rig.accept(labels=[f"l{i}"])
    rig.accept(labels=["l0"])
    for n in rig.redis.smembers(rig.key("places")):
        assign(rig, fence, (n.decode(), "v1", 9))
    while v.take(0.2):
        pass
    for job in sorted(set(v.held) - {live}):
        assert v.commit(job) == b"ok"
    assert rig.redis.zcard(rig.key("plfree")) == 5 and rig.redis.hlen(rig.key("plc")) == 1
    rig.accept(labels=["l4"])  # in use again
    assert rig.redis.zcard(rig.key("plfree")) == 4
    assert expire(rig, fence, size=1, places=(2, 0)) == [b"ok", b"1"]
    assert expire(rig, fence, size=1, places=(2, 0)) == [b"ok", b"1"]
    assert expire(rig, fence, size=1, places=(2, 0)) == [b"ok", b"0"]
    assert expire(rig, fence, places=(MANY, now() + 1)) == [b"ok", b"0"]
    assert rig.redis.hlen(rig.key("pl")) == rig.redis.hlen(rig.key("pln")) == 2
    assert rig.redis.hlen(rig.key("plc")) == 2 and not rig.redis.exists(rig.key("plfree"))
    assert len(rig.redis.smembers(rig.key("places"))) == 1
    newest = lambda: max(int(n) for n in rig.redis.hkeys(rig.key("pln")))
    n = newest()
    rig.accept(labels=["l1"])
    assert newest() > n  # a number is not given twice


def tidy(rig, fence, at, away=1000, used=500, most=9, wishes=9):
    assert rig.eval("dispatcher", "tidy", fence, at, away, at - used, most, wishes) == [b"ok"]


def test_tidy_forgets_vmms_and_what_only_they_had(rig, fence):
    v, w = Vmm(rig, images={"both": "d1", "its": "d2"}), Vmm(rig, "w", images={"both": "d3"})
    rig.eval("vmm", "unregister", "v1", v.epoch, now())
    rig.redis.hset(rig.key("used"), "img", now())
    tidy(rig, fence, now())
    assert rig.redis.sismember(rig.key("vmms"), "v1") and rig.redis.exists(rig.key("used"))
    assert rig.redis.hgetall(rig.key("img")) == {b"both": b"d1 d3", b"its": b"d2"}
    tidy(rig, fence, now() + 2000)
    assert rig.redis.smembers(rig.key("vmms")) == {b"w"} and not rig.redis.exists(rig.key("used"))
    assert rig.redis.hgetall(rig.key("img")) == {b"both": b"d3"}
    assert not rig.redis.keys("*vmm:v1*")
    old = v.epoch
    v.register()
    assert int(v.epoch) > int(old) and w


def test_tidy_bounds_vmms_that_are_away_and_wishes(rig, fence):
    for i in range(4):
        v = Vmm(rig, f"v{i}", images={})
        rig.eval("vmm", "unregister", v.name, v.epoch, now())
        tidy(rig, fence, now() + i)
    Vmm(rig, "up")
    rig.redis.hset(rig.key("wish"), mapping={"img": "1 0 0", "gone": "1 0 0"})
    tidy(rig, fence, now() + 10, most=2, wishes=2)
    assert rig.redis.smembers(rig.key("vmms")) == {b"v2", b"v3", b"up"} and rig.redis.hlen(rig.key("wish")) == 2
    tidy(rig, fence, now() + 10, wishes=1)
    assert rig.redis.hkeys(rig.key("wish")) == [b"img"]


def test_builds_go_unless_their_image_is_there(rig, fence):
    Vmm(rig, images={"used": "d"})
    for name in ("used", "old", "new"):
        rig.eval("api", "wish_build", name, "a" * 64, now() - (0 if name == "new" else HOUR), 100)
    assert expire(rig, fence, builds=(MANY, now() - 1000))[2:] == [b"build", b"old"]
    assert set(rig.redis.hkeys(rig.key("build"))) == {b"used", b"new"}
    expire(rig, fence, builds=(0, 0))
    assert not rig.redis.exists(rig.key("build"), rig.key("builds_at"))


# ---- names of images ----

OWN = "main.tenant.milonga.invalid/img"


def means(rig, name="img"):
    return rig.eval("api", "lookup", "main", "lab", "", name)[4].decode()


def send(rig, digit, state=None):
    assert rig.eval("api", "wish_build", OWN, digit * 64, now(), 100)[0] == b"ok"
    if state:
        assert rig.eval("vmm", "build_done", OWN, digit * 64, state, "") == [b"ok"]


def test_a_name_goes_on_to_mean_the_own_image(rig, fence):
    Vmm(rig)
    send(rig, "a", "failed")
    assert means(rig) == "img", "there never was an own one"
    send(rig, "b", "done")
    assert means(rig) == OWN and rig.get("img", OWN) is None, "its vmm is gone"
    send(rig, "c")
    assert means(rig) == OWN
    for digit in "de":
        send(rig, digit, "failed")
        assert means(rig) == OWN
    assert rig.eval("api", "image_drop", "main", "img", "own") == [b"ok"]
    assert means(rig) == "img"
    send(rig, "a")
    assert means(rig) == "img", "the next one of that name is a first one again"


def test_what_a_name_meant_is_forgotten_with_its_build(rig, fence):
    send(rig, "a", "done")
    send(rig, "b")
    assert rig.redis.sismember(rig.key("built"), OWN)
    expire(rig, fence, builds=(0, 0))
    assert means(rig) == "img" and not rig.redis.exists(rig.key("built"))


def test_a_wish_can_be_ended_whatever_its_name_means_by_now(rig, fence):
    Vmm(rig)
    assert rig.eval("api", "wish_pool", "main", "img", 5, 0, 0) == [b"ok"]
    send(rig, "a", "done")
    assert means(rig) == OWN
    assert rig.eval("api", "unwish", "main", "img") == [b"ok"]  # the shared one
    assert rig.eval("api", "unwish", "main", "img") == [b"none"]
    rig.redis.hset(rig.key("wish"), mapping={OWN: "5 0 0", "img": "1 0 0"})
    assert rig.eval("api", "image_drop", "main", "img", "own")[0] == b"conflict"
    rig.redis.delete(rig.key("build"))
    assert means(rig) == "img"
    assert rig.eval("api", "unwish", "main", "img") == [b"ok"]  # its own goes first, though it is gone
    assert rig.redis.hkeys(rig.key("wish")) == [b"img"]


# ---- the whole ----

def test_nothing_is_left_of_jobs_that_are_forgotten(rig, fence):
    """However many there were: what stays is counters, the stream of events (bounded) and what their vmm has."""
    v = Vmm(rig, slots=99)
    before = None
    for _ in range(3):
        jobs = [rig.accept(labels=[f"l{i % 7}"], output=f"o{i}", callback="http://x/", lab=f"lab{i % 3}", age_ms=2 * HOUR)
                for i in range(30)]
        for n in rig.redis.smembers(rig.key("places")):
            assign(rig, fence, (n.decode(), "v1", 99))
        while len(v.held) < 30:
            v.take()
        for job in jobs:
            rig.eval("vmm", "commit", job, v.held.pop(job), now() - 2 * HOUR, "success", "0" * 64, 1, "done")
        rig.reject(age_ms=2 * HOUR)
        expire(rig, fence, labs=(0, now()), rejected=(MANY, now()), callbacks=(0, 0), places=(0, 0))
        retain(rig, fence, 0, size=99)
        keys = {k.decode() for k in rig.redis.keys("*")}
        assert before is None or keys == before
        before = keys
    assert {k.split(":", 1)[1] for k in before} == {"lead", "meta", "vmms", "vmm:v1", "vmm:v1:img", "img", "used", "stats",
                                                     "ev", "hist"}
    assert number(rig, "live_bytes") == 0 and number(rig, "dead_bytes") == 0
