"""A vmm that is told to go: with stop_hands_back what runs goes back to the queue, and nothing is lost or charged."""

import signal
import time

from harness.process import wait_for
from harness.tango import messages

COUNT = 200
DONE = "Success: Autodriver returned normally"


def states(stack, idents, field):
    pipe = stack.redis.client.pipeline()
    for i in idents:
        pipe.hget(f"{{milonga}}:j:{i}", field)
    return pipe.execute()


def test_invariant_5_two_hundred_running_jobs_are_handed_back(make_stack):
    stack = make_stack(driver="null", slots=COUNT, stop_hands_back="yes")
    lab = "many"
    stack.tango.open(lab)
    stack.tango.upload(lab, "Makefile", "# null: sleep_ms=15000\n")
    idents = [stack.tango.add(lab, f"out{n}") for n in range(COUNT)]
    wait_for("all of them at work", lambda: set(states(stack, idents, "s")) == {b"r"}, 30, 0.1)
    began = time.monotonic()
    stack.vmm.signal(signal.SIGTERM)
    assert stack.vmm.child.wait(20) == 0
    took = time.monotonic() - began
    assert set(states(stack, idents, "s")) == {b"q"}
    assert set(states(stack, idents, "c")) <= {None, b"0"}, "none is charged"
    assert set(states(stack, idents, "k")) <= {None, b"0"}, "none has lost a worker"
    assert stack.redis.client.hget(f"{{milonga}}:vmm:{stack.vmm.env['MILONGA_VMM_NAME']}", "state") == b"down"
    assert "vmm.leaves_late" not in stack.vmm.text()
    print(f"gone after {took:.2f} s")
    assert took <= 5, f"{took:.1f} s"  # promised in docs/operations.md
    stack.vmm.start()
    wait_for("all of them done", lambda: set(states(stack, idents, "s")) == {b"f"}, 60, 0.2)
    assert set(states(stack, idents, "x")) == {b"success"}
    assert messages(stack.tango.wait_dead(idents[0]))[-1] == DONE
    stack.stop()
