"""The frontend's end of a callback: it takes what Rails would take, and nothing that is nearly that."""

import http.server
import re
import threading

from .process import wait_for


class Callback:
    def __init__(self, path, headers, content, name, at_status):
        self.path, self.headers, self.content, self.name, self.status = path, headers, content, name, at_status


def parse(headers, body):
    """The file of a multipart body of exactly one part as Tango's own client sent it; raises otherwise."""
    kind = headers.get("Content-Type", "")
    match = re.fullmatch(r'multipart/form-data; boundary="?([A-Za-z0-9\'()+_,./:=?-]{1,70})"?', kind)
    if not match:
        raise ValueError(f"content type {kind!r}")
    boundary = match.group(1).encode()
    head = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    tail = b"\r\n--" + boundary + b"--\r\n"
    if not body.startswith(head):
        raise ValueError(f"the part begins with {body[:len(head) + 60]!r}")
    if not body.endswith(tail):
        raise ValueError(f"the body ends with {body[-len(tail) - 20:]!r}")
    content = body[len(head):-len(tail)]
    if b"--" + boundary in content:
        raise ValueError("more than one part")
    content.decode("utf-8")
    return content


class Receiver:
    """Answers with the statuses of `script` in turn, then 204 as Autolab does."""

    def __init__(self, script=()):
        self.calls, self.errors, self.script = [], [], list(script)
        self.lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                receiver.take(self)

            def do_GET(self):
                receiver.errors.append(f"GET {self.path}")
                self.send_error(405)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, request):
        length = request.headers.get("Content-Length")
        body = request.rfile.read(int(length or 0))
        with self.lock:
            status = self.script.pop(0) if self.script else 204
            try:
                if length is None:
                    raise ValueError("no Content-Length")
                content = parse(request.headers, body)
                self.calls.append(Callback(request.path, dict(request.headers), content,
                                           request.headers.get("Filename"), status))
            except ValueError as e:
                self.errors.append(f"{request.path}: {e}")
                status = 400
        request.send_response(status)
        request.send_header("Content-Length", "0") if status != 204 else None
        request.end_headers()

    def of(self, path):
        with self.lock:
            return [c for c in self.calls if c.path == path]

    def wait(self, path, timeout=30, status=None):
        """The calls of that path once there is one (answered with that status)."""
        def came():
            assert not self.errors, self.errors
            return [c for c in self.of(path) if status in (None, c.status)]
        return wait_for(f"a callback to {path}", came, timeout)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
