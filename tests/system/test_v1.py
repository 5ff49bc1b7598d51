"""The native API against its description: each answer, and what it does."""

import hashlib
import json
import os
import socket
import time

import pytest

from harness import v1 as api
from harness.process import wait_for
from harness.receiver import Receiver

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

KEYS = "test, main/read:looker, other/admin:theirs, main/admin:root"


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(keys=KEYS, max_live_jobs="50", store_key="storekey")


@pytest.fixture(scope="module")
def v1(stack):
    return api.V1(stack.ports[0])


def as_key(v1, key):
    return api.V1(v1.port, key)


LINE = "# null: "


def test_service_and_description(v1):
    service = v1.get("/v1").json
    assert (service["tenant"], service["scope"]) == ("main", "write")
    assert as_key(v1, "root").get("/v1").json["scope"] == "admin"
    text = api.V1(v1.port, None).raw("GET", "/v1/openapi.yaml")
    assert text.status == 200 and b"openapi: 3.1.0" in text.body
    api.check({"type": "string"}, text.body.decode())


def test_health_ready_metrics(v1):
    nobody = api.V1(v1.port, None)
    assert nobody.get("/healthz").body == b"ok\n"
    assert nobody.get("/readyz").body == b"ok\n"
    assert nobody.get("/metrics", want=401).headers["www-authenticate"].startswith("Bearer")
    text = v1.get("/metrics").body.decode()
    names = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            names.add(line.split()[2])
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            float(value)
            assert any(name.startswith(n) for n in names), line
    assert {"milonga_build_info", "milonga_slots", "milonga_job_state_seconds", "milonga_redis_seconds",
            "milonga_jobs_finished_total", "milonga_oldest_job_age_seconds"} <= names


def test_unknown_routes_methods_and_versions_are_told_apart(v1):
    assert v1.call("GET", "/v1/nosuch", want=404).code == "no-such-route"
    assert v1.call("GET", "/v2/jobs", want=404).code == "no-such-version"
    a = v1.call("DELETE", "/v1/jobs", want=405)
    assert a.code == "method-not-allowed" and a.headers["allow"] == "GET, POST, HEAD"
    assert v1.call("OPTIONS", "/v1/jobs", want=405).code == "method-not-allowed"
    assert v1.call("BREW", "/v1/jobs", want=405).headers["allow"] == "GET, POST, HEAD"
    # a body that is on its way is refused in the same words
    assert v1.raw("POST", "/v1/nosuch", b"x" * 200000).code == "no-such-route"
    assert v1.raw("POST", "/v2/jobs", b"x" * 200000).code == "no-such-version"
    early = v1.raw("DELETE", "/v1/jobs", b"x" * 200000)
    assert early.code == "method-not-allowed" and early.headers["allow"] == "GET, POST, HEAD"
    # and so in Tango's dialect
    for body in (b"", b"x" * 200000):
        a = v1.raw("PUT", "/prealloc/test/img/1/", body)
        assert a.status == 405 and a.headers["allow"] == "GET, POST"
    assert v1.raw("POST", "/v1/jobs", b"x" * (5 << 20)).code == "too-large"


def test_keys_and_scopes(v1):
    for key in (None, "wrong", ""):
        assert api.V1(v1.port, key).call("GET", "/v1/jobs", want=401).code == "unauthorized"
    early = api.V1(v1.port, None).raw("PUT", "/v1/labs/x/files/y", b"x" * 200000)
    assert early.status == 401 and early.headers["www-authenticate"].startswith("Bearer")
    looker = as_key(v1, "looker")
    looker.get("/v1/jobs")
    assert looker.call("PUT", "/v1/labs/nope", want=403).code == "forbidden"
    assert looker.raw("PUT", "/v1/labs/x/files/y", b"x" * 200000).code == "forbidden"
    assert v1.call("POST", "/v1/vmms/x/drain", want=403).code == "forbidden"


