"""Jobs of every temper, on every backend that runs real machines."""

import os
import re
import time

import pytest

from harness import image
from harness.stack import need
from harness.tango import messages, parts

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NORMAL = "Success: Autodriver returned normally"
LIMIT = 1024000


@pytest.fixture(scope="module", params=["oci", "docker", "podman", "ssh"])
def stack(request):
    settings = {"driver": request.param, "job_memory_mb": "128", "job_pids": "60"}
    farm = request.getfixturevalue("make_farm")(2) if request.param == "ssh" else None
    make_stack = request.getfixturevalue("make_stack")  # it ends before the hosts do
    tar = image.tarball()
    if farm:
        s = make_stack(start=False, **{**settings, "slots": "0"}, **farm.settings(f"slots=2 images={image.NAME}"))
        s.farm = farm
    elif request.param == "oci":
        need("milonga")
        s = make_stack(start=False, oci_host_image="no", oci_host_image_alias="", **settings)
        s.import_image(tar)
    else:
        engine = request.getfixturevalue(request.param)
        s = make_stack(start=False, docker_url=engine.url, **{**settings, "driver": "docker"})
        s.engine_url = engine.url
    s.start()
    yield s
    # each job's machine is gone when all is quiet, also before the services end
    s.wait_clean()


def test_hello(stack):
    script = "echo Hello from `pwd`\nid -un\necho '{\"scores\": {\"Problem 1\": 10}}'\n"
    entry, feedback = stack.tango.run("autograde:\n\t@sh hello.sh\n", files={"hello.sh": script})
    message, line, output = parts(feedback)
    assert (message, line) == (NORMAL, "Autodriver: Job exited with status 0")
    assert output == b'Hello from /home/autograde/autolab\nautograde\n{"scores": {"Problem 1": 10}}\n'
    job = f"{entry['name']}:{entry['id']}"
    vm = f"local-{entry['vm']['id']}-autograding_image"
    trace = messages(entry)
    assert trace[0] == f"Added job {job} to queue"
    assert trace[1] == f"Dispatched job {job} [try 0]"
    assert re.fullmatch(rf"Assigned job {re.escape(job)} (existing|new) VM {vm}", trace[2])
    assert trace[3:] == [
        f"Job {job} waiting for VM {vm}", f"VM {vm} ready for job {job}",
        f"Input copied for job {job} [status=0]", f"Job {job} executed [status=0]",
        f"Output copied for job {job} [status=0]", NORMAL]


def test_exit_2(stack):
    _, feedback = stack.tango.run("autograde:\n\t@echo failing; exit 2\n")
    message, line, output = parts(feedback)
    assert (message, line) == (NORMAL, "Autodriver: Job exited with status 2")
    assert output == b"failing\nmake: *** [Makefile:2: autograde] Error 2\n"


def test_time_out(stack):
    began = time.monotonic()
    entry, feedback = stack.tango.run("autograde:\n\t@echo start; sleep 60; echo never\n", timeout=2)
    assert time.monotonic() - began < 12
    message, line, output = parts(feedback)
    assert message == messages(entry)[-1] == "Error: Job timed out after 2 seconds"
    assert line == "Autodriver: Job timed out after 2 seconds"
    assert output == b"start\n"


def test_stopping_make_does_not_stop_the_clock(stack):
    began = time.monotonic()
    _, feedback = stack.tango.run("autograde:\n\t@kill -STOP $$PPID; sleep 60\n", timeout=2)
    assert time.monotonic() - began < 12
    assert parts(feedback)[1] == "Autodriver: Job timed out after 2 seconds"


def test_endless_output(stack):
    _, feedback = stack.tango.run("autograde:\n\t@yes 0123456789\n", timeout=3)
    message, _, output = parts(feedback)
    assert message == "Error: Job timed out after 3 seconds"
    head, gap, tail = output.partition(b"\n...[excess bytes elided]...\n")
    assert gap and len(head) == len(tail) == LIMIT // 2
    assert head.startswith(b"0123456789\n0123456789\n")


def test_long_output_keeps_its_tail(stack):
    _, feedback = stack.tango.run("autograde:\n\t@yes 0123456789 | head -c 3000000; echo; echo '{\"scores\": {}}'\n")
    output = parts(feedback)[2]
    assert b"\n...[excess bytes elided]...\n" in output
    assert output.endswith(b'\n{"scores": {}}\n')


def test_fork_bomb(stack):
    bomb = "autograde:\n\t@bomb() { bomb | bomb & }; bomb; sleep 2; echo over\n"
    began = time.monotonic()
    _, feedback = stack.tango.run(bomb, timeout=4)
    assert time.monotonic() - began < 20
    assert parts(feedback)[1].startswith("Autodriver: Job ")
    _, feedback = stack.tango.run("autograde:\n\t@echo still here\n")
    assert parts(feedback)[2] == b"still here\n"


HIT = "Error: Job exceeded its memory limit of 128 MB"


def test_memory_hog(stack):
    """make lives on, and ends badly."""
    entry, feedback = stack.tango.run("autograde:\n\t@echo before; tail /dev/zero\n", timeout=20)
    message, line, output = parts(feedback)
    assert message == HIT and messages(entry)[-1] == HIT
    assert line == "Autodriver: Job exited with status 2"
    first, _, rest = output.partition(b"\n")
    assert first == b"Autodriver: Job exceeded its memory limit of 128 MB and was killed"
    assert rest.startswith(b"before\n")


