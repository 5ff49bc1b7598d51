"""What a client is told at a bound, and when nobody is there to do what it asked for."""

import json
import time

import pytest

from harness import v1 as api

pytestmark = pytest.mark.fast

MAKEFILE = "autograde:\n\t@echo hello\n"


def add(tango, **more):
    return tango.json("POST", f"/addJob/{tango.key}/lab/", data=json.dumps(tango.body("out", **more)))


def test_nobody_is_waited_for_when_no_worker_is_up(make_stack):
    stack = make_stack(driver="null")
    tango = stack.tango
    stack.vmm.stop()
    t = time.monotonic()
    answer = tango.json("GET", f"/prealloc/test/{tango.image}/2/")
    assert answer["statusId"] == -1 and answer["statusMsg"] == "Preallocate VM failed"
    assert "no worker is up" in answer["reason"] and "start milonga-vmm" in answer["reason"]
    answer = tango.json("POST", "/build/test/", data=b"an archive", headers={"imageName": "built"})
    assert answer["statusId"] == -1 and "no worker is up" in answer["reason"]
    assert time.monotonic() - t < 12  # each would have waited 25 s
    assert stack.redis.client.hget("{milonga}:wish", tango.image).startswith(b"2 ")  # it stands


def test_invariant_10_jobs_are_bounded_by_count_and_by_bytes(make_stack):
    stack = make_stack(driver="null", max_live_jobs="13", max_live_bytes="1M")
    tango = stack.tango
    tango.open("lab")
    tango.upload("lab", "Makefile", MAKEFILE)
    stack.vmm.stop()
    large = ["Makefile"] + [("Makefile", f"{i:0200d}") for i in range(350)]  # a description of some 87 KB
    ids = []
    for _ in range(99):
        answer = add(tango, files=large)
        if answer["statusId"] == -1:
            break
        ids.append(int(answer["jobId"]))
    assert str(answer["statusMsg"]).startswith("JobQueue is full: ") and "max_live_bytes" in answer["statusMsg"]
    assert 8 < len(ids) < 13
    v1 = api.V1(stack.ports[0])
    full = v1.call("POST", "/v1/jobs", {**v1.submission("lab", tango.image), "files": [
        {"name": "Makefile"}, *({"name": "Makefile", "dest": f"{i:0200d}"} for i in range(340))]}, want=429)
    assert full.code == "queue-full" and "max_live_bytes" in full.json["detail"]
    while len(ids) < 13:
        ids.append(int(add(tango)["jobId"]))
    assert add(tango) == {"statusId": -1, "statusMsg": "JobQueue is full"}
    stack.vmm.start()
    for ident in ids:
        tango.wait_dead(ident)
    tango.wait_dead(int(add(tango)["jobId"]))
