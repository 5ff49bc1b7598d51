"""What a worker does when not all is well with it: the job goes on elsewhere or later, and nothing is charged to it."""

import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest

from harness.process import plain_env, wait_for
from harness.stack import BUILD
from harness.tango import messages

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not shutil.which("crun"), reason="needs crun")]

DONE = "Success: Autodriver returned normally"
HELLO = "autograde:\n\t@echo hello\n"


@pytest.fixture(scope="module")
def small_image(work_dir):
    """A shell, and a `make` that knows one target."""
    busybox = shutil.which("busybox")
    if not busybox or b"statically" not in subprocess.run(["file", "-L", busybox], capture_output=True).stdout:
        pytest.skip("needs a static busybox")
    root = work_dir / "small"
    for d in ("bin", "tmp", "home", "etc", "proc", "sys", "dev"):
        (root / d).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "bin/make").write_text("#!/bin/sh\necho hello\n")
    (root / "bin/make").chmod(0o755)
    path = work_dir / "small.tar"
    with tarfile.open(path, "w") as t:
        t.add(root, ".")
    return path


def client(vmm, *args):
    env = plain_env(MILONGA_DATA_DIR=vmm.env["MILONGA_DATA_DIR"])
    done = subprocess.run([BUILD / "milonga", "image", *args], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def field(stack, ident, name):
    value = stack.redis.client.hget(f"{{milonga}}:j:{ident}", name)
    return int(value or 0)


def test_image_that_one_worker_lost(make_stack, small_image):
    """The worker whose image went between two of its looks gives the job back; the one that has it runs it."""
    stack = make_stack(start=False, driver="oci", vmms=2, retry_base_ms="1s", oci_host_image="no")
    stack.image = stack.tango.image = "small"
    for i, (vmm, slots) in enumerate(zip(stack.vmms, ("8", "1"))):  # the roomier one is asked first
        data = stack.dir / f"host{i}"
        data.mkdir()
        vmm.env.update(MILONGA_DATA_DIR=str(data), MILONGA_STORE=str(stack.data / "store"), MILONGA_SLOTS=slots)
        client(vmm, "import", str(small_image), "--name", "small")
    stack.start()
    names = [v.env["MILONGA_VMM_NAME"] for v in stack.vmms]
    images = [f"{{milonga}}:vmm:{n}:img" for n in names]
    wait_for("both workers", lambda: all(stack.redis.client.hexists(k, "small") for k in images))
    client(stack.vmms[0], "remove", "small")
    entry, feedback = stack.tango.run(HELLO)
    assert messages(entry)[-1] == DONE, messages(entry)
    assert feedback.endswith(b"hello\n")
    assert field(stack, entry["id"], "c") == 0
    if field(stack, entry["id"], "n") > 1:  # it went there before that worker looked by itself
        assert any(f"image small is not on worker {names[0]} any more" in m for m in messages(entry)), messages(entry)
        assert not stack.redis.client.hexists(images[0], "small")
    stack.stop()


class Breakable:
    """A crun that fails while a file is there."""

    def __init__(self, directory):
        self.flag, self.path = directory / "broken", directory / "crun"
        self.path.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] || ! [ -e {self.flag} ] || exit 1\n"
                             f"exec {shutil.which('crun')} \"$@\"\n")
        self.path.chmod(0o755)

    def set(self, broken):
        if broken:
            self.flag.touch()
        else:
            self.flag.unlink()


def test_invariant_5_broken_backend_charges_nobody(make_stack, work_dir):
    crun = Breakable(pathlib.Path(work_dir))
    stack = make_stack(driver="oci", oci_crun=crun.path, retry_base_ms="100ms", retry_cap_ms="1s")
    key = f"{{milonga}}:vmm:{stack.vmm.env['MILONGA_VMM_NAME']}"
    crun.set(True)
    jobs = [stack.tango.submit(HELLO)[0] for _ in range(2)]
    wait_for("a worker that takes no jobs", lambda: stack.redis.client.hget(key, "drain") == b"1", 30)
    assert b"backend: " in stack.redis.client.hget(key, "why")
    assert "event=backend.broken" in stack.vmm.text()
    draining = stack.tango.ok("GET", "/pool/test/")["draining"]
    assert draining[stack.vmm.env["MILONGA_VMM_NAME"]].startswith("backend: "), draining
    wait_for("a second probe", lambda: stack.vmm.text().count("event=backend.probe_failed") >= 3, 30)
    assert all(stack.tango.job(j)[1] is False for j in jobs)
    crun.set(False)
    for j in jobs:
        entry = stack.tango.wait_dead(j, 70)
        assert messages(entry)[-1] == DONE, messages(entry)
        assert field(stack, j, "c") == 0
    assert stack.redis.client.hget(key, "drain") == b"0"
    assert "draining" not in stack.tango.ok("GET", "/pool/test/")
    stack.stop()


def test_memory_kill_of_a_child_is_told(make_stack):
    """Also when the job goes on without it and says that all is well."""
    stack = make_stack(driver="oci")
    entry, feedback = stack.tango.run("autograde:\n\t@head -c 300m /dev/zero | tail -c 250m | wc -c; echo on we go\n",
                                      limits={"memory": 64}, timeout=120)
    assert messages(entry)[-1] == "Error: Job exceeded its memory limit of 64 MB"
    head, _, output = feedback.partition(b"\n---\n")
    assert head.endswith(b"Here is the output from the autograder:")
    assert b"Error: Job exceeded its memory limit of 64 MB\n" in head
    assert b"Job exceeded its memory limit of 64 MB and a program of it was killed\n" in output
    assert feedback.endswith(b"on we go\n")
    stack.stop()