def test_memory_hog_that_its_grader_copes_with(stack):
    """That a limit was hit is told; the output, with its scores, is there all the same."""
    entry, feedback = stack.tango.run("autograde:\n\t@echo before; tail /dev/zero; echo after $$?\n", timeout=20)
    message, line, output = parts(feedback)
    assert message == HIT and messages(entry)[-1] == HIT
    assert line == "Autodriver: Job exited with status 0"
    assert output.startswith(b"Autodriver: Job exceeded its memory limit of 128 MB and a program of it was killed\nbefore\n")
    assert output.endswith(b"after 137\n")


def test_figures_of_a_job_are_logged(stack):
    stack.tango.run("autograde:\n\t@i=0; while [ $$i -lt 300000 ]; do i=$$((i+1)); done\n")
    line = [x for x in stack.vmm.text().splitlines() if "event=attempt.over" in x][-1]
    assert int(re.search(r"cpu_ms=(\d+)", line)[1]) > 30, line
    assert int(re.search(r"peak_kb=(\d+)", line)[1]) > 500, line


def test_disk_hog(stack):
    """A machine with a file system of its own bounds the write; the others are told to end."""
    mk = "autograde:\n\t@echo before; head -c 200m /dev/zero >big || exit 7; sleep 30; echo never\n"
    began = time.monotonic()
    entry, feedback = stack.tango.run(mk, timeout=40, limits={"disk": 50 << 20, "file_size": 1 << 30})
    message, line, output = parts(feedback)
    assert time.monotonic() - began < 30
    if stack.driver in ("oci", "ssh"):
        assert line == "Autodriver: Job exited with status 2" and b"No space left" in output
    else:
        assert message == messages(entry)[-1] == "Error: Job exceeded its disk limit of 50 MB"
        assert line == "Autodriver: Job exceeded its disk limit of 50 MB and was killed"
        assert output == b"before\n"


def test_slow_printer(stack):
    mk = "autograde:\n\t@for i in 1 2 3 4; do echo line $$i; sleep 0.5; done\n"
    ident, lab, output = stack.tango.submit(mk)
    seen = stack.tango.wait_output(ident, "line 1")
    text = stack.tango.partial(ident)["output"]
    whole = "".join(f"line {i}\n" for i in range(1, 5))
    assert seen and whole.startswith(text) and text != whole
    stack.tango.wait_dead(ident)
    assert parts(stack.tango.poll(lab, output))[2].decode() == whole
    assert stack.tango.partial(ident)["statusMsg"] == "getPartialOutput request failed: Invalid job id"


def test_bytes_stay_as_they_are(stack, receiver):
    mk = "autograde:\n\t@printf 'a\\377\\376b\\r\\nc\\rd\\000e\\n'\n"
    _, feedback = stack.tango.run(mk, callback_url=receiver.url + "/bytes")
    assert parts(feedback)[2] == b"a\xff\xfeb\r\nc\rd\0e\n"
    content = receiver.wait("/bytes")[0].content  # parse() has checked that it is UTF-8
    assert parts(content)[2].startswith(b"a")


def test_stderr_and_stdout_in_their_order(stack):
    _, feedback = stack.tango.run("autograde:\n\t@echo to stderr >&2; echo to stdout; echo again >&2\n")
    assert parts(feedback)[2] == b"to stderr\nto stdout\nagain\n"


def test_no_network(stack):
    _, feedback = stack.tango.run("autograde:\n\t@ls /sys/class/net; cat /proc/net/dev | tail -n +3 | cut -d: -f1\n")
    assert set(parts(feedback)[2].split()) <= {b"lo"} or b"eth" not in parts(feedback)[2]


def test_what_a_job_finds(stack):
    mk = ("autograde:\n\t@pwd; umask; env | grep -E '^(HOME|USER|LOGNAME|SHELL|PATH|LANG|TZ)=' | LC_ALL=C sort;"
          " readlink /proc/self/fd/0; ls /proc/self/fd | wc -l; id -u; grep Cap.ff /proc/self/status; stat -c '%U %a' Makefile\n")
    _, feedback = stack.tango.run(mk)
    lines = parts(feedback)[2].decode().splitlines()
    assert lines[:2] == ["/home/autograde/autolab", "0022"]
    assert lines[2:9] == ["HOME=/home/autograde", "LANG=C.UTF-8", "LOGNAME=autograde",
                          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                          "SHELL=/bin/sh", "TZ=UTC", "USER=autograde"]
    assert lines[9:] == ["/dev/null", "4", "1001", "CapEff:\t0000000000000000", "autograde 644"]


def test_processes_left_behind_end_with_the_job(stack):
    began = time.monotonic()
    _, feedback = stack.tango.run("autograde:\n\t@setsid sleep 300 & echo done\n")
    assert parts(feedback)[2] == b"done\n"
    assert time.monotonic() - began < 10


def test_a_later_upload_changes_no_queued_job(stack):
    first, lab, out = stack.tango.submit("autograde:\n\t@sleep 1; echo first\n")
    second = stack.tango.add(lab, "second.out", files=["Makefile"])
    stack.tango.upload(lab, "Makefile", "autograde:\n\t@echo changed\n")
    for ident, name in ((first, out), (second, "second.out")):
        stack.tango.wait_dead(ident)
        assert parts(stack.tango.poll(lab, name))[2] == b"first\n"
