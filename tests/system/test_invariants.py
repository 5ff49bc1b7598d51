"""The invariants of docs/architecture.md that no other test is named after; the others are test_invariant_N_… elsewhere."""

import json
import re
import threading

import pytest

from harness.process import wait_for
from harness.stack import ROOT
from harness.tango import messages

pytestmark = pytest.mark.fast

MAKEFILE = "autograde:\n\t@echo hello\n"


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="null", callback_delay_ms="0")


def test_invariant_1_an_accepted_job_survives_redis_killed_after_the_answer(make_stack):
    stack = make_stack(driver="null")
    stack.vmm.stop()  # so that the jobs are still to be done when they are looked for
    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", MAKEFILE)
    accepted = []
    for n in range(10):
        accepted.append(stack.tango.add("lab", f"out{n}"))
        stack.redis.process.kill()
        stack.redis.start()
        wait_for("redis seen again", lambda: stack.tango.json("GET", "/jobs/test/0/")["statusId"] == 0)
    stack.vmm.start()
    for n, ident in enumerate(accepted):
        assert messages(stack.tango.wait_dead(ident))[-1] == "Success: Autodriver returned normally"
        assert b"Hello from null" in stack.tango.poll("lab", f"out{n}")
    assert accepted == sorted(set(accepted))


def test_invariant_2_feedback_then_state_then_callback(stack, receiver):
    """What a frontend finds that asks the moment it is called back; and never a final state without feedback."""
    ids, seen, early = {}, {}, []
    take = receiver.take

    def look(request):
        output = request.path.rpartition("/")[2]
        ident = wait_for(f"the answer for {output}", lambda: ids.get(output))
        seen[output] = (stack.tango.job(ident)[1], stack.tango.poll("order", output))
        take(request)

    stop = threading.Event()

    def watch():
        while not stop.is_set():
            early.extend(j["id"] for j in stack.tango.jobs(dead=True) if stack.tango.poll("order", j["name"]) is None)

    watcher = threading.Thread(target=watch)
    watcher.start()
    receiver.take = look
    try:
        for n in range(20):
            output = f"order{n}.out"
            ids[output], _, _ = stack.tango.submit(MAKEFILE, lab="order", output=output,
                                                   callback_url=f"{receiver.url}/order/{output}")
        for output in ids:
            call = receiver.wait(f"/order/{output}")[0]
            assert seen[output] == (True, call.content), output
    finally:
        stop.set()
        watcher.join()
        receiver.take = take
    assert not early


def test_invariant_8_nothing_waits_by_sleeping():
    sources = [p for d in ("services", "libshared", "client", "autodriver") for p in (ROOT / d).rglob("*.c")]
    assert len(sources) > 50
    sleeps = re.compile(r"\b(u?sleep|(clock_)?nanosleep|pthread_delay_np)\s*\(")
    assert not [f"{p}: {m[0]}" for p in sources for m in sleeps.finditer(p.read_text())]


def test_invariant_10_the_queue_is_bounded_and_says_so(make_stack):
    stack = make_stack(driver="null", max_live_jobs="5")
    stack.vmm.stop()
    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", MAKEFILE)
    for n in range(5):
        stack.tango.add("lab", f"out{n}")
    answer = stack.tango.json("POST", "/addJob/test/lab/", data=json.dumps(stack.tango.body("one-more")))
    assert answer == {"statusId": -1, "statusMsg": "JobQueue is full"}
    stack.vmm.start()
    wait_for("room", lambda: not stack.tango.jobs(dead=False))
    stack.tango.add("lab", "room-again")
