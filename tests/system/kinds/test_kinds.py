"""What holds of each kind of machine. One installation a kind, all cases on it in this order; what a case leaves behind on its
backend is looked for, from outside of our own services, at the end of the case (Running.check) and of all (test_nothing_is_left).
"""

import os
import re
import signal
import socket

import pytest

from harness.process import wait_for
from harness.running import FINAL, Running
from harness.tango import messages
from harness.v1 import V1

pytestmark = [pytest.mark.kinds, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
CANCELLED = {"final": "Error: Job was cancelled", "line": "Autodriver: Job was cancelled", "verdict": "cancelled"}
LONG = (b"0123456789\n" * 800000)[:8000000]


@pytest.fixture(autouse=True)
def settled(kind):
    kind.settle()


@pytest.fixture
def run(kind, receiver):
    """A job from its lines, done and looked over."""
    def run(*lines, begun=None, want=None, **more):
        job = Running(kind.stack, receiver, make(*lines), begun=begun, **more)
        job.entry = job.check(**(want or {}))
        return job
    return run


def make(*lines):
    return "autograde:\n" + "".join(f"\t@{x}\n" for x in lines)


# ---- how jobs end ----

@pytest.mark.case("success")
def test_success(kind, run):
    """The files are there, the account is the job's, each step is in the trace."""
    job = run("sh hello.sh; wc -c <data", files={"hello.sh": "id -un; pwd\n", "data": os.urandom(300000)},
              want={"output": b"autograde\n/home/autograde/autolab\n300000\n"})
    name = f"{job.output}:{job.ident}"
    trace = [re.sub(r"local-\d{4}-\S+", "VM", m) for m in messages(job.entry)]
    assert trace[1] == f"Dispatched job {name} [try 0]"
    assert trace[-6:] == [f"Job {name} waiting for VM VM", f"VM VM ready for job {name}", f"Input copied for job {name} [status=0]",
                          f"Job {name} executed [status=0]", f"Output copied for job {name} [status=0]", FINAL]


@pytest.mark.case("failure")
def test_failure(run):
    run("echo failing >&2; exit 3", want={"line": "Autodriver: Job exited with status 2",
                                          "output": b"failing\nmake: *** [Makefile:2: autograde] Error 3\n"})


@pytest.mark.case("time-out")
def test_time_out(run):
    said = "Job timed out after 2 seconds"
    run("echo start; sleep 60; echo never", timeout=2,
        want={"final": f"Error: {said}", "line": f"Autodriver: {said}", "output": b"start\n", "verdict": "timed_out"})


@pytest.mark.case("overflow")
def test_overflow_of_output(run):
    """Head and tail are kept, of just so many bytes, and what came last is there."""
    def both_ends(output):
        head, gap, tail = output.partition(b"\n...[excess bytes elided]...\n")
        return gap and len(head) == len(tail) == 512000 and LONG.startswith(head) and tail.endswith(b'\n{"scores": {}}\n')
    run("yes 0123456789 | head -c 3000000; echo; echo '{\"scores\": {}}'", want={"output": both_ends})


@pytest.mark.case("SEGV")
def test_killed_by_segv(run):
    run("echo before; kill -SEGV $$PPID; sleep 60", want={
        "line": "Autodriver: Job exited with status 139", "output": b"Autodriver: Job was killed by signal 11\nbefore\n"})


@pytest.mark.case("KILL")
def test_killed_by_kill(run):
    run("echo before; kill -KILL $$PPID; sleep 60", want={
        "line": "Autodriver: Job exited with status 137", "output": b"Autodriver: Job was killed by signal 9\nbefore\n"})


@pytest.mark.case("partial output")
def test_partial_output(kind, receiver):
    """A watcher has what was printed while the job runs, and no more than that."""
    job = Running(kind.stack, receiver, make("echo one; sleep 2; echo two"))
    assert kind.stack.tango.partial(job.ident)["output"] == "one\n" and kind.stack.tango.poll(job.lab, job.output) is None
    job.check()


# ---- network ----

def tries(address, port):
    return [f"bash -c ': </dev/tcp/{address}/{port}' 2>/dev/null && echo reached || echo not reached", "tail -n +3 /proc/net/dev | cut -d: -f1"]


@pytest.mark.case("no network")
def test_network_off(kind, run):
    """Nothing but a loopback, and not this machine's."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((kind.here, port), 5):  # it is there for others
            listener.accept()[0].close()
        run(*tries(kind.here, port), want={"output": b"not reached\n    lo\n"})


@pytest.mark.case("network")
def test_network_asked_for(kind, run, record_property):
    """It is there, or nothing but the loopback, for a reason that is known."""
    if kind.network_untried:
        record_property("cell", ("untried", kind.network_untried))
        return
    with socket.create_server(("0.0.0.0", 0)) as listener:
        lines = tries(kind.here, listener.getsockname()[1])
        if kind.no_network:
            record_property("cell", ("none", kind.no_network))
            run(*lines, disable_network=False, want={"output": b"not reached\n    lo\n"})
        else:
            run(*lines[:1], disable_network=False, want={"output": b"reached\n"})


# ---- cancel ----

@pytest.mark.case("cancel queued")
def test_cancel_of_a_queued_job(kind, receiver):
    """All slots are taken; it never comes to a machine."""
    v1 = V1(kind.stack.ports[0])
    others = [Running(kind.stack, receiver, make("echo one; sleep 300")) for _ in range(kind.slots)]
    job = Running(kind.stack, receiver, make("echo never"), begun=None)
    assert v1.job(job.ident)["state"] == "queued"
    assert v1.call("POST", f"/v1/jobs/{job.ident}/cancel", want=200).json["verdict"] == "cancelled"
    entry = kind.stack.tango.wait_dead(job.ident)
    for other in others:
        v1.call("POST", f"/v1/jobs/{other.ident}/cancel", want=(200, 202))
        kind.stack.tango.wait_dead(other.ident)
    assert not any("Dispatched" in m for m in messages(entry)), messages(entry)
    kind.stack.wait_clean()
    Running(kind.stack, receiver, make("echo one; echo two"), begun=None).check()  # the slots are free again


@pytest.mark.case("cancel running")
def test_cancel_of_a_running_job(kind, receiver):
    v1 = V1(kind.stack.ports[0])
    job = Running(kind.stack, receiver, make("echo one; sleep 300; echo never"))
    v1.call("POST", f"/v1/jobs/{job.ident}/cancel", want=(200, 202))
    job.check(output=b"one\n", **CANCELLED)
    assert job.attempts == 1


# ---- what breaks ----

@pytest.mark.case("vmm killed")
def test_vmm_killed(kind, receiver):
    job = Running(kind.stack, receiver, make("echo one; sleep 3; echo two"))
    kind.stack.vmm.kill()
    kind.stack.vmm.start()
    job.check(90)
    assert job.attempts == 2


def dies(kind, job, step, again=True, **want):
    """In that step, where the vmm stands still, or runs a job that has begun to print. It costs an attempt, charged at most once
    (what finds no host is not), or none."""
    mend = kind.die(step)
    try:
        if kind.stack.vmm.stopped():
            kind.stack.vmm.signal(signal.SIGCONT)
    finally:
        mend()
    entry = job.check(90, **want)
    assert (job.attempts > 1) == again and int(job.field("c") or 0) <= again, messages(entry)


@pytest.mark.case("dies in copyIn")
def test_machine_dies_in_copy_in(kind, receiver):
    """A part of its files is there."""
    with kind.holding("copyin") as stands:
        job = Running(kind.stack, receiver, make("echo one; wc -c <big"), begun=None, files={"big": os.urandom(6 << 20)})
        stands()
        dies(kind, job, "copyin", output=b"one\n6291456\n")


@pytest.mark.case("dies in run")
def test_machine_dies_in_run(kind, receiver):
    job = Running(kind.stack, receiver, make("echo one; sleep 3; echo two"))
    dies(kind, job, "run")


@pytest.mark.case("dies in copyOut")
def test_machine_dies_in_copy_out(kind, receiver):
    """Its output is on the way; none of the first attempt's is in the feedback."""
    with kind.holding("copyout") as stands:
        job = Running(kind.stack, receiver, make("yes 0123456789 | head -c 8000000; echo; echo last"), begun=None,
                      limits={"output": 16 << 20})
        stands()
        dies(kind, job, "copyout", output=LONG + b"\nlast\n")


@pytest.mark.case("dies done")
def test_machine_dies_when_its_job_is_done(kind, receiver):
    """Before the vmm has told anybody: the verdict stands, and the job is not run again."""
    with kind.holding("done") as stands:
        job = Running(kind.stack, receiver, make("echo one; echo two"), begun=None)
        stands()
        dies(kind, job, "done", again=False)


@pytest.mark.case("nothing left")
def test_nothing_is_left(kind):
    """After the vmm's end, on its backend and here."""
    kind.stack.stop()
    kind.stack.wait_clean()
    wait_for("nothing left", lambda: not kind.left(), 15, 0.2)