def test_labs_and_files(v1):
    assert v1.get("/v1/labs/nolab", want=404).code == "not-found"
    assert v1.put_file("nolab", "a", "x", want=404).code == "not-found"
    assert v1.call("PUT", "/v1/labs/l1", want=201).json["files"] == []
    assert v1.call("PUT", "/v1/labs/l1", want=200)
    data = b"some bytes\x00\xff" * 100
    made = v1.put_file("l1", "a file\u00e9", data, want=201).json
    assert made["sha256"] == hashlib.sha256(data).hexdigest() and made["md5"] == hashlib.md5(data).hexdigest()
    assert v1.put_file("l1", "a file\u00e9", data, want=200).json == made
    assert v1.get("/v1/labs/l1").json["files"] == [made]
    assert "l1" in v1.get("/v1/labs").json["labs"]
    path = "/v1/labs/l1/files/" + api.quote("a file\u00e9")
    whole = v1.get(path)
    assert whole.body == data
    assert v1.get(path, want=304, headers={"If-None-Match": whole.headers["etag"]}).body == b""
    part = v1.get(path, want=206, headers={"Range": "bytes=5-9"})
    assert part.body == data[5:10] and part.headers["content-range"] == f"bytes 5-9/{len(data)}"
    assert v1.get(path, want=206, headers={"Range": "bytes=-7"}).body == data[-7:]
    beyond = v1.get(path, want=416, headers={"Range": f"bytes={len(data)}-"})
    assert beyond.code == "range-not-satisfiable" and beyond.headers["content-range"] == f"bytes */{len(data)}"
    head = v1.call("HEAD", path, want=200)
    assert head.headers["content-length"] == str(len(data)) and head.body == b""
    v1.call("DELETE", path, want=204)
    assert v1.get(path, want=404)
    assert v1.call("DELETE", path, want=404)
    v1.call("DELETE", "/v1/labs/l1", want=204)
    assert v1.get("/v1/labs/l1", want=404)
    for bad in ("..", "a%2fb", "-x", "%01"):
        assert v1.call("PUT", f"/v1/labs/{bad}", want=422).code == "invalid"
        assert v1.get(f"/v1/labs/{bad}", want=404).code == "not-found"


def test_a_job_from_submission_to_feedback(v1, stack):
    ident = v1.submit(LINE + "output=100 sleep_ms=20", "life", stack.image, limits={"timeout_s": 20, "cores": 0.5},
                      network=False, output_file="life.out", **{"class": 2})
    job = v1.wait_finished(ident)
    assert job["verdict"] == "success" and job["attempts"] == 1 and job["class"] == 2 and job["network"] is False
    assert job["limits"]["timeout_s"] == 20 and job["limits"]["cores"] == 0.5
    codes = [t["code"] for t in job["trace"]]
    assert codes[0] == "accepted" and codes[1] == "dispatched" and codes[-1] == "final"
    feedback = v1.get(f"/v1/jobs/{ident}/feedback").body
    output = v1.get(f"/v1/jobs/{ident}/output")
    assert output.headers["milonga-complete"] == "true" and len(output.body) == 100 == job["output"]["bytes"]
    assert feedback.endswith(output.body) and feedback.startswith(b"Autograder [")
    assert hashlib.sha256(feedback).hexdigest() == job["feedback"]["sha256"]
    assert v1.get(f"/v1/jobs/{ident}/output", want=206, headers={"Range": "bytes=90-"}).body == output.body[90:]
    assert v1.get(f"/v1/jobs/{ident}/output", want=416, headers={"Range": "bytes=100-"})
    same = {"Range": "bytes=90-", "If-None-Match": output.headers["etag"]}
    assert v1.get(f"/v1/jobs/{ident}/output", want=304, headers=same).body == b""
    usage = job["usage"]
    assert usage["exit_status"] == 0 and usage["signal"] is None and usage["output_bytes"] == 100
    assert 20 <= usage["wall_ms"] < 20000
    # the same job by Tango's dialect
    assert stack.tango.poll("life", "life.out") == feedback
    why = v1.get(f"/v1/jobs/{ident}/why").json
    assert why["reason"] == "not_waiting" and why["needs"]["image"] == stack.image


