"""Live output: what was streamed is what is stored, whatever happens to replicas, watchers and attempts."""

import base64
import hashlib
import os
import signal
import socket
import threading
import time

import pytest

from harness import v1 as api
from harness.process import wait_for

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# More than the live part, bytes that are no text, and for longer than four restarts of a replica take where all is checked.
NOISY = ("autograde:\n"
         "\t@i=0; while [ $$i -lt 80 ]; do head -c 3001 /dev/urandom; i=$$((i+1)); sleep 0.1; done\n")


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="oci", apis=2, watch_bytes="100k", keys="test, other:theirs")


@pytest.fixture(scope="module")
def apis(stack):
    return [api.V1(p) for p in stack.ports]


def stored(v1, ident):
    return v1.get(f"/v1/jobs/{ident}/output").body


def test_what_is_streamed_is_what_is_stored_across_a_restart(stack, apis):
    """The replica that streams is killed, again and again; the client goes on at the other one."""
    ident = apis[0].submit(NOISY, "noisy", stack.image)
    apis[0].wait_state(ident, "running")
    got, end, last, turn = b"", None, None, 0
    while end is None:
        stream = apis[turn % 2].stream(f"/v1/jobs/{ident}/output/stream", last=last)
        assert stream.status == 200
        if turn < 4:
            for name, data in stream:
                if name == "output":
                    got += base64.b64decode(data)
                    last = stream.last
                    break
            replica = stack.apis[turn % 2]
            replica.signal(signal.SIGKILL if turn % 2 else signal.SIGTERM)
            replica.child.wait(30)
            rest, end = api.follow_output(stream)  # what came before it was gone
            got, last = got + rest, stream.last
            replica.start()
            stack.wait_api(stack.tangos[turn % 2])
        else:
            got, end = api.follow_output(stream, got)
        turn += 1
    assert turn > 4 and end["verdict"] == "success"
    whole = stored(apis[0], ident)
    assert len(whole) == 80 * 3001 == end["output_bytes"]
    assert hashlib.sha256(got).hexdigest() == hashlib.sha256(whole).hexdigest()


def test_any_offset_of_a_running_and_of_a_finished_job(stack, apis):
    ident = apis[0].submit("autograde:\n\t@printf 0123456789; sleep 1.5; printf abcdefghij\n", "offset", stack.image)
    wait_for("output", lambda: stored(apis[1], ident) == b"0123456789")
    part = apis[1].get(f"/v1/jobs/{ident}/output", want=206, headers={"Range": "bytes=4-"})
    assert part.body == b"456789" and part.headers["content-range"] == "bytes 4-9/*"
    assert api.follow_output(apis[1].stream(f"/v1/jobs/{ident}/output/stream?offset=7"))[0] == b"789abcdefghij"
    for offset in (0, 3, 19, 20, 500):
        got, end = api.follow_output(apis[0].stream(f"/v1/jobs/{ident}/output/stream?offset={offset}"))
        assert got == b"0123456789abcdefghij"[offset:] and end["output_bytes"] == 20
    assert api.follow_output(apis[0].stream(f"/v1/jobs/{ident}/output/stream", last="1.1-5"))[0] == b"56789abcdefghij"
    # a place of an attempt that is not the last one
    names = [n for n, d in apis[0].stream(f"/v1/jobs/{ident}/output/stream", last="1.7-5")]
    assert names == ["reset", "output", "end"]
    for bad in ("5", "1.1", "1.1-x", "1.1--1", "x-5"):
        assert apis[0].stream(f"/v1/jobs/{ident}/output/stream", last=bad).problem["code"] == "bad-parameter"
    assert apis[0].get(f"/v1/jobs/{ident}/output/stream?offset=-1", want=400)


def test_what_a_job_used_is_told(stack, apis):
    """Of the machine itself: processor time, memory, what it wrote; and how it ended."""
    ident = apis[0].submit("autograde:\n\t@head -c 30000000 /dev/zero | tail -c 30000000 | wc -c; exit 3\n", "used",
                           stack.image, limits={"memory_mb": 200})
    usage = apis[0].wait_finished(ident)["usage"]
    assert usage["exit_status"] == 2 and usage["signal"] is None, "make's own"
    assert usage["cpu_ms"] > 0 and usage["wall_ms"] > 0
    assert 30000 < usage["memory_peak_kb"] < 200 << 10
    assert usage["output_bytes"] >= len(b"30000000\n")


def test_a_watcher_waits_for_a_job_that_waits(stack, apis):
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@echo later\n", "waits", stack.image, labels=["nosuch"])
    stream = v1.stream(f"/v1/jobs/{ident}/output/stream")
    assert stream.status == 200
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)
    got, end = api.follow_output(stream)
    assert got == b"" and end["verdict"] == "cancelled" and end["output_bytes"] == 0


