"""The tests' own promises: nothing outlives a run, not even one that is killed, and nobody skips unseen."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from harness import guard, image
from harness.process import wait_for

HERE = pathlib.Path(__file__).parent

# What a test run does, up to where it would go on with something alive; says what must not stay.
BEGIN = """
import os, pathlib, subprocess, sys, tempfile, time
sys.path.insert(0, {here!r})
from harness import engine, guard, stack
directory = pathlib.Path(tempfile.mkdtemp(prefix="mt."))
directory.chmod(0o755)
guard.guard.directory(directory)
"""
END = """
print(guard.mark(), os.getpid(), directory, flush=True)
time.sleep(600)
"""
STACK = """
s = stack.Stack(directory, driver="oci").start()
ident, lab, output = s.tango.submit("autograde:\\n\\t@echo on; sleep 500\\n")
s.tango.wait_output(ident, "on")
"""
ENGINE = """
e = engine.{kind}(directory, home="{home}").start()
root = directory / "root"
root.mkdir()
subprocess.run(["cp", "/bin/busybox", root / "busybox"], check=True)
subprocess.run(["tar", "-C", root, "-cf", directory / "i.tar", "."], check=True)
e.docker("import", directory / "i.tar", "sleeper")
e.docker("create", "--name", "sleeper", "--network", "none", "--ulimit", "nofile=1024", "--ulimit", "nproc=1000", "sleeper",
         "/busybox", "sleep", "543")
e.docker("start", "sleeper")
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def run_and_kill(body):
    """(mark, pid, directory) of a run that came to its end by SIGKILL."""
    text = BEGIN.format(here=str(HERE)) + body + END
    p = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    p.send_signal(signal.SIGKILL)
    if not line:
        pytest.fail(p.stderr.read())
    p.stdout.close()
    mark, pid, directory = line.split()
    return mark, pid, pathlib.Path(directory), p


def alive(mark, pid):
    return guard.processes(mark, f"mt{pid}x") | guard.processes(mark, f"mt{pid}engine")


def groups(pid):
    return [*guard.cgroups(f"mt{pid}x"), *guard.cgroups(f"mt{pid}engine")]


def test_a_killed_run_takes_its_installation_along():
    mark, pid, directory, p = run_and_kill(STACK)
    wait_for("an end of all that it started", lambda: not alive(mark, pid) and not groups(pid) and not directory.exists(), 30)
    assert not guard.mounts(directory)
    assert "milonga-vmm" in p.stderr.read()  # it is named, too


@pytest.mark.parametrize("kind", ["Dockerd", "Podman"])
def test_a_killed_run_takes_its_engine_along(kind):
    home = f"guard-{kind}"
    body = ENGINE.format(kind=kind, home=home)

    def sleeper():
        return [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if _read(p) == b"/busybox\0sleep\0" + b"543\0"]
    try:
        mark, pid, directory, _ = run_and_kill(body)
        wait_for("an end of all that it started", lambda: not alive(mark, pid) and not groups(pid) and not sleeper(), 40)
        wait_for("no mounts", lambda: not guard.mounts(image.CACHE / home) and not directory.exists(), 20)
        # and the next run has its way, under the same name
        mark, pid, directory, _ = run_and_kill(body)
        wait_for("an end of all that it started", lambda: not alive(mark, pid) and not sleeper(), 40)
        wait_for("no mounts", lambda: not guard.mounts(image.CACHE / home) and not directory.exists(), 20)
    finally:
        if guard.unmount(image.CACHE / home):
            shutil.rmtree(image.CACHE / home, ignore_errors=True)
            (image.CACHE / f"{home}.lock").unlink()


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_who_waits_for_the_cache_says_for_whom():
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); from harness import image; image.lock('harness-test')"
    held = image.lock("harness-test")
    p = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        line = next(text for text in p.stderr if text.strip())
        assert "harness-test.lock" in line and f"held by pid {os.getpid()}" in line
        assert p.poll() is None
    finally:
        held.close()
        assert p.wait(20) == 0
        (image.CACHE / "harness-test.lock").unlink()


@pytest.mark.parametrize("strict, code", [("0", 0), ("1", 1)])
def test_a_skip_is_a_failure_where_that_is_asked_for(tmp_path, strict, code):
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text().replace(
        "pathlib.Path(__file__).parent", f"pathlib.Path({str(HERE)!r})"))
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.skipif(True, reason='no engine')\ndef test_a():\n    pass\n\n"
        "def test_b():\n    pytest.skip('no package')\n\n@pytest.fixture\ndef lock():\n    pytest.skip('no lock')\n\n"
        "def test_c(lock):\n    pass\n\ndef test_d():\n    pass\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path], capture_output=True,
                          text=True, env=dict(os.environ, MILONGA_NO_SKIP=strict), timeout=60)
    assert done.returncode == code, done.stdout
    assert ("3 skipped" in done.stdout) == (strict == "0")
    if strict == "1":
        assert all(f"no {x}" in done.stdout for x in ("engine", "package", "lock")) and "skipped," in done.stdout