@pytest.mark.parametrize("line, how, status", [
    ("outcome=exited status=3", "exit_status", 3), ("outcome=signaled status=11", "signal", 11),
    ("outcome=timed_out", None, None)])
def test_how_a_job_ended(v1, stack, line, how, status):
    job = v1.wait_finished(v1.submit(LINE + line, "ended", stack.image))
    for name in ("exit_status", "signal"):
        assert job["usage"][name] == (status if name == how else None)


def test_a_job_that_did_not_run_used_nothing(v1, stack):
    ident = v1.submit(LINE + "output=1", "unused", stack.image, labels=["nosuch"])
    assert v1.job(ident)["usage"] is None
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)
    assert v1.job(ident)["usage"] is None


def test_jobs_in_pages(v1, stack):
    idents = [v1.submit(LINE + "output=1", "pages", stack.image) for _ in range(7)]
    for ident in idents:
        v1.wait_finished(ident)
    seen, cursor = [], ""
    while True:
        page = v1.get(f"/v1/jobs?lab=pages&limit=3&state=finished&verdict=success{cursor}").json
        assert len(page["jobs"]) <= 3
        seen += [j["id"] for j in page["jobs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == sorted(idents, reverse=True)
    assert v1.get("/v1/jobs?lab=pages&state=live").json["jobs"] == []
    assert v1.get("/v1/jobs?lab=pages&verdict=failed").json["jobs"] == []
    assert v1.get("/v1/jobs?lab=pages&image=nosuch").json["jobs"] == []
    assert len(v1.get(f"/v1/jobs?lab=pages&image={stack.image}").json["jobs"]) == 7
    for bad in ("limit=0", "limit=501", "limit=x", "cursor=-1", "state=dead", "verdict=good"):
        assert v1.get(f"/v1/jobs?{bad}", want=400).code == "bad-parameter"


def test_tenants_see_nothing_of_each_other(v1, stack):
    theirs = as_key(v1, "theirs")
    ident = v1.submit(LINE + "output=10", "mine", stack.image)
    v1.wait_finished(ident)
    for path in ("", "/why", "/feedback", "/output", "/output/stream", "/events"):
        assert theirs.get(f"/v1/jobs/{ident}{path}", want=404).code == "not-found"
    for verb in ("cancel", "requeue", "callback/retry"):
        assert theirs.call("POST", f"/v1/jobs/{ident}/{verb}", want=404).code == "not-found"
    assert theirs.get("/v1/jobs").json["jobs"] == []
    assert "mine" not in theirs.get("/v1/labs").json["labs"]
    assert theirs.get("/v1/labs/mine", want=404)
    assert theirs.get("/v1/labs/mine/files/Makefile", want=404)
    assert theirs.get("/v1/callbacks").json["callbacks"] == []
    running = v1.submit(LINE + "sleep_ms=20000", "mine", stack.image)
    try:
        v1.wait_state(running, "running")
        assert all(v["jobs"] == [] for v in theirs.get("/v1/vmms").json["vmms"])
        assert all(m["job"] is None and m["name"] is None for m in theirs.get("/v1/machines").json["machines"])
        assert any(m["job"] == running for m in v1.get("/v1/machines").json["machines"])
        assert [running] in [v["jobs"] for v in v1.get("/v1/vmms").json["vmms"]]
    finally:
        v1.call("POST", f"/v1/jobs/{running}/cancel", want=(200, 202))
    v1.wait_finished(running)


def test_the_same_key_is_the_same_job(v1, stack):
    body = dict(lab="once", image=stack.image)
    one = v1.submit(LINE + "output=1", headers={"Idempotency-Key": "k1"}, **body)
    again = v1.call("POST", "/v1/jobs", v1.submission("once", stack.image), headers={"Idempotency-Key": "k1"}, want=200)
    assert again.json["id"] == one and again.headers["idempotent-replayed"] == "true"
    other = v1.call("POST", "/v1/jobs", v1.submission("once", stack.image, network=False),
                    headers={"Idempotency-Key": "k1"}, want=422)
    assert other.code == "idempotency-mismatch"
    assert v1.submit(LINE + "output=1", headers={"Idempotency-Key": "k2"}, **body) != one
    assert v1.call("POST", "/v1/jobs", {}, headers={"Idempotency-Key": "a b"}, want=400)


def test_a_description_that_is_too_long_is_told_as_such(v1, stack):
    v1.submit(LINE + "output=1", "big", stack.image)
    body = v1.submission("big", stack.image)
    body["files"] += [{"name": "Makefile", "dest": f"{i:04}" + "x" * 240} for i in range(1023)]
    a = v1.call("POST", "/v1/jobs", body, want=422)  # and not 503, which asks for another try
    assert a.code == "invalid" and "256 KB" in a.json["errors"][0]["detail"]


def test_a_proxy_of_http_1_0_gets_streams_to_their_end(v1, stack):
    """Without chunks the end of the answer is that of the connection."""
    ident = v1.submit(LINE + "output=1", "old", stack.image, labels=["nosuch"])
    assert v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)
    for path in (f"/v1/jobs/{ident}/output/stream", f"/v1/jobs/{ident}/events"):
        with socket.create_connection(("127.0.0.1", v1.port), 10) as s:
            s.sendall(f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {v1.key}\r\n\r\n".encode())
            got = b"".join(iter(lambda: s.recv(65536), b""))
        assert b" 200 OK" in got and b"event: end\n" in got


def test_cancel_of_queued_and_finished(v1, stack):
    """With no vmm to take it, a job waits, and ends at once."""
    ident = v1.submit(LINE + "output=1", "cq", stack.image, labels=["nosuch"])
    why = wait_for("a reason", lambda: v1.get(f"/v1/jobs/{ident}/why").json)
    assert why["reason"] == "no_label" and why["waiting"] and why["position"] == 0 and why["estimate_ms"] is None
    assert why["needs"]["labels"] == ["nosuch"] and not any(v["fits"] for v in why["vmms"])
    assert v1.get(f"/v1/jobs/{ident}/output").body == b""
    assert v1.get(f"/v1/jobs/{ident}/feedback", want=409).code == "not-finished"
    assert v1.call("POST", f"/v1/jobs/{ident}/requeue", want=409).code == "not-finished"
    done = v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200).json
    assert done == {"id": ident, "state": "finished", "verdict": "cancelled"}
    assert b"Job was cancelled" in v1.get(f"/v1/jobs/{ident}/feedback").body
    assert v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200).json == done
    ran = v1.submit(LINE + "output=1", "cq", stack.image)
    v1.wait_finished(ran)
    assert v1.call("POST", f"/v1/jobs/{ran}/cancel", want=409).code == "already-finished"
    assert v1.call("POST", "/v1/jobs/2147483647/cancel", want=404)
    for bad in ("0", "x", "01", "99999999999", "-1"):
        assert v1.get(f"/v1/jobs/{bad}", want=404).code == "not-found"


