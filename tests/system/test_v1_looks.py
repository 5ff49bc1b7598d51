"""Streams of events and output when an answer of Redis comes late or not at all, and when the client takes nothing."""

import base64
import contextlib
import json
import os
import signal
import socket
import threading

import pytest

from harness import v1 as api
from harness.process import wait_for
from harness.relay import Relay

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

EVENTS, CHANNEL = "{milonga}:ev", "{milonga}:ev"


@pytest.fixture(scope="module")
def stack(make_stack):
    """Two replicas; the second one reaches Redis through the relay."""
    stack = make_stack(keys="test", apis=2, redis_timeout_ms="20s", start=False)
    stack.relay = Relay(stack.dir, stack.redis.socket)
    stack.apis[1].env["MILONGA_REDIS_URL"] = stack.relay.url
    yield stack.start()
    stack.relay.open.set()


@pytest.fixture(scope="module")
def v1(stack):
    return api.V1(stack.ports[0])


@pytest.fixture(scope="module")
def far(stack):
    return api.V1(stack.ports[1])


class Listener:
    """Reads a stream on a thread, so that a test sees what has come."""

    def __init__(self, v1, path, last=None):
        self.got, self.stream = [], None
        self.thread = threading.Thread(target=self._run, args=(v1, path, last), daemon=True)
        self.thread.start()

    def _run(self, v1, path, last):
        self.stream = v1.stream(path, last)
        with contextlib.suppress(AttributeError):  # closed meanwhile: http.client stumbles
            for name, data in self.stream:
                self.got.append((name, data))

    def states(self):
        return [json.loads(d)["state"] for n, d in self.got if n in ("job", "snapshot")]


def test_a_step_while_the_job_is_looked_at_is_not_lost(stack, v1, far):
    """What is answered is from before the step, and the step is heard before the answer."""
    stack.dispatcher.signal(signal.SIGSTOP)
    ident = v1.submit("# null: sleep_ms=3000", "looked", stack.image)
    relay = stack.relay
    relay.open.clear()
    try:
        held = relay.held
        listener = Listener(far, f"/v1/jobs/{ident}/events")
        wait_for("its subscription, and a look that is answered", lambda: relay.subscribed and relay.held > held)
        stack.dispatcher.signal(signal.SIGCONT)
        v1.wait_state(ident, "running")
        wait_for("its event", lambda: f"job main {ident} r ".encode() in relay.heard)
    finally:
        stack.dispatcher.signal(signal.SIGCONT)
        relay.open.set()
    v1.wait_finished(ident)
    listener.thread.join(10)
    assert listener.got[-1][0] == "end"
    assert "running" in listener.states(), listener.got


def test_a_look_at_events_that_fails_is_repeated(stack, v1, far):
    relay = stack.relay
    listener = Listener(far, "/v1/events")
    wait_for("the stream", lambda: listener.stream)
    wait_for("its subscription", lambda: relay.subscribed)
    refused, subscriptions = relay.refused, relay.subscriptions
    relay.refusing = True
    try:
        relay.cut_subscribers()
        wait_for("it looks", lambda: relay.subscriptions > subscriptions and relay.refused > refused)
        # happened while nobody heard, and nothing happens afterwards
        stack.redis.client.xadd(EVENTS, {"e": "pool made 1 unheard"})
    finally:
        relay.refusing = False
    wait_for("the event", lambda: any(n == "pool" and json.loads(d)["name"] == "unheard" for n, d in listener.got), 10)
    assert "gap" not in [n for n, d in listener.got]
    listener.stream.close()


def test_a_look_at_output_that_fails_is_repeated(stack, v1, far):
    """Its last bytes were written while nobody heard: they come before the job's end all the same."""
    relay = stack.relay
    ident = v1.submit("# null: output=40 sleep_ms=600000", "unheard", stack.image)
    v1.wait_state(ident, "running")
    listener = Listener(far, f"/v1/jobs/{ident}/output/stream")
    wait_for("the stream", lambda: listener.stream)
    wait_for("the output", lambda: sum(len(base64.b64decode(d)) for n, d in listener.got if n == "output") == 40)
    refused, subscriptions = relay.refused, relay.subscriptions
    relay.refusing = True
    try:
        relay.cut_subscribers()
        wait_for("it looks", lambda: relay.subscriptions > subscriptions and relay.refused > refused)
        v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
        v1.wait_finished(ident)
    finally:
        relay.refusing = False
    listener.thread.join(10)
    assert listener.got[-1][0] == "end", listener.got


def slow_stream(port, path, last=None):
    """A stream whose client takes next to nothing until it is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    resume = f"Last-Event-ID: {last}\r\n" if last else ""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test\r\n{resume}\r\n".encode())
    return sock


def read_until(sock, mark):
    data = b""
    while mark not in data[-200000:]:
        piece = sock.recv(1 << 16)
        assert piece, data[-300:]
        data += piece
    return data


def test_who_comes_again_late_gets_all_as_fast_as_it_takes_it(stack, v1):
    """More events than may be pending, all of which Redis still has."""
    redis = stack.redis.client
    first = redis.xadd(EVENTS, {"e": "pool made 1 first"}).decode()
    pipe = redis.pipeline()
    for n in range(9000):
        pipe.xadd(EVENTS, {"e": f"pool made 1 backlog.{n}." + "x" * 150})
    pipe.execute()
    sock = slow_stream(stack.ports[0], "/v1/events", first)
    head = sock.recv(1000)  # it has begun; and now nothing is taken until more has happened
    ident = v1.submit("# null: sleep_ms=1", "backlog", stack.image)
    v1.wait_finished(ident)
    data = head + read_until(sock, f'"id": {ident}, "state": "finished"'.encode())
    sock.close()
    assert b"event: gap" not in data
    at = [data.find(b"backlog.%d." % n) for n in range(0, 9000, 500)]
    assert -1 not in at and at == sorted(at)
    assert data.count(b"backlog.") == 9000


def test_who_takes_nothing_of_a_job_is_told_how_it_is(stack, v1):
    """Its events are not kept for it without end: a snapshot makes up for them."""
    ident = v1.submit("# null: sleep_ms=600000", "slow", stack.image)
    v1.wait_state(ident, "running")
    sock = slow_stream(stack.ports[0], f"/v1/jobs/{ident}/events")
    data = b""
    while b"event: snapshot" not in data:
        data += sock.recv(1000)
    count, piece = 100000, 2000
    for start in range(0, count, piece):
        pipe = stack.redis.client.pipeline()
        for n in range(start, start + piece):
            pipe.publish(CHANNEL, f"9-{n} job main {ident} r 1 - 1 step.{n}." + "x" * 100)
        pipe.execute()
        data += sock.recv(1 << 16)  # a bufferful: who takes nothing at all for 5 s is cut off
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
    data += read_until(sock, b"event: end")
    sock.close()
    kept = data.count(b"step.")
    assert 0 < kept < count * 3 // 4, kept
    assert b"event: snapshot" in data[data.rindex(b"step."):], "its end alone does not say that something is missing"
