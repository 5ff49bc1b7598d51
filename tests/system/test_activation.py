"""The api under a service manager: a socket that is handed to it, and what it tells of itself."""

import fcntl
import http.client
import os
import pathlib
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness.process import Process, free_port, plain_env, wait_for
from harness.redis_server import Redis
from harness.stack import BUILD, need

pytestmark = pytest.mark.fast
API = BUILD / "milonga-api"
OPEN_ANYWAY_S = 2  # OPEN_ANYWAY_MS of services/api/server.c


@pytest.fixture(scope="module")
def redis(work_dir):
    r = Redis(work_dir)
    r.start()
    yield r
    r.process.kill()


@pytest.fixture
def activate(redis, work_dir):
    """activate(*sockets) starts an api as systemd does: descriptors from 3 on, and whose they are."""
    need("milonga-api")
    started = []

    def start(*sockets, pid="$$", **env):
        env = plain_env(MILONGA_DATA_DIR=work_dir / "data", MILONGA_REDIS_URL=redis.url,
                        MILONGA_LISTEN_HOST="127.0.0.1", MILONGA_PORT=free_port(), MILONGA_KEYS="t:k", **env)
        held = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50) for s in sockets]  # out of the way of 3, 4, ...
        moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(held))
        script = f"exec {moves}; LISTEN_FDS={len(held)} LISTEN_PID={pid} exec {API}"
        p = Process(f"api{len(started)}", ["/bin/bash", "-c", script], env, str(work_dir / f"api{len(started)}.log"))
        p.port = int(env["MILONGA_PORT"])
        with open(p.log, "wb") as log:
            p.child = subprocess.Popen(p.argv, env=env, pass_fds=held, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True)
        for fd in held:
            os.close(fd)
        started.append(p)
        return p
    yield start
    for p in started:
        p.kill()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield s


def ask(port, timeout=20):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        conn.request("GET", "/")
        answer = conn.getresponse()
        return answer.status, answer.read()
    finally:
        conn.close()


def test_a_given_socket_is_the_one_that_is_answered_on(activate, listener):
    api = activate(listener)
    assert ask(listener.getsockname()[1]) == (200, b"Hello, world! RESTful Tango here!\n")
    with pytest.raises(ConnectionRefusedError):
        ask(api.port)
    assert "api.socket_given" in api.text()


def test_nobody_is_refused_while_the_api_restarts(activate, listener):
    port, answers, over = listener.getsockname()[1], [], threading.Event()

    def callers():
        while not over.is_set():
            try:
                answers.append(ask(port)[0])
            except OSError as e:
                answers.append(repr(e))
    api = activate(listener)
    ask(port)
    threads = [threading.Thread(target=callers) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        for _ in range(3):
            seen = len(answers)
            wait_for("answers", lambda: len(answers) > seen + 20)
            assert api.stop() == 0
            api = activate(listener)
    finally:
        over.set()
        for t in threads:
            t.join()
    assert set(answers) == {200}


def asked_at_once(activate, redis):
    """How long it took, who was answered before Redis spoke, and what all were told."""
    redis.process.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        api = activate()
        wait_for("the port", lambda: "api.listening" in api.text())
        conns = [socket.create_connection(("127.0.0.1", api.port), timeout=20) for _ in range(8)]  # on each of its threads
        for s in conns:
            s.sendall(b"GET /open/k/first/ HTTP/1.0\r\n\r\n")
        early = select.select(conns, [], [], 0.5)[0]
    finally:
        redis.process.signal(signal.SIGCONT)
    said = [s.makefile("rb").read() for s in conns]
    for s in conns:
        s.close()
    return time.monotonic() - began, early, said


def test_who_asks_at_once_waits_for_the_first_word_of_redis(activate, redis):
    """A balancer sends callers as soon as the port is open; "not connected yet" would be no answer for them."""
    for _ in range(5):
        took, early, said = asked_at_once(activate, redis)
        if took < OPEN_ANYWAY_S:  # else nobody had to wait for Redis any more, and that says nothing
            assert early == []
            assert [a for a in said if b'"statusId": 0' not in a] == []
            break


def test_nobody_waits_for_long_for_a_redis_that_does_not_answer(activate, redis):
    redis.process.signal(signal.SIGSTOP)
    try:
        api = activate(MILONGA_REDIS_TIMEOUT_MS="300000")
        wait_for("the port", lambda: "api.listening" in api.text())
        assert ask(api.port, 60)[0] == 200
    finally:
        redis.process.signal(signal.SIGCONT)


def test_sockets_that_are_another_process_are_left_alone(activate, listener):
    api = activate(listener, pid=1)
    wait_for("the api's own port", lambda: "api.listening" in api.text())
    assert ask(api.port)[0] == 200


@pytest.mark.parametrize("wrong", ["two", "not listening", "datagram"])
def test_a_socket_that_cannot_serve_is_refused(activate, listener, wrong):
    others = {"two": lambda: [listener, listener], "not listening": lambda: [socket.socket()],
              "datagram": lambda: [socket.socket(type=socket.SOCK_DGRAM)]}[wrong]()
    api = activate(*others)
    assert api.child.wait(20) == 1
    assert "LISTEN_FDS" in api.text() and "ListenStream=" in api.text()
    for s in others:
        s.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_it_says_when_it_is_ready_and_when_it_stops(activate, listener, tmp_path, abstract):
    name = f"@milonga-{os.getpid()}" if abstract else f"/tmp/mn{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.bind(name.replace("@", "\0"))
        try:
            api = activate(listener, NOTIFY_SOCKET=name)
            assert s.recv(100) == b"READY=1"
            assert ask(listener.getsockname()[1])[0] == 200
            api.child.terminate()
            assert s.recv(100) == b"STOPPING=1"
            assert api.child.wait(20) == 0
        finally:
            if not abstract:
                pathlib.Path(name).unlink()