def test_cancel_of_a_running_job(v1, stack, receiver):
    ident = v1.submit(LINE + "sleep_ms=30000", "cr", stack.image, callback={"url": receiver.url + "/cr"})
    v1.wait_state(ident, "running")
    began = time.monotonic()
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=(200, 202))
    job = v1.wait_finished(ident, timeout=5)
    assert job["verdict"] == "cancelled" and time.monotonic() - began < 5
    assert "cancel" in [t["code"] for t in job["trace"]]
    feedback = v1.get(f"/v1/jobs/{ident}/feedback").body
    assert b"Job was cancelled" in feedback
    call = wait_for("the callback", lambda: receiver.of("/cr"))
    assert call[0].content == feedback
    assert v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)


def test_requeue_is_a_new_job(v1, stack):
    first = v1.submit(LINE + "output=30", "again", stack.image, labels=[])
    v1.wait_finished(first)
    v1.put_file("again", "Makefile", LINE + "output=99")
    a = v1.call("POST", f"/v1/jobs/{first}/requeue", want=201)
    second = a.json["id"]
    assert second > first and a.headers["location"] == f"/v1/jobs/{second}"
    job = v1.wait_finished(second)
    assert job["requeue_of"] == first and job["output"]["bytes"] == 30, "the input is what it was"
    stack.tango.http.post(f"{stack.tango.base}/addJob/test/again/", data='{"jobName": "x"}')


