"""The backend fails under a job: the engine is killed, the machine dies, the image goes between accept and run."""

import contextlib
import os
import pathlib
import signal
import tempfile
import time

import pytest
import requests

from harness import engine as engine_module, image
from harness.guard import guard
from harness.process import wait_for
from harness.tango import messages
from test_faults import Running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
FINAL = "Success: Autodriver returned normally"


@pytest.fixture(scope="module")
def mortal():
    """An engine of this module's own, which may be killed."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mte."))
    guard.directory(directory)
    tar = image.tarball()
    e = engine_module.Dockerd(directory, home="mortal").start()
    try:
        e.load(tar)
        yield e
    finally:
        e.stop()


def revive(engine):
    """As a service manager would: again until it holds, since the containerd of the one before may be in its way."""
    def answers():
        if not engine.process.running():
            (engine.dir / "pid").unlink(missing_ok=True)
            engine.process.start()
        return engine.process.running() and engine.answers()
    wait_for("the engine", answers, 60, 0.2)


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
    revive(mortal)
    job.check(90)


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


def machine_of(stack):
    """The first process of the running machine: our autodriver, as the machine's cgroup tells it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            group = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
            args = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if f"/{stack.name}/" in group and b"--pipe" in args:
                return int(pid)
    return None


def test_the_machine_dies_under_a_job(make_stack, receiver):
    """That is nobody's verdict: another machine runs it."""
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    os.kill(wait_for("a machine", lambda: machine_of(stack)), signal.SIGKILL)
    entry = job.check()
    assert sum("Dispatched" in m for m in messages(entry)) == 2, messages(entry)
    stack.stop()
