"""The dispatcher itself, with a real Redis, vmms of a few lines and a frontend that takes callbacks."""

import hashlib
import http.server
import os
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time

import pytest
import redis

from dispatcher_rig import DIGEST, Rig, Vmm, wait_for
from harness.process import free_port, is_stopped


@pytest.fixture
def rig():
    r = Rig()
    yield r
    for p in r.dispatchers:
        text = r.log(p)
        assert "Sanitizer" not in text and "runtime error" not in text, text
    r.close()


@pytest.fixture
def active(rig):
    d = rig.dispatcher(callback_delay_ms=0)
    wait_for(rig.led)
    return d


def beating(vmm):
    """Beats until the returned event is set."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.1):
            try:
                vmm.beat()
            except redis.exceptions.RedisError:
                pass  # stopped by the test
    threading.Thread(target=run, daemon=True).start()
    return stop


def put(rig, text):
    """Feedback into the store, as a vmm does."""
    sha = hashlib.sha256(text).hexdigest()
    folder = f"{rig.dir}/data/store/blobs/{sha[:2]}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{sha}", "wb") as f:
        f.write(text)
    return sha


def feedback(rig, job):
    sha = rig.get(f"j:{job}", "fd")
    with open(f"{rig.dir}/data/store/blobs/{sha[:2]}/{sha}", encoding="utf-8") as f:
        return f.read()


# ---- assignment ----

def test_a_job_goes_out_at_once(rig, active):
    v = Vmm(rig, slots=1)
    stop = beating(v)
    first, second = rig.accept(), rig.accept()
    assert v.take()[0] == first and v.take(0.3) is None
    times = []
    for _ in range(10):
        t = time.monotonic()
        v.commit(first)
        first = v.take()[0]
        times.append(time.monotonic() - t)
        rig.accept()
    assert sorted(times)[5] < 0.05, times
    stop.set()
    assert second


def test_no_image_stands_in_the_way_of_another(rig, active):
    for _ in range(50):
        rig.accept(image="none", digests=["sha256:" + "0" * 64])
        rig.accept(labels=["gpu"])
    v = Vmm(rig)
    job = rig.accept()
    assert v.take()[0] == job and v.take(0.3) is None
    g = Vmm(rig, "v2", slots=3, labels="gpu,big")
    assert g.take() and g.take() and g.take()


def test_by_digest_under_any_name(rig, active):
    v = Vmm(rig, images={"other:name": DIGEST})
    job = rig.accept()
    assert v.take()[0] == job


def test_spread_by_free_slots(rig, active):
    a, b = Vmm(rig, "a", slots=4), Vmm(rig, "b", slots=2)
    time.sleep(0.2)
    for _ in range(6):
        rig.accept()
    wait_for(lambda: rig.redis.hlen(rig.key("vmm:a:run")) == 4 and rig.redis.hlen(rig.key("vmm:b:run")) == 2)
    assert a and b


def test_a_lost_vmm_gives_its_jobs_to_another(rig, active):
    v, w = Vmm(rig, "v"), Vmm(rig, "w", images={})
    stop = beating(w)
    job = rig.accept()
    token = v.take()[1]
    w.images = {"img": DIGEST}
    w.show_images()
    got = w.take(3)
    assert got[0] == job and got[1] != token
    assert v.commit(job) == b"fenced" and w.commit(job) == b"ok"
    stop.set()
    assert "vmm.lost" in rig.log(active)


def test_a_giveback_with_a_delay_comes_when_it_is_due(rig, active):
    v = Vmm(rig)
    stop = beating(v)
    job = rig.accept()
    v.take()
    t = time.monotonic()
    v.giveback(job, due=v.now() + 400)
    assert v.take()[0] == job
    assert 0.35 < time.monotonic() - t < 0.8
    stop.set()


# ---- jobs that no worker ends ----

def test_old_jobs_end_with_feedback(rig):
    d = rig.dispatcher(queue_max_age_s=1)
    wait_for(rig.led)
    job = rig.accept(name="alpha")
    wait_for(lambda: rig.state(job) == "f")
    text = feedback(rig, job)
    assert re.match(r"Autograder \[.*\]: Received job alpha:%d\nAutograder \[.*\]: Internal error: " % job, text)
    assert rig.get(f"j:{job}", "x") == "infrastructure"
    assert rig.redis.lindex(rig.key(f"t:{job}"), -1).startswith(b"final ")
    assert d.poll() is None


def test_a_job_that_kills_its_workers_is_set_apart(rig, active, front):
    """And none of those that shared a worker with it is charged or ended."""
    v = Vmm(rig, slots=3)
    stop = beating(v)
    bad = rig.accept(callback=front.url, output="bad.txt")
    good = [rig.accept() for _ in range(5)]
    lost = 0
    while rig.state(bad) != "f":
        if v.take(0.3) and len(v.held) < 3:
            v.take(0.1), v.take(0.1)
        for job in list(v.held):
            v.step(job, "r")
        if bad in v.held:
            v.held.clear()
            v.register()
            lost += 1
            continue
        for job in list(v.held):
            v.commit(job)
    assert lost == 5  # twice with others, three times alone
    assert re.search(r"Internal error: .* set apart, since 3 workers were lost", feedback(rig, bad))
    assert rig.get(f"j:{bad}", "x") == "infrastructure"
    wait_for(lambda: delivered(rig, bad))
    assert b"set apart" in front.got[0][4]
    while any(rig.state(j) != "f" for j in good):
        assert v.take()
        for job in list(v.held):
            v.commit(job)
    assert {rig.get(f"j:{j}", "x") for j in good} == {"success"}
    assert {rig.get(f"j:{j}", "k") for j in good} == {None}
    stop.set()
    assert "job.set_apart" in rig.log(active)


def test_a_damaged_record_is_closed_and_the_rest_goes_on(rig, active):
    v = Vmm(rig, images={})
    stop = beating(v)
    bad, good = rig.accept(), rig.accept()
    rig.redis.hdel(rig.key(f"j:{bad}"), "pl")
    v.images = {"img": DIGEST}
    v.show_images()
    assert v.take()[0] == good
    wait_for(lambda: rig.state(bad) == "f")
    assert "record of the job is damaged" in feedback(rig, bad)
    assert "job.set_apart" in rig.log(active) and "its state has no pl" in rig.log(active)
    stop.set()


# ---- pools ----

def test_pools_follow_wishes_and_use(rig):
    rig.dispatcher(pool_size=3)
    wait_for(rig.led)
    a, b = Vmm(rig, "a"), Vmm(rig, "b")
    stops = [beating(a), beating(b)]
    rig.accept()
    want = lambda v: rig.redis.hget(rig.key(f"vmm:{v}:want"), "img")
    wait_for(lambda: (want("a"), want("b")) == (b"2", b"1"))
    rig.eval("api", "wish_pool", "main", "img", 5, 0, 0)
    wait_for(lambda: (want("a"), want("b")) == (b"3", b"2"))
    rig.redis.hset(rig.key("vmm:a"), "drain", 1)
    wait_for(lambda: (want("a"), want("b")) == (None, b"5"))
    rig.redis.hset(rig.key("vmm:a"), "drain", 0)
    rig.eval("api", "wish_pool", "main", "img", 1, 2000, 512)  # the shape holds where no machine is wished, too
    wait_for(lambda: (want("a"), want("b")) == (b"1 2000 512", b"0 2000 512"))
    rig.eval("api", "wish_pool", "main", "img", 0, 0, 0)
    wait_for(lambda: (want("a"), want("b")) == (None, None))
    for s in stops:
        s.set()


# ---- the lease and restarts ----

def test_takeover(rig):
    a = rig.dispatcher()
    wait_for(rig.led)
    b = rig.dispatcher()
    time.sleep(0.3)
    holder, t = rig.get("lead", "holder"), time.monotonic()
    a.kill()
    wait_for(lambda: rig.get("lead", "holder") != holder)
    assert 0.3 < time.monotonic() - t < 1.5
    c = rig.dispatcher()
    time.sleep(0.3)
    holder, t = rig.get("lead", "holder"), time.monotonic()
    b.terminate()
    wait_for(lambda: rig.get("lead", "holder") not in ("", holder))
    assert time.monotonic() - t < 0.4
    assert b.wait(3) == 0 and c.poll() is None


def test_a_paused_leader_changes_nothing(rig):
    a = rig.dispatcher()
    wait_for(rig.led)
    b = rig.dispatcher()
    time.sleep(0.3)
    epoch = rig.get("lead", "epoch")
    a.send_signal(signal.SIGSTOP)
    wait_for(lambda: rig.get("lead", "epoch") != epoch)
    holder = rig.get("lead", "holder")
    a.send_signal(signal.SIGCONT)
    v = Vmm(rig)
    for _ in range(20):
        rig.accept()
        v.commit(v.take()[0])
    assert rig.get("lead", "holder") == holder
    wait_for(lambda: "lead.lost" in rig.log(a))
    assert "job.assigned" not in rig.log(a) and b.poll() is None


def test_a_gap_in_the_view_of_redis_starts_the_leases_afresh(rig):
    rig.dispatcher()
    wait_for(rig.led)
    b = rig.dispatcher()
    v = Vmm(rig)
    stop = beating(v)
    time.sleep(0.3)
    epoch = rig.get("lead", "epoch")
    rig.server.send_signal(signal.SIGSTOP)  # for all of them
    time.sleep(1.2)
    rig.server.send_signal(signal.SIGCONT)
    time.sleep(0.4)
    assert rig.get("lead", "epoch") == epoch and rig.get("vmm:v1", "state") == "up"
    stop.set()
    assert b.poll() is None


def test_redis_restarted_empty_gives_no_id_twice(rig, active):
    v = Vmm(rig)
    first = rig.accept()
    assert v.take()[1] == "1.1"
    rig.stop_redis()
    for name in os.listdir(rig.dir):
        if name.startswith("appendonly"):
            os.rename(f"{rig.dir}/{name}", f"{rig.dir}/gone")
    rig.start_redis()
    wait_for(rig.led)
    second = rig.accept()
    assert second > first + 90000
    v = Vmm(rig)
    got, token = v.take()[:2]
    # a generation may be skipped: the store's record is written first, and the server may be another by then
    assert got == second and int(token.split(".")[0]) > 1 and token.endswith(".1")
    assert active.poll() is None


def test_redis_restarted_with_its_data_goes_on(rig, active):
    v = Vmm(rig, slots=1)
    running, waiting = rig.accept(), rig.accept()
    token = v.take()[1]
    time.sleep(1.1)  # everysec
    v.register()  # it had been lost without beats
    v.held.clear()
    v.take()
    rig.stop_redis(signal.SIGTERM)
    rig.start_redis()
    wait_for(rig.led)
    v = Vmm(rig, slots=2)
    got = [v.take(), v.take()]
    assert {g[0] for g in got} == {running, waiting} and all(g[1].startswith("2.") for g in got) and token


def test_ids_are_raised_before_they_run_out(rig, active):
    limit = int(rig.get("meta", "id_limit"))
    rig.redis.hset(rig.key("meta"), "id_next", limit - 1)
    rig.accept()
    wait_for(lambda: int(rig.get("meta", "id_limit")) > limit)
    with open(f"{rig.dir}/data/store/meta/ids", encoding="utf-8") as f:
        assert f.read().split() == ["1", rig.get("meta", "id_limit")]


@pytest.mark.parametrize("late", [("ids", "1 2"), ("ids-1-2", "1 2"), ("ids-1-99999", "1 99999")])
def test_a_mark_that_an_ex_leader_writes_late_changes_nothing(rig, late):
    """One that was stopped in the middle of writing wakes up, and writes what was true then."""
    d = rig.dispatcher()
    wait_for(rig.led)
    first = rig.accept()
    rig.redis.flushall()
    wait_for(rig.led)
    second = rig.accept()
    with open(f"{rig.dir}/data/store/meta/{late[0]}", "w", encoding="utf-8") as f:
        f.write(late[1])
    rig.redis.flushall()
    wait_for(rig.led)
    assert rig.accept() > second > first and int(rig.get("meta", "gen")) >= 3
    left = [n for n in os.listdir(f"{rig.dir}/data/store/meta") if n.startswith("ids-")]
    assert left == [f"ids-{rig.get('meta', 'gen')}-{rig.get('meta', 'id_limit')}"] and d.poll() is None


def test_a_generation_that_an_ex_leader_did_not_tell_is_passed_over(rig):
    """It read the marks, was stopped, wrote a generation more, and was deposed before it could tell Redis: ids go on."""
    rig.dispatcher()
    wait_for(rig.led)
    first = rig.accept()
    with open(f"{rig.dir}/data/store/meta/ids-2-3000", "w", encoding="utf-8") as f:
        f.write("2 3000")
    rig.redis.hset(rig.key("meta"), "id_limit", first + 2)  # nearly used up
    rig.redis.publish(rig.key("wake"), "")
    wait_for(lambda: rig.get("meta", "gen") == "3")
    assert rig.accept() > first and int(rig.get("meta", "id_limit")) > 3000


def test_jobs_are_closed_while_ids_can_not_be_kept(rig):
    rig.dispatcher(queue_max_age_s=3)
    wait_for(rig.led)
    old, kept = rig.accept(age_ms=0), int(rig.get("meta", "id_limit"))
    for name in os.listdir(f"{rig.dir}/data/store/meta"):
        with open(f"{rig.dir}/data/store/meta/{name}", "w", encoding="utf-8") as f:
            f.write("rubbish")
    rig.redis.hset(rig.key("meta"), "id_next", kept - 1)
    wait_for(lambda: "ids.failed" in rig.log(rig.dispatchers[0]))
    assert rig.state(old) == "q"
    wait_for(lambda: rig.state(old) == "f", 10)
    assert "waited for over" in feedback(rig, old) and rig.get("meta", "id_limit") == str(kept)
    assert "is damaged" in rig.log(rig.dispatchers[0])


def test_the_store_keeps_what_something_names(rig):
    """Files of a lab and of a live job, feedback and archives stay; what nothing names goes, after its grace."""
    d = rig.dispatcher(collect_interval_s=1, collect_grace_s=3, collect_quiet_s=0)
    wait_for(rig.led)
    v = Vmm(rig)
    stop = beating(v)
    names = ["nothing", "lab", "live", "feedback", "archive", "late"]
    sha = {n: put(rig, n.encode()) for n in names}
    rig.eval("api", "lab_open", "main", "lab", v.now(), 10, 10, 0)
    rig.eval("api", "lab_put", "main", "lab", "f", f"{sha['lab']} {'0' * 32} 3", 10, v.now())
    rig.eval("api", "wish_build", "built", sha["archive"], v.now(), 100)
    job = rig.accept()
    v.take()
    v.commit(job, sha=sha["feedback"])
    rig.redis.hset(rig.key("vmm:v1"), "drain", 1)
    rig.accept(files=[["live", "live", bytes.fromhex(sha["live"]), 4]])
    there = lambda: {n for n in names if os.path.exists(f"{rig.dir}/data/store/blobs/{sha[n][:2]}/{sha[n]}")}
    wait_for(lambda: there() == {"lab", "live", "feedback", "archive"}, 15, 0.1)
    rig.eval("api", "lab_put", "main", "lab", "f", f"{sha['live']} {'0' * 32} 4", 10, v.now())
    wait_for(lambda: there() == {"live", "feedback", "archive"}, 15, 0.1)
    time.sleep(2.5)
    assert there() == {"live", "feedback", "archive"} and d.poll() is None
    stop.set()


def test_a_collector_that_was_paused_takes_nothing_by_what_it_knew_then(rig):
    """It is stopped in the middle of a store that takes a while; meanwhile a lab names what it is about to remove."""
    d = rig.dispatcher(collect_interval_s=1, collect_grace_s=3, collect_quiet_s=0)
    wait_for(rig.led)
    sha = [put(rig, b"file %d" % i) for i in range(3000)]
    path = lambda s: f"{rig.dir}/data/store/blobs/{s[:2]}/{s}"
    left = lambda: [s for s in sha if os.path.exists(path(s))]
    wait_for(lambda: len(left()) < 3000, 30, 0.02)
    d.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(d.pid))
    stays = left()
    assert len(stays) > 500
    rig.eval("api", "lab_open", "main", "lab", int(time.time() * 1000), 10, 10, 0)
    for i, s in enumerate(stays):
        os.utime(path(s))  # as the upload of what is there already does
        rig.eval("api", "lab_put", "main", "lab", f"f{i}", f"{s} {'0' * 32} 3", 10000, int(time.time() * 1000))
    time.sleep(4)  # beyond their grace
    d.send_signal(signal.SIGCONT)
    wait_for(lambda: rig.log(d).count("store.collected") >= 2, 30, 0.1)
    assert left() == stays


def test_a_callback_that_waits_too_long_is_given_up_loudly(rig):
    d = rig.dispatcher(callback_delay_ms=0, outbox_max=1, collect_interval_s=1, callback_retry_cap_ms=1000)
    wait_for(rig.led)
    jobs = [deliver(rig, "http://127.0.0.1:1/") for _ in range(3)]
    wait_for(lambda: rig.redis.zcard(rig.key("outbox")) == 1)
    assert not delivered(rig, jobs[-1]) and rig.get("stats", "callbacks_failed") == "2"
    wait_for(lambda: rig.log(d).count("more than outbox_max wait") == 2)


def test_a_callback_that_was_sent_is_not_sent_again_by_who_leads_now(rig, front):
    rig.dispatcher(callback_delay_ms=0, leader_lease_ms=20000)
    wait_for(rig.led)
    front.script = ["slow"]
    job = deliver(rig, front.url)
    wait_for(lambda: front.got)
    rig.redis.hset(rig.key("lead"), mapping={"holder": "other", "epoch": 99})  # another took over meanwhile
    wait_for(lambda: "lead.lost" in rig.log(rig.dispatchers[0]))
    wait_for(lambda: delivered(rig, job))
    assert len(front.got) == 1 and rig.get("lead", "holder") == "other"


def test_flushed_while_running(rig, active):
    rig.accept()
    rig.redis.flushall()
    wait_for(rig.led)
    assert rig.accept() > 90000 and active.poll() is None


def test_term_is_quick_while_redis_hangs(rig, active):
    rig.server.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    t = time.monotonic()
    active.terminate()
    assert active.wait(10) == 0
    assert time.monotonic() - t < 6
    rig.server.send_signal(signal.SIGCONT)


def test_a_store_behind_http_is_refused_with_a_sentence(rig):
    d = rig.dispatcher(store="http://127.0.0.1:1", store_key="secret-secret-secret")
    assert d.wait(5) == 1
    assert "needs the directory itself" in rig.log(d)


# ---- callbacks ----

class Frontend(http.server.ThreadingHTTPServer):
    """Answers with what `script` says, one a request, then 204; keeps what came."""

    def __init__(self):
        front = self
        self.got, self.script, self.redirect = [], [], None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                front.got.append((time.time(), self.command, self.path, self.headers, body))
                answer = front.script.pop(0) if front.script else (204, {})
                if answer == "drop":
                    self.connection.close()
                    self.close_connection = True
                    return
                if answer == "slow":
                    time.sleep(1)
                    answer = (204, {})
                if answer == "hang":
                    time.sleep(3)
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                for k, val in answer[1].items():
                    self.send_header(k, val)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET = handle_any

            def log_message(self, *args):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def front():
    f = Frontend()
    yield f
    f.shutdown()
    f.server_close()


def deliver(rig, url, text=b"Autograder: hello\n", output="dir/a@b.txt"):
    """A job that ends with this feedback."""
    v = Vmm(rig)
    job = rig.accept(callback=url, output=output)
    v.take()
    v.commit(job, sha=put(rig, text), size=len(text))
    return job


def delivered(rig, job):
    return rig.redis.zscore(rig.key("outbox"), job) is None


def test_callback_form(rig, active, front):
    text = b"Autograder: h\xc3\xa9llo \xff\xc0\x80\xed\xa0\x80\xe2\x82A\n{\"scores\": {}}"
    job = deliver(rig, front.url + "/done?dave=SECRET&submission_id=7", text)
    wait_for(lambda: delivered(rig, job))
    (_, method, path, headers, body), = front.got
    assert (method, path) == ("POST", "/done?dave=SECRET&submission_id=7")
    kind, boundary = headers["Content-Type"].split("; boundary=")
    assert kind == "multipart/form-data" and re.fullmatch("[0-9a-f]{32}", boundary)
    assert headers["Filename"] == "out.txt" and headers["Expect"] is None
    assert headers["User-Agent"].startswith("Milonga/")
    assert body == (b"--" + boundary.encode() + b"\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\""
                    b"\r\n\r\n" + text.decode("utf-8", "ignore").encode() + b"\r\n--" + boundary.encode() + b"--\r\n")
    assert rig.get("stats", "callbacks_sent") == "1"
    assert "SECRET" not in rig.log(active)


def test_callback_not_before_its_delay(rig, front):
    rig.dispatcher(callback_delay_ms=700)
    wait_for(rig.led)
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert 0.7 <= front.got[0][0] - int(rig.get(f"j:{job}", "at")) / 1000 < 1.3


@pytest.mark.parametrize("answer", ["drop", (500, {}), (503, {"Retry-After": "2"}), (429, {}), "hang"])
def test_callback_is_tried_again(rig, front, answer):
    rig.dispatcher(callback_delay_ms=0, callback_retry_cap_ms=1000, callback_timeout_ms=500,
                   callback_connect_timeout_ms=500)
    wait_for(rig.led)
    front.script = [answer]
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job), 8)
    assert len(front.got) == 2 and front.got[0][4].split(b"\r\n")[1:-2] == front.got[1][4].split(b"\r\n")[1:-2]
    wait = front.got[1][0] - front.got[0][0]
    assert wait >= (2 if isinstance(answer, tuple) and answer[1] else 0.4)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_callback_redirected_stays_a_post(rig, active, front, status):
    front.script = [(status, {"Location": "/there"})]
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert [(g[1], g[2]) for g in front.got] == [("POST", "/"), ("POST", "/there")]
    assert front.got[0][4] == front.got[1][4]


def test_callback_redirects_are_bounded(rig, active, front):
    front.script = [(307, {"Location": "/x"})] * 50
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert len(front.got) == 11 and rig.get("stats", "callbacks_failed") == "1"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://127.0.0.1/", "nonsense", "http://"])
def test_callback_urls_that_are_none(rig, active, url):
    job = deliver(rig, url)
    wait_for(lambda: delivered(rig, job))
    assert rig.get("stats", "callbacks_failed") == "1"


def test_callback_redirected_to_a_file_is_not_followed(rig, active, front):
    front.script = [(302, {"Location": "file:///etc/passwd"})]
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert rig.get("stats", "callbacks_failed") == "1" and len(front.got) == 1


def test_callback_refused_is_final(rig, active, front):
    front.script = [(404, {})]
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert len(front.got) == 1 and rig.get("stats", "callbacks_failed") == "1"
    assert "callback.failed" in rig.log(active)


def test_callback_given_up_after_so_many_tries(rig, front):
    d = rig.dispatcher(callback_delay_ms=0, callback_retry_cap_ms=1000, callback_max_tries=2)
    wait_for(rig.led)
    front.script = [(500, {})] * 9
    job = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, job))
    assert len(front.got) == 2 and "callback.given_up" in rig.log(d)


def test_callback_survives_the_dispatcher(rig, front):
    a = rig.dispatcher(callback_delay_ms=0)
    wait_for(rig.led)
    front.script = ["hang"]
    job = deliver(rig, front.url)
    wait_for(lambda: front.got)
    a.terminate()  # gives it back
    assert a.wait(4) == 0
    assert not delivered(rig, job)
    rig.dispatcher(callback_delay_ms=0)
    wait_for(lambda: delivered(rig, job), 8)
    assert len(front.got) == 2


def test_callback_waits_for_redis_to_say_that_it_was_sent(rig, active, front):
    front.script = ["hang"]
    rig_url = front.url
    job = deliver(rig, rig_url)
    wait_for(lambda: front.got)
    assert not delivered(rig, job)
    wait_for(lambda: delivered(rig, job), 8)


@pytest.fixture
def replica(rig):
    """Starts one of the rig's Redis."""
    started = []

    def start():
        port = free_port()
        rig.redis.config_set("port", port)
        started.append(subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", rig.dir + "/replica.sock", "--dir", rig.dir, "--save", "",
             "--dbfilename", "replica.rdb", "--replicaof", "127.0.0.1", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    yield start
    for p in started:
        p.kill()
        p.wait()


def test_a_replica_that_is_away_holds_up_callbacks_and_nothing_else(rig, front, replica):
    a = rig.dispatcher(redis_replicas=1, callback_delay_ms=0)
    wait_for(rig.led)
    b = rig.dispatcher(redis_replicas=1, callback_delay_ms=0)
    fence = rig.fence()
    v = Vmm(rig)
    job = rig.accept(callback=front.url)
    v.take()
    v.commit(job, sha=put(rig, b"hello\n"), size=6)
    wait_for(lambda: "callback.put_off" in rig.log(a))
    stop = beating(v)
    for n in range(2, 9):  # several waits, in all longer than the lease
        rig.accept()
        assert v.commit(v.take()[0]) == b"ok"
        wait_for(lambda n=n: rig.log(a).count("callback.put_off") >= n)
    stop.set()
    assert rig.fence() == fence and "lead.lost" not in rig.log(a) and "lead.taken" not in rig.log(b)
    assert not front.got and not delivered(rig, job)
    replica()
    wait_for(lambda: delivered(rig, job), 20)
    assert len(front.got) == 1


def test_slow_frontend_does_not_hold_up_others(rig, active, front):
    front.script = ["hang"]
    slow = deliver(rig, front.url)
    wait_for(lambda: front.got)
    fast = deliver(rig, front.url)
    wait_for(lambda: delivered(rig, fast), 1.5)
    assert slow


def test_callback_by_a_proxy_of_the_environment(rig, front):
    rig.dispatcher(env_more={"http_proxy": front.url}, callback_delay_ms=0)
    wait_for(rig.led)
    job = deliver(rig, "http://autolab.invalid/done?dave=x")
    wait_for(lambda: delivered(rig, job))
    assert front.got[0][2] == "http://autolab.invalid/done?dave=x" and front.got[0][1] == "POST"


@pytest.fixture
def secure(front):
    """The frontend behind a certificate that nobody has signed."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    rig_dir = "/tmp/milonga-cert-%d" % os.getpid()
    os.makedirs(rig_dir, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", rig_dir + "/key", "-out", rig_dir + "/cert"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rig_dir + "/cert", rig_dir + "/key")
    front.socket = context.wrap_socket(front.socket, server_side=True)
    front.cert = rig_dir + "/cert"
    yield front
    shutil.rmtree(rig_dir)


@pytest.mark.parametrize("how", ["none", "exempt", "trusted"])
def test_callback_tls_is_verified_unless_the_host_is_exempt(rig, secure, how):
    more = {"none": {}, "exempt": {"callback_insecure_hosts": "other.example,LOCALHOST"},
            "trusted": {"callback_ca_file": secure.cert}}[how]
    d = rig.dispatcher(callback_delay_ms=0, **more)
    wait_for(rig.led)
    job = deliver(rig, secure.url.replace("http://127.0.0.1", "https://localhost"))
    if how == "none":
        wait_for(lambda: rig.get(f"ob:{job}", "last"))
        assert not secure.got and "certificate" in rig.get(f"ob:{job}", "last")
        assert "callback.retry" in rig.log(d)
    else:
        wait_for(lambda: delivered(rig, job))
        assert len(secure.got) == 1


def test_an_exempt_host_does_not_exempt_where_it_redirects_to(rig, secure):
    exempt = Frontend()
    rig.dispatcher(callback_delay_ms=0, callback_insecure_hosts="127.0.0.1")
    wait_for(rig.led)
    exempt.script = [(307, {"Location": secure.url.replace("http://127.0.0.1", "https://localhost")})]
    job = deliver(rig, exempt.url)
    wait_for(lambda: rig.get(f"ob:{job}", "last"))
    assert not secure.got
    exempt.shutdown()
    exempt.server_close()