def test_events_of_a_job(v1, stack):
    ident = v1.submit(LINE + "sleep_ms=300", "ev", stack.image)
    got = list(v1.stream(f"/v1/jobs/{ident}/events"))
    assert got[0][0] == "snapshot" and got[-1][0] == "end"
    api.check(api.schema("Job"), json.loads(got[0][1]))
    end = json.loads(got[-1][1])
    api.check(api.schema("Job"), end)
    assert end["state"] == "finished"
    for name, data in got[1:-1]:
        if name == "snapshot":
            continue
        assert name == "job"
        api.check(api.schema("JobEvent"), json.loads(data))
        assert json.loads(data)["id"] == ident
    assert "running" in [json.loads(d)["state"] for n, d in got[:-1]]
    # of a finished one
    assert [n for n, d in v1.stream(f"/v1/jobs/{ident}/events")] == ["snapshot", "end"]


def test_events_of_all_can_be_taken_up_again(v1, stack):
    stream = v1.stream("/v1/events")
    theirs = as_key(v1, "theirs").stream("/v1/events", timeout=3)
    first = v1.submit(LINE + "output=1", "eva", stack.image)
    seen = []
    for name, data in stream:
        data = json.loads(data)
        api.check(api.schema({"job": "JobEvent", "vmm": "VmmEvent"}.get(name, "NameEvent")), data)
        if name == "job" and data["id"] == first:
            seen.append(data["state"])
            if data["state"] == "queued":
                place = stream.last
            if data["state"] == "finished":
                break
    stream.close()
    second = v1.submit(LINE + "output=1", "eva", stack.image)
    v1.wait_finished(second)
    again, states = v1.stream("/v1/events", last=place), {first: [], second: []}
    for name, data in again:
        data = json.loads(data)
        if name == "job":
            states[data["id"]].append(data["state"])
            if data["id"] == second and data["state"] == "finished":
                break
    assert states[first] == seen[1:], "nothing missed, nothing twice"
    again.close()
    try:
        assert "job" not in [n for n, d in theirs]
    except TimeoutError:
        pass
    assert v1.stream("/v1/events", last="x").status == 400
    lost = v1.stream("/v1/events", last="1-1")
    assert next(iter(lost))[0] == "gap"


