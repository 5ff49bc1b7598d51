"""A signed callback as its receiver checks it: by the Standard Webhooks rules, with none of our code."""

import base64
import hashlib
import hmac
import json
import os
import time

import pytest

from harness import v1 as api
from harness.process import wait_for
from harness.receiver import Callback, Receiver

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOLERANCE_S = 300


def verify(key, headers, body):
    """What https://www.standardwebhooks.com asks of a receiver; raises when it is not so."""
    ident, at, signatures = (headers[h] for h in ("webhook-id", "webhook-timestamp", "webhook-signature"))
    if abs(time.time() - int(at)) > TOLERANCE_S:
        raise ValueError(f"of another time: {at}")
    want = base64.b64encode(hmac.new(key, f"{ident}.{at}.".encode() + body, hashlib.sha256).digest()).decode()
    if not any(hmac.compare_digest(f"v1,{want}", s) for s in signatures.split()):
        raise ValueError("the signature is another one")
    return ident


class Signed(Receiver):
    """Takes JSON, as it came; whether it is signed rightly is for the test to say."""

    def take(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self.lock:
            status = self.script.pop(0) if self.script else 204
            self.calls.append(Callback(request.path, request.headers, body, None, status))
        request.send_response(status)
        request.send_header("Content-Length", "0") if status != 204 else None
        request.end_headers()


@pytest.fixture
def receiver():
    r = Signed(script=[500, 204])
    yield r
    r.stop()


def test_a_signed_callback_is_verified_and_a_retry_is_the_same_message(make_stack, receiver):
    stack = make_stack()
    v1 = api.V1(stack.ports[0])
    ident = v1.submit("# null: output=100", "signed", stack.image, callback={"url": receiver.url + "/hook", "secret": SECRET})
    v1.wait_finished(ident)
    wait_for("delivery", lambda: v1.job(ident)["callback"]["state"] == "sent")
    first, second = receiver.calls
    for call in (first, second):
        assert call.path == "/hook" and call.headers["Content-Type"].startswith("application/json")
        verify(KEY, call.headers, call.content)
        api.check(api.schema("CallbackBody"), json.loads(call.content))
    assert first.headers["webhook-id"] == second.headers["webhook-id"], "so that a receiver knows it again"
    assert first.content == second.content
    data = json.loads(second.content)["data"]
    assert data["id"] == ident and data["verdict"] == "success"
    assert data["feedback"].encode() == v1.get(f"/v1/jobs/{ident}/feedback").body
    # the check can fail
    with pytest.raises(ValueError):
        verify(KEY[::-1], second.headers, second.content)
    with pytest.raises(ValueError):
        verify(KEY, second.headers, second.content + b" ")
    # the secret is told to nobody
    assert SECRET not in json.dumps(v1.job(ident))
    for p in stack.processes:
        assert SECRET not in p.text() and SECRET[6:] not in p.text()
