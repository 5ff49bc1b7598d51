"""What the crash-point loop and the chaos driver have in common: an installation of real services, a client that asks as a
frontend does, a receiver of callbacks, and the history of what those two saw.

The judge of it is check.py, which shares nothing with this file but the form of what is written:

    history.jsonl  a line an event, "t" seconds of one monotonic clock:
      begin  driver, prefix, job_retries      what was started
      ask    req, callback                    the first try of an addJob; `req` is in the job's output file ("REQ.out")
      yes    req, id                          it was accepted
      lost   req                              the client gave up without having seen an answer
      call   req, sha256, whole, status       a callback; status is what was answered, 0 nothing
      poll   req, sha256                      feedback read over HTTP
      seen   pid, born, machine, at           a process of a machine, "at" by the wall clock, in ms
      fault  what, who                        for people
    final.json     redis: every key as it is; store: the directory; left: what is left behind, as the system tells it
"""

import hashlib
import http.client
import http.server
import json
import os
import pathlib
import socket
import sys
import threading
import time

import redis as redis_module

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))

from harness import clean  # noqa: E402
from harness.process import plain_env, wait_for  # noqa: E402
from harness.stack import Stack  # noqa: E402

PREFIX = "{milonga}"
KEY = "test"
LAB = "chaos"
NULL_JOB = "# null: echo=1 sleep_ms=%d\n"
REAL_JOB = "autograde:\n\t@echo one; sleep %s; echo two\n"


class History:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1 << 16)
        self.lock = threading.Lock()

    def add(self, ev, **more):
        line = json.dumps({"t": round(time.monotonic(), 4), "ev": ev, **more})
        with self.lock:
            self.file.write(line + "\n")

    def flush(self):
        with self.lock:
            self.file.flush()


class Receiver:
    """Takes callbacks at /REQ. `mood` decides how: ok, 500, slow, hang (until it changes), close (before an answer),
    once (ok, and the connection is closed)."""

    def __init__(self, history):
        self.history, self.mood, self.whole = history, "ok", {}
        self.changed = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self):
                receiver.take(self)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request, client):  # a client that was killed
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, req):
        return f"http://127.0.0.1:{self.server.server_address[1]}/{req}"

    def set_mood(self, mood):
        with self.changed:
            self.mood = mood
            self.changed.notify_all()

    def take(self, request):
        mood, req = self.mood, request.path[1:]
        length = int(request.headers.get("Content-Length") or 0)
        if mood == "close" and length % 2:
            request.close_connection = True
            return
        body = request.rfile.read(length)
        boundary = request.headers.get("Content-Type", "").rpartition("boundary=")[2].encode()
        head, _, rest = body.partition(b"\r\n\r\n")
        content, tail, _ = rest.rpartition(b"\r\n--" + boundary + b"--\r\n")
        whole = len(body) == length and bool(tail) and head.startswith(b"--" + boundary)
        digest = hashlib.sha256(content).hexdigest()
        if mood == "hang":
            with self.changed:
                self.changed.wait_for(lambda: self.mood != "hang", 20)
        elif mood == "slow":
            time.sleep(0.3)
        status = {"ok": 204, "slow": 204, "once": 204, "500": 500}.get(mood, 0)
        # Written down before the answer leaves: who dies in between has seen less than happened, never more.
        self.history.add("call", req=req, sha256=digest, whole=whole, status=status)
        if status == 0:
            request.close_connection = True
            return
        if whole and status == 204:
            self.whole[req] = digest
        request.send_response(status)
        if status != 204:
            request.send_header("Content-Length", "0")
        if mood == "once":
            request.send_header("Connection", "close")
        request.end_headers()

    def stop(self):
        self.set_mood("ok")
        self.server.shutdown()
        self.server.server_close()


class Refused(Exception):
    pass


