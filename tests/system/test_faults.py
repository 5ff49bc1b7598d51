"""A process is killed, paused or cut off while a job runs: the job ends exactly once all the same.

Each test has an installation of its own, because what a fault leaves behind must not hide the next one.
"""

import os
import signal
import time

import pytest

from harness.process import wait_for
from harness.running import FINAL, Running
from harness.tango import messages

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.mark.parametrize("victim", ["api", "dispatcher", "vmm"])
def test_invariant_4_killed_and_restarted(make_stack, receiver, victim):
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    process = getattr(stack, victim)
    process.kill()
    time.sleep(0.3)
    process.start()
    stack.wait_api()
    job.check()
    stack.stop()


def test_invariant_4_standby_takes_over(make_stack, receiver):
    stack = make_stack(driver="oci", dispatchers=2)
    holder = stack.redis.client.hget("{milonga}:lead", "holder").decode()
    job = Running(stack, receiver)
    next(d for d in stack.dispatchers if holder in d.text()).kill()
    job.check()
    entry, _ = stack.tango.run("autograde:\n\t@echo and another\n")
    assert messages(entry)[-1] == FINAL
    stack.stop()


def test_invariant_4_lost_vmm_is_replaced_by_another(make_stack, receiver):
    stack = make_stack(driver="oci", vmms=2)
    job = Running(stack, receiver)
    lost = next(v for v in stack.vmms if stack.redis.client.hlen(f"{{milonga}}:vmm:{v.env['MILONGA_VMM_NAME']}:run"))
    lost.kill()
    stack.tango.wait_dead(job.ident)  # on the other; then the lost one's machine goes when it comes back
    lost.start()
    job.check()
    stack.stop()


def test_invariant_3_paused_vmm_changes_nothing_when_it_wakes(make_stack, receiver):
    stack = make_stack(driver="oci", vmms=2)
    job = Running(stack, receiver)
    paused = next(v for v in stack.vmms if stack.redis.client.hlen(f"{{milonga}}:vmm:{v.env['MILONGA_VMM_NAME']}:run"))
    paused.signal(signal.SIGSTOP)
    try:
        stack.tango.wait_dead(job.ident)
        first = stack.tango.poll(job.lab, job.output)
    finally:
        paused.signal(signal.SIGCONT)
    time.sleep(1)
    assert stack.tango.poll(job.lab, job.output) == first
    job.check()
    stack.stop()


@pytest.mark.parametrize("gap", [0.2, 3])
def test_invariant_4_redis_killed_and_restarted(make_stack, receiver, gap):
    """Both within and beyond the leases."""
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    stack.redis.kill()
    time.sleep(gap)
    stack.redis.start()
    stack.wait_api()
    job.check()
    entry, _ = stack.tango.run("autograde:\n\t@echo afterwards\n")
    assert messages(entry)[-1] == FINAL and entry["id"] > job.ident
    stack.stop()


def test_ids_are_never_reused_after_redis_lost_everything(make_stack):
    stack = make_stack(driver="oci")
    before = [stack.tango.run("autograde:\n\t@true\n")[0]["id"] for _ in range(2)]
    stack.redis.kill()
    for path in stack.dir.glob("appendonlydir/*"):
        path.unlink()
    stack.redis.start()
    stack.wait_api()
    stack.wait_image()

    def accepted():
        stack.tango.open("after")
        stack.tango.upload("after", "Makefile", "autograde:\n\t@true\n")
        try:
            return stack.tango.add("after", "out")
        except AssertionError:
            return None
    ident = wait_for("a new generation", accepted, 20, 0.2)
    assert ident > max(before)
    stack.tango.wait_dead(ident)
    stack.stop()


def test_invariant_4_everything_killed_at_once(make_stack, receiver):
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    for p in [*stack.processes, stack.redis.process]:
        p.kill()
    stack.redis.start()
    for p in stack.processes:
        p.start()
    stack.wait_api()
    job.check()
    stack.stop()


def test_dead_callback_receiver_is_tried_again(make_stack, receiver):
    stack = make_stack(driver="null")
    receiver.script[:] = [500, 503, 204]
    ident, lab, output = stack.tango.submit("autograde:\n\t@true\n", callback_url=receiver.url + "/again")
    stack.tango.wait_dead(ident)
    receiver.wait("/again", status=204)
    calls = receiver.of("/again")
    assert [c.status for c in calls] == [500, 503, 204]
    assert {c.content for c in calls} == {stack.tango.poll(lab, output)}
    wait_for("an empty outbox", lambda: not stack.redis.client.zcard("{milonga}:outbox"))
    stack.stop()