def test_vmms_pools_images(v1, stack):
    root = as_key(v1, "root")
    name = f"{stack.name}v0"
    assert [v["name"] for v in v1.get("/v1/vmms").json["vmms"]] == [name]
    assert v1.get("/v1/vmms/nosuch", want=404).code == "not-found"
    assert root.call("POST", "/v1/vmms/nosuch/drain", want=404)
    assert root.call("POST", f"/v1/vmms/{name}/drain", {"reason": 5}, want=422).json["errors"][0]["pointer"] == "/reason"
    assert root.call("POST", f"/v1/vmms/{name}/drain", "{", want=400).code == "bad-json"
    drained = root.call("POST", f"/v1/vmms/{name}/drain", {"reason": "new disk"}, want=200).json
    assert drained["drain"] and drained["reason"] == "operator: new disk"
    ident = v1.submit(LINE + "output=1", "dr", stack.image)
    why = wait_for("a reason", lambda: v1.get(f"/v1/jobs/{ident}/why").json)
    assert why["reason"] == "draining"
    assert not root.call("POST", f"/v1/vmms/{name}/resume", want=200).json["drain"]
    v1.wait_finished(ident)
    assert stack.image in [i["name"] for i in v1.get("/v1/images").json["images"]]
    assert v1.get(f"/v1/images/{stack.image}").json["vmms"] == [name]
    assert v1.get("/v1/images/no/such:1", want=404)
    assert v1.call("PUT", "/v1/pools/no/such", {"machines": 1}, want=404)
    assert v1.call("PUT", f"/v1/pools/{stack.image}", {"machines": 2, "cores": 1}, want=422).json["errors"][0]["pointer"] == "/memory_mb"
    got = v1.call("PUT", f"/v1/pools/{stack.image}?wait_s=10", {"machines": 2}, want=200).json
    assert got["reached"]
    pool = [p for p in v1.get("/v1/pools").json["pools"] if p["image"] == stack.image][0]
    assert pool["wish"]["machines"] == 2 and pool["total"] == 2 and pool["idle"] == 2
    assert [m["state"] for m in v1.get("/v1/machines").json["machines"]] == ["idle", "idle"]
    v1.call("DELETE", f"/v1/pools/{stack.image}", want=204)
    assert v1.call("DELETE", f"/v1/pools/{stack.image}", want=404)
    stats = v1.get("/v1/stats").json
    assert stats["vmms_up"] == 1 and stats["slots"] == 4 and stats["state_ms"]["total"]["count"] > 0


def test_why_of_a_record_that_lost_its_placement(v1, stack):
    ident = v1.submit(LINE + "output=1", "noplace", stack.image, labels=["nosuch"])
    placement = stack.redis.client.hget(f"{{milonga}}:j:{ident}", "pl")
    stack.redis.client.hdel(f"{{milonga}}:j:{ident}", "pl")
    try:
        assert v1.raw("GET", f"/v1/jobs/{ident}/why").status == 200
    finally:
        stack.redis.client.hset(f"{{milonga}}:j:{ident}", "pl", placement)
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)


def test_a_full_queue_says_when_to_come_again(v1, stack):
    waiting = []
    try:
        v1.submit(LINE, "full", stack.image, labels=["nosuch"])
        body = v1.submission("full", stack.image, labels=["nosuch"])
        for _ in range(60):
            a = v1.call("POST", "/v1/jobs", body)
            if a.status == 429:
                break
            waiting.append(a.json["id"])
        assert a.status == 429 and a.code == "queue-full" and 1 <= int(a.headers["retry-after"]) <= 300
    finally:
        for job in v1.get("/v1/jobs?lab=full&state=live&limit=100").json["jobs"]:
            v1.call("POST", f"/v1/jobs/{job['id']}/cancel", want=200)


def test_callbacks_are_listed_and_retried(v1, stack):
    r = Receiver(script=[404, 204])
    try:
        ident = v1.submit(LINE + "output=1", "cb", stack.image, callback={"url": r.url + "/x"})
        v1.wait_finished(ident)
        job = wait_for("the failure", lambda: (lambda j: j if j["callback"]["state"] == "failed" else None)(v1.job(ident)))
        assert "404" in job["callback"]["last"]
        assert ident in [c["id"] for c in v1.get("/v1/callbacks").json["callbacks"]]
        assert v1.call("POST", f"/v1/jobs/{ident}/callback/retry", want=202).json["state"] == "pending"
        wait_for("delivery", lambda: v1.job(ident)["callback"]["state"] == "sent")
        plain = v1.submit(LINE + "output=1", "cb", stack.image)
        v1.wait_finished(plain)
        assert v1.call("POST", f"/v1/jobs/{plain}/callback/retry", want=409).code == "no-callback"
    finally:
        r.stop()