class Client:
    """Asks the api replicas in turn until one answers, as a frontend with retries does. One a thread."""

    def __init__(self, history, ports, image, timeout=5):
        self.history, self.ports, self.image, self.timeout = history, list(ports), image, timeout
        self.conns = {}

    def once(self, port, method, path, body=None, headers=None):
        conn = self.conns.get(port)
        if conn is None:
            conn = self.conns[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=self.timeout)
        try:
            conn.request(method, path, body=body, headers=headers or {})
            answer = conn.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except (OSError, http.client.HTTPException):
            conn.close()
            del self.conns[port]
            raise

    def ask(self, method, path, body=None, headers=None, patience=60, good=None):
        """The first good answer of any replica; Refused when there is none within `patience` seconds."""
        end, last, turn = time.monotonic() + patience, "", 0
        while time.monotonic() < end:
            port = self.ports[turn % len(self.ports)]
            turn += 1
            try:
                status, kind, data = self.once(port, method, path, body, headers)
            except (OSError, http.client.HTTPException) as e:
                last = repr(e)
            else:
                if good is None or good(status, kind, data):
                    return data
                last = f"{status} {data[:200]!r}"
            if turn % len(self.ports) == 0:
                time.sleep(0.05)
        raise Refused(f"{method} {path}: {last}")

    @staticmethod
    def _ok(status, kind, data):
        return status == 200 and json.loads(data)["statusId"] == 0

    def prepare(self, files):
        self.ask("GET", f"/open/{KEY}/{LAB}/", good=self._ok)
        for name, text in files.items():
            self.ask("POST", f"/upload/{KEY}/{LAB}/", text.encode(), {"Filename": name}, good=self._ok)

    def submit(self, req, callback, name="Makefile", patience=60):
        """The id, or None when no answer came. A job without a callback is asked for once: nothing would tell a second
        one from it."""
        body = {"image": self.image, "files": [{"localFile": name, "destFile": "Makefile"}], "timeout": 60, "max_kb": 0,
                "output_file": f"{req}.out", "jobName": req, "accessKeyId": "", "accessKey": "", "disable_network": True}
        if callback:
            body["callback_url"] = callback
        data = json.dumps(body).encode()
        path = f"/addJob/{KEY}/{LAB}/"
        self.history.add("ask", req=req, callback=bool(callback))
        try:
            if callback:
                answer = json.loads(self.ask("POST", path, data, patience=patience, good=self._ok))
            else:
                status, _, text = self.once(self.ports[hash(req) % len(self.ports)], "POST", path, data)
                if status != 200 or json.loads(text)["statusId"] != 0:
                    raise Refused(text[:200])
                answer = json.loads(text)
        except (Refused, OSError, http.client.HTTPException):
            self.history.add("lost", req=req)
            return None
        self.history.add("yes", req=req, id=int(answer["jobId"]))
        return int(answer["jobId"])

    def poll(self, req, patience=30):
        """Reads feedback that is known to be there."""
        data = self.ask("GET", f"/poll/{KEY}/{LAB}/{req}.out/", patience=patience,
                        good=lambda s, kind, d: s == 200 and kind == "application/octet-stream")
        self.history.add("poll", req=req, sha256=hashlib.sha256(data).hexdigest())


# ---- the end ----

def _value(client, key):
    kind = client.type(key).decode()

    def text(x):
        return x.decode("utf-8", "backslashreplace")
    if kind == "hash":
        return {text(k): text(v) for k, v in client.hgetall(key).items()}
    if kind == "zset":
        return {text(k): v for k, v in client.zrange(key, 0, -1, withscores=True)}
    if kind == "set":
        return sorted(text(v) for v in client.smembers(key))
    if kind == "list":
        return [text(v) for v in client.lrange(key, 0, -1)]
    if kind == "stream":
        return [[text(i), {text(k): text(v) for k, v in e.items()}] for i, e in client.xrange(key)]
    return text(client.get(key) or b"")


def dump(stack, path):
    client = stack.redis.client
    keys = sorted(k.decode() for k in client.scan_iter(count=1000))
    final = {"redis": {k: _value(client, k) for k in keys}, "store": str(stack.data / "store"), "left": leftovers(stack)}
    with open(path, "w") as f:
        json.dump(final, f)


def leftovers(stack):
    """While the services still run, and before anything is torn down."""
    return [x for x in clean.leftovers(stack)]


def settle(stack, timeout=30, beyond=()):
    """Waits until no job is live, no callback is owed, and the machine is clean. The seconds it took."""
    began, client = time.monotonic(), stack.redis.client

    def settled():
        try:
            live = client.zcard(f"{PREFIX}:alive") + client.zcard(f"{PREFIX}:outbox")
        except redis_module.exceptions.RedisError:
            return False
        return not live and not leftovers(stack) and all(f() for f in beyond)
    wait_for("a settled installation", settled, timeout, 0.02)
    return time.monotonic() - began


def service(stack, what, number, name=None, **env):
    """One more process of an installation; `env` as it stands in its environment."""
    more = {"vmm": {"vmm_name": name or f"{stack.name}v{number}"}, "api": {"port": stack.ports[number % len(stack.ports)]}}
    p = stack._service(what, number, **more.get(what, {}))
    p.env.update({k: str(v) for k, v in env.items()})
    return p
