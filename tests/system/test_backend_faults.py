"""The backend fails under a job: the engine is killed, the machine dies, the image goes between accept and run."""

import os
import signal
import time

import pytest
import requests

from harness import clean, engine, image
from harness.process import wait_for
from harness.running import Running
from harness.tango import messages

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
FINAL = "Success: Autodriver returned normally"


@pytest.fixture(scope="module")
def mortal():
    """An engine of this module's own, which may be killed."""
    with engine.running(engine.Dockerd, home="mortal") as e:
        yield e


@pytest.fixture
def stack(make_stack, mortal):
    stack = make_stack(driver="docker", docker_url=mortal.url)
    yield stack
    stack.stop()
    stack.wait_clean()
    assert mortal.docker("ps", "-aq").split() == []


@pytest.mark.parametrize("gap", [0, 4])
def test_the_engine_is_killed_under_a_job(stack, mortal, receiver, gap):
    job = Running(stack, receiver)
    mortal.process.kill()
    time.sleep(gap)
    mortal.revive()
    job.check(90)


def test_a_container_that_somebody_kills_has_hit_no_limit(stack, mortal, receiver):
    """The job has a bound on its memory, and SIGKILL is what a process gets that is over it; and what an engine sends that stops."""
    job = Running(stack, receiver, limits={"memory": 64})
    assert mortal.kill_machines() == 1
    job.check(60)
    assert job.attempts == 2


def test_the_image_goes_between_accept_and_run(stack, mortal, tmp_path):
    """The job waits, is not charged and says what it waits for; with the image there again it runs."""
    aside = tmp_path / "image.tar"
    mortal.docker("save", "-o", aside, image.NAME)
    content = mortal.docker("image", "inspect", "-f", "{{.Id}}", image.NAME).strip()
    stack.dispatcher.signal(signal.SIGSTOP)
    try:
        ident, *_ = stack.tango.submit("all:\n\t@true\n")
        mortal.docker("rmi", "-f", content)  # under all its names
    finally:
        stack.dispatcher.signal(signal.SIGCONT)
    try:
        wait_for("a vmm without it", lambda: not stack.redis.client.hexists("{milonga}:img", image.NAME), 30)
        waits, dead = stack.tango.job(ident)
        assert not dead and waits["retries"] == 0, waits
        answer = requests.get(f"{stack.tango.base}/v1/jobs/{ident}/why", headers={"Authorization": f"Bearer {stack.tango.key}"}, timeout=10)
        assert answer.status_code == 200 and image.NAME in answer.text, answer.text
    finally:
        mortal.docker("load", "-i", aside)
    entry = stack.tango.wait_dead(ident, 90)
    assert messages(entry)[-1] == FINAL


def test_the_machine_dies_under_a_job(make_stack, receiver):
    """That is nobody's verdict: another machine runs it."""
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    os.kill(wait_for("a machine", lambda: clean.machine(stack)), signal.SIGKILL)
    entry = job.check()
    assert sum("Dispatched" in m for m in messages(entry)) == 2, messages(entry)
    stack.stop()
