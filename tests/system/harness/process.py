"""Processes that a test starts, each with its log, ended by pid and never by name."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from . import guard


def wait_for(what, condition, timeout=20.0, pause=0.02):
    """The first true value of condition(); a failure that says what did not come."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)


def own_address():
    """One of this host's that is not its loopback; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but its loopback")
        return s.getsockname()[0]


@contextlib.contextmanager
def short_directory():
    """Short, since unix sockets lie in it; pytest's own tmp_path is too long for them."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mt."))
    path.chmod(0o755)
    guard.guard.directory(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_stopped(pid):
    """Is every thread of it stopped? SIGSTOP comes to each when it is next on its way out of the kernel."""
    try:
        stats = [p.read_text() for p in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return bool(stats) and all(s.rpartition(") ")[2][0] == "T" for s in stats)


class Process:
    """A program in a session of its own, so that a signal to it reaches nothing of ours."""

    def __init__(self, name, argv, env, log, cwd=None):
        self.name, self.argv, self.env, self.log, self.cwd = name, [str(a) for a in argv], env, log, cwd
        self.child = None

    def start(self):
        assert not self.running(), f"{self.name} runs already"
        guard.guard.start()
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.argv, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        return self

    def running(self):
        return self.child is not None and self.child.poll() is None

    def stopped(self):
        return is_stopped(self.pid)

    @property
    def pid(self):
        return self.child.pid

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        """kill -9, the way a machine loses a process."""
        if self.running():
            self.child.kill()
        if self.child:
            self.child.wait()

    def stop(self, timeout=20):
        """The ordinary end; a service that does not take it is killed, and that is a failure."""
        if not self.running():
            return self.child.returncode if self.child else 0
        self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {timeout} s of SIGTERM\n{self.tail()}")

    def text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def tail(self, lines=30):
        return f"--- {self.name}\n" + "\n".join(self.text().splitlines()[-lines:])


def plain_env(**more):
    """An environment with nothing of the caller's own but where programs are and sanitizers' options, and the run's mark."""
    keep = ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS")
    env = {k: os.environ[k] for k in keep if k in os.environ}
    env.update(TZ="UTC", LANG="C.UTF-8", HOME="/root", **{guard.MARK: guard.mark()})
    env.update({k: str(v) for k, v in more.items()})
    return env