def test_cancel_kills_at_once(stack, apis):
    """The job's own processes are gone, and the stream ends with what was written."""
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@echo begun; sleep 6171\n", "kill", stack.image)
    stream = v1.stream(f"/v1/jobs/{ident}/output/stream")
    wait_for("output", lambda: stored(v1, ident) == b"begun\n")

    def alive():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if f.read() == b"sleep\x006171\x00":
                        return True
            except OSError:
                pass
        return False
    assert alive()
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
    wait_for("its end", lambda: not alive(), 5, 0.005)
    got, end = api.follow_output(stream)
    assert got == b"begun\n" and end["verdict"] == "cancelled"
    assert b"Job was cancelled" in v1.get(f"/v1/jobs/{ident}/feedback").body
    assert v1.job(ident)["attempts"] == 1


def test_cancel_outlives_the_worker(stack, apis):
    """Its vmm is stopped dead before it hears of it: the job is closed as cancelled, and not run again."""
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@sleep 600\n", "outlive", stack.image)
    v1.wait_state(ident, "running")
    stack.vmm.signal(signal.SIGSTOP)
    try:
        assert v1.call("POST", f"/v1/jobs/{ident}/cancel", want=202).json["verdict"] is None
        assert v1.job(ident)["cancelling"]
        job = v1.wait_finished(ident, timeout=30)
    finally:
        stack.vmm.signal(signal.SIGCONT)
    assert job["verdict"] == "cancelled" and job["attempts"] == 1
    assert b"Job was cancelled" in v1.get(f"/v1/jobs/{ident}/feedback").body
    sha = job["feedback"]["sha256"]
    wait_for("the vmm again", lambda: v1.get("/v1/vmms").json["vmms"][0]["state"] == "up")
    after = v1.submit("autograde:\n\t@true\n", "outlive", stack.image)
    v1.wait_finished(after)
    assert v1.job(ident)["feedback"]["sha256"] == sha, "the stale worker changed nothing"


def connections(port):
    """Established ones at the server's end."""
    mine = f"{port:04X}"
    with open("/proc/net/tcp") as f:
        return sum(1 for line in list(f)[1:] if line.split()[1].endswith(":" + mine) and line.split()[3] in ("01", "08"))


def test_watchers_that_vanish_are_noticed(stack, apis):
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@sleep 600\n", "vanish", stack.image)
    v1.wait_state(ident, "running")
    streams = [v1.stream(f"/v1/jobs/{ident}/output/stream") for _ in range(20)]
    assert connections(v1.port) >= 20
    for s in streams:
        s.close()
        s.answer.close()
    # what asked before may be kept alive meanwhile, or not
    wait_for("their end", lambda: connections(v1.port) < 10, 5)
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
    v1.wait_finished(ident)


def test_many_watchers_of_one_job(stack, apis):
    """200 connections that all get all of it, on both replicas, one of them reading nothing for a while."""
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@i=0; while [ $$i -lt 20 ]; do head -c 2000 /dev/zero | tr '\\0' x; "
                      "i=$$((i+1)); sleep 0.05; done\n", "many", stack.image)
    results, lock = [], threading.Lock()

    def watch(n):
        stream = apis[n % 2].stream(f"/v1/jobs/{ident}/output/stream", timeout=60)
        if n == 0:
            time.sleep(2)
        got = api.follow_output(stream)
        with lock:
            results.append(got)
    threads = [threading.Thread(target=watch, args=(n,)) for n in range(200)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(90)
    assert len(results) == 200
    assert all(got == b"x" * 40000 and end["output_bytes"] == 40000 for got, end in results)


def test_heartbeats_come(stack, apis):
    v1 = apis[0]
    ident = v1.submit("autograde:\n\t@sleep 600\n", "beats", stack.image)
    v1.wait_state(ident, "running")
    with socket.create_connection(("127.0.0.1", v1.port)) as s:
        s.sendall(f"GET /v1/jobs/{ident}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test\r\n\r\n".encode())
        s.settimeout(15)
        data = b""
        while data.count(b"\n:\n\n") < 2:
            data += s.recv(65536)
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
    v1.wait_finished(ident)


def test_streams_leave_room_for_those_who_ask(make_stack):
    """Also when all of them come at once, before the first has begun."""
    stack = make_stack(driver="null", max_connections="40", api_threads="1")
    v1 = api.V1(stack.ports[0])
    ident = v1.submit("# null: sleep_ms=600000", "many", stack.image)
    v1.wait_state(ident, "running")
    request = f"GET /v1/jobs/{ident}/output/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test\r\n\r\n".encode()
    socks = [socket.create_connection(("127.0.0.1", v1.port), 20) for _ in range(36)]
    for s in socks:
        s.sendall(request)
    status = [int(s.recv(100)[9:12]) for s in socks]
    assert status.count(200) == 30 and status.count(429) == 6, status
    for s in socks:
        s.close()

    def room():
        s = v1.stream(f"/v1/jobs/{ident}/output/stream")
        s.close()
        return s.status == 200
    wait_for("room", room)
    for _ in range(40):  # one that never began gives its place back as well
        assert v1.raw("GET", "/v1/jobs/999/output/stream").status == 404
    assert room()
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
