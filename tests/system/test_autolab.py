"""A submission as Autolab makes it, from the open to the callback that ends it."""

import hashlib
import json
import os
import time

import pytest

from harness.process import wait_for
from harness.tango import messages

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAKEFILE = "autograde:\n\t@tar xf autograde.tar 2>/dev/null; cat handin.c; echo '{\"scores\": {\"all\": 7}}'\n"
HANDIN = "student@example.org_1_handin.c"
OUTPUT = "student@example.org_1_lab0_autograde.txt"


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="oci", callback_delay_ms="1200ms")


def submit(tango, callback):
    """Returns (job id, time of the answer); uploads only what the courselab does not have."""
    have = tango.open("course-lab0")["files"]
    sent = []
    for name, data in ((HANDIN, b"int x;\n"), ("autograde-Makefile", MAKEFILE.encode()), ("autograde.tar", b"")):
        if have.get(name) == hashlib.md5(data).hexdigest():
            continue
        # HTTParty's header is in small letters and its body's type a form's
        status, _, answer = tango.raw("POST", "/upload/test/course-lab0/", data, {
            "filename": name, "Content-Type": "application/x-www-form-urlencoded"})
        assert status == 200 and json.loads(answer)["statusId"] == 0
        sent.append(name)
    body = {"image": "autograding_image", "files": [
        {"localFile": HANDIN, "destFile": "handin.c"},
        {"localFile": "autograde-Makefile", "destFile": "Makefile"},
        {"localFile": "autograde.tar", "destFile": "autograde.tar"}],
        "output_file": OUTPUT, "timeout": 180, "callback_url": callback,
        "jobName": "course_lab0_1_student@example.org", "disable_network": False,
        "instanceType": "", "ec2Vmms": False, "allowed_outgoing_ips": []}
    status, headers, answer = tango.raw("POST", "/addJob/test/course-lab0/", json.dumps(body).encode(), {
        "Content-Type": "application/x-www-form-urlencoded"})
    value = json.loads(answer)
    assert status == 200 and value["statusId"] == 0 and isinstance(value["jobId"], str), value
    return int(value["jobId"]), time.monotonic(), sent


def test_submission(stack, receiver):
    tango = stack.tango
    path = "/courses/course/assessments/lab0/autograde_done?dave=SECRET&submission_id=1"
    ident, answered, sent = submit(tango, receiver.url + path)
    assert len(sent) == 3
    call = receiver.wait(path)[0]
    # Autolab stores the id after the answer, and the callback must not come before that
    assert time.monotonic() - answered >= 1
    assert call.name == OUTPUT
    lines = call.content.decode().strip().split("\n")
    assert lines[0].startswith("Autograder [") and "int x;" in lines
    assert json.loads(lines[-1]) == {"scores": {"all": 7}}
    # nothing but the first delivery once it was taken
    wait_for("an empty outbox", lambda: not stack.redis.client.zcard("{milonga}:outbox"))
    assert len(receiver.of(path)) == 1
    # the form of polling that Autolab has: no slash at the end
    status, headers, data = tango.raw("GET", f"/poll/test/course-lab0/{OUTPUT}")
    assert status == 200 and headers["content-type"] == "application/octet-stream" and data == call.content


def test_jobs_page(stack):
    job = next(j for j in stack.tango.jobs(dead=True) if j["name"].startswith("course_lab0"))
    assert list(job) == ["retries", "outputFile", "name", "notifyURL", "maxOutputFileSize", "assigned",
                         "timeout", "id", "trace", "vm", "input"]
    assert type(job["id"]) is int and type(job["retries"]) is int and job["assigned"] is False
    assert job["outputFile"] == f"courselabs/main-course-lab0/output/{OUTPUT}"
    assert [i["localFile"] for i in job["input"]][0] == f"courselabs/main-course-lab0/{HANDIN}"
    assert list(job["vm"]) == ["network", "resume", "image", "memory", "vmms", "cores", "disk", "id", "name"]
    assert type(job["vm"]["id"]) is int and job["vm"]["name"] == "autograding_image"
    assert "Added job" in messages(job)[0] and "Autodriver returned normally" in messages(job)[-1]
    assert not any(w in line for line in job["trace"] for w in ("fail", "error"))
    info = stack.tango.ok("GET", "/info/test/")["info"]
    assert info["job_requests"] >= 1 and info["runjob_errors"] == 0


def test_second_submission_sends_nothing_again(stack, receiver):
    ident, _, sent = submit(stack.tango, receiver.url + "/second")
    assert sent == []
    receiver.wait("/second")


def test_secret_of_the_callback_is_in_no_log(stack):
    for p in stack.processes:
        assert "SECRET" not in p.text(), p.name


def test_request_sent_twice_is_one_job(make_stack, receiver):
    """A frontend that did not get the answer asks again. Its callback, which has a secret in it, tells one submission
    from another that looks the same; a job without is always a new one."""
    stack = make_stack(driver="null", dup_window_ms="10s")
    tango, url = stack.tango, receiver.url + "/twice"
    ident, lab, _ = tango.submit("autograde:\n\t@true\n", output="o", lab="twice", callback_url=url)
    assert tango.add(lab, "o", callback_url=url) == ident
    assert tango.add(lab, "o", callback_url=url + "?other") != ident
    assert tango.add(lab, "o") != tango.add(lab, "o")
    receiver.wait("/twice")
    assert len(receiver.of("/twice")) == 1
