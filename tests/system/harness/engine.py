"""A container engine of our own: its images survive in the cache, everything else goes with it."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess

import pytest

from . import image
from .process import Process, plain_env, wait_for


class Engine:
    def __init__(self, directory):
        if not shutil.which("dockerd") or not shutil.which("docker") or os.geteuid() != 0:
            pytest.skip("needs root, dockerd and docker")
        self.dir = directory  # short: sockets are in it
        self.url = f"unix://{directory}/docker.sock"
        self.home = image.CACHE / "docker"
        self.group = f"/mt{os.getpid()}engine"
        self.process = Process("dockerd", [
            "dockerd", "-H", self.url, "--data-root", self.home, "--exec-root", directory / "exec",
            "-p", directory / "pid", "--bridge=none", "--iptables=false", "--ip6tables=false",
            "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false", "--cgroup-parent", self.group],
            plain_env(), str(directory / "dockerd.log"))

    def docker(self, *args, timeout=120):
        done = subprocess.run(["docker", "-H", self.url, *map(str, args)], capture_output=True, text=True,
                              timeout=timeout)
        assert done.returncode == 0, f"docker {args[0]}: {done.stderr}"
        return done.stdout

    def answers(self):
        assert self.process.running(), self.process.tail()
        return subprocess.run(["docker", "-H", self.url, "version"], capture_output=True).returncode == 0

    def start(self):
        # Two daemons must not share a data root; the other test run's ends soon enough.
        self.home.mkdir(parents=True, exist_ok=True)
        self.lock = open(image.CACHE / "engine.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            self.process.start()
            wait_for("dockerd", self.answers, 30, 0.1)
        except AssertionError as e:
            self.stop()
            pytest.skip(f"no engine here: {e}")
        return self

    def load(self, tar):
        have = json.loads(self.docker("image", "inspect", image.NAME)) if image.NAME in self.docker(
            "images", "--format", "{{.Repository}}").split() else []
        mark = f"{tar.stat().st_mtime_ns}"
        if not have or have[0]["Comment"] != mark:
            self.docker("import", "-m", mark, "-c", "WORKDIR /home", tar, image.NAME, timeout=300)

    def stop(self):
        if self.process.running():
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                for ident in self.docker("ps", "-aq").split():
                    self.docker("rm", "-f", ident)
            self.process.stop(30)
        self.lock.close()
        for top in os.listdir("/sys/fs/cgroup"):
            base = f"/sys/fs/cgroup/{top}{self.group}"
            for d, _, _ in os.walk(base, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(d)
