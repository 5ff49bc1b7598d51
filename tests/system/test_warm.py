"""Warm machines: ready before their job is known, used once, and without a trace of anyone."""

import os

import pytest

from harness import image
from harness.process import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PLACES = "/tmp /var/tmp /dev/shm /home/autograde /home /run /var/lock /mnt /opt"
SPOIL = (f"autograde:\n\t@for d in {PLACES}; do echo trace > $$d/trace-of-me 2>/dev/null; done;"
         " (setsid sleep 200 &) ; echo trace > ../trace-of-me; echo spoiled\n")
LOOK = (f"autograde:\n\t@find {PLACES} -name 'trace-of-me' 2>/dev/null; find . ! -name . | LC_ALL=C sort;"
        " grep -l sleep /proc/[0-9]*/comm 2>/dev/null; echo looked\n")


@pytest.fixture(scope="module", params=["oci", "docker", "podman"])
def stack(request, make_stack):
    settings = {"driver": "oci" if request.param == "oci" else "docker", "pool_size": "2", "slots": "2"}
    if request.param != "oci":
        engine = request.getfixturevalue(request.param)
        s = make_stack(start=False, docker_url=engine.url, **settings)
        s.engine_url = engine.url
        s.start()
    else:
        s = make_stack(**settings)
    return s


def free(stack):
    return stack.tango.ok("GET", "/pool/test/")["pools"].get(image.NAME, {"free": []})["free"]


def test_prealloc_makes_what_it_was_asked_for(stack):
    value = stack.tango.ok("POST", f"/prealloc/test/{image.NAME}/2/", data="{}")
    assert value["statusMsg"] == "VMs preallocated"
    pool = stack.tango.ok("GET", f"/pool/test/{image.NAME}/")
    assert pool["statusMsg"] == "Found pool"
    assert len(pool["pools"][image.NAME]["total"]) == 2
    assert all(1000 <= i <= 9999 for i in pool["pools"][image.NAME]["total"])


def test_no_trace_of_an_earlier_job(stack):
    used = []
    for _ in range(3):
        wait_for("warm machines", lambda: len(free(stack)) == 2)
        entry, feedback = stack.tango.run(SPOIL, disable_network=False)
        assert feedback.endswith(b"spoiled\n")
        used.append(entry["vm"]["id"])
        entry, feedback = stack.tango.run(LOOK, disable_network=False)
        assert feedback.partition(b"status 0\n")[2] == b"./Makefile\nlooked\n", feedback
        used.append(entry["vm"]["id"])
    assert len(set(used)) == len(used)


def test_jobs_with_and_without_network_have_their_machines(stack):
    """Each kind by demand: the first job of a kind may find none, the next ones do."""
    stack.tango.ok("POST", f"/prealloc/test/{image.NAME}/2/", data="{}")
    wait_for("warm machines", lambda: len(free(stack)) == 2)
    for quiet in (True, False):
        stack.tango.run("autograde:\n\t@true\n", disable_network=quiet)
    seen = []

    def settled():
        """Two machines that stay: one that is to be replaced has gone."""
        seen.append(free(stack))
        return len(seen[-1]) == 2 and seen[-10:].count(seen[-1]) == 10
    for quiet in (True, False, True, False):
        wait_for("warm machines", settled)
        ready = seen[-1]
        entry, feedback = stack.tango.run("autograde:\n\t@ls /sys/class/net\n", disable_network=quiet)
        assert entry["vm"]["id"] in ready, (quiet, entry["vm"], ready)


def test_shrunk_to_nothing_is_clean(stack):
    stack.tango.ok("POST", f"/prealloc/test/{image.NAME}/0/", data="{}")
    wait_for("an empty pool", lambda: not free(stack))
    stack.wait_clean()


def test_pool_of_a_shape_is_made_of_it(stack):
    """All jobs of the image that say nothing of their own have that shape, in a warm machine or in a fresh one."""
    grab = "autograde:\n\t@test 262144000 = \"$$(head -c 300m /dev/zero | tail -c 250m | wc -c)\" && echo got it\n"
    stack.tango.ok("POST", f"/prealloc/test/{image.NAME}/1/", data='{"cores": 1, "memory": 128}')
    wait_for("a warm machine", lambda: len(free(stack)) == 1)
    for _ in range(3):
        entry, feedback = stack.tango.run(grab, timeout=120, wait=120)
        assert b"exceeded its memory limit of 128 MB" in feedback, feedback
    entry, feedback = stack.tango.run(grab, timeout=120, wait=120, limits={"memory": 1024})
    assert feedback.endswith(b"got it\n"), feedback
    stack.tango.ok("POST", f"/prealloc/test/{image.NAME}/0/", data="{}")
    wait_for("an empty pool", lambda: not free(stack))
    stack.wait_clean()
