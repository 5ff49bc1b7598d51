"""Container engines of our own: their images survive in the cache, everything else goes with them."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from . import guard, image
from .process import Process, free_port, plain_env, wait_for

_count = 0


class Engine:
    """What both have: the Engine API on a unix socket, spoken to by Docker's command."""

    programs = ()
    no_quota = True  # overlay on whatever the cache lies on; asked of the engine where it matters

    def __init__(self, directory, home):
        global _count
        _count += 1
        missing = [p for p in ("docker", *self.programs) if not shutil.which(p)]
        if missing or os.geteuid() != 0:
            pytest.skip(f"needs root and {', '.join(('docker', *self.programs))}")
        self.dir = directory  # short: sockets are in it
        self.socket = directory / "engine.sock"
        self.url = f"unix://{self.socket}"
        self.home = image.CACHE / home
        self.group = f"/mt{os.getpid()}engine{_count}"
        self.lock = None

    def docker(self, *args, timeout=120):
        done = subprocess.run(["docker", "-H", self.url, *map(str, args)], capture_output=True, text=True,
                              timeout=timeout)
        assert done.returncode == 0, f"docker {args[0]}: {done.stderr}"
        return done.stdout

    def answers(self):
        assert self.process.running(), self.process.tail()
        return subprocess.run(["docker", "-H", self.url, "version"], capture_output=True).returncode == 0

    def start(self):
        # Two must not share a home; the other test run's ends soon enough.
        self.home.mkdir(parents=True, exist_ok=True)
        self.lock = image.lock(self.home.name)
        guard.guard.mounts(self.home)
        try:
            self.clear()
            self.process.start()
            wait_for(self.process.name, self.answers, 30, 0.1)
            self.remove_containers()
        except AssertionError as e:
            self.stop()
            pytest.skip(f"no engine here: {e}")
        return self

    def clear(self):
        """What a run that was killed has left in this home."""

    def load(self, tar):
        have = json.loads(self.docker("image", "inspect", image.NAME)) if image.NAME in self.docker(
            "images", "--format", "{{.Repository}}").replace("docker.io/library/", "").split() else []
        mark = f"{tar.stat().st_mtime_ns}"
        if not have or have[0]["Comment"] != mark:
            self.docker("import", "-m", mark, "-c", "WORKDIR /home", tar, image.NAME, timeout=300)

    def remove_containers(self):
        for ident in self.docker("ps", "-aq").split():
            self.docker("rm", "-f", ident)

    # ---- what vmms have there ----

    def machines(self):
        return self.docker("ps", "-q", "--no-trunc", "--filter", "label=milonga.machine").split()

    def kill_machines(self):
        """As its kernel might: the first process of each, and the engine hears of it from there. How many there were."""
        running = self.docker("ps", "-q", "--no-trunc").split()
        pids = [int(self.docker("inspect", "-f", "{{.State.Pid}}", ident)) for ident in running]
        for pid in filter(None, pids):
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    def dangling(self):
        return set(self.docker("images", "-q", "--filter", "dangling=true").split())

    def remember(self):
        """What is there before any vmm comes."""
        self.known = self.dangling()

    def leftovers(self):
        """What no vmm may leave on an engine: all but one volume for each name that a vmm had."""
        return (self.docker("ps", "-aq", "--filter", "label=milonga.vmm").split() +
                self.docker("images", "-q", "milonga-autodriver").split() + list(self.dangling() - self.known))

    # ---- its end ----

    def revive(self):
        """After its process was killed, as a service manager would: again until it holds, since what that one had started
        may be in its way."""
        def answers():
            if not self.process.running():
                (self.dir / "pid").unlink(missing_ok=True)
                self.process.start()
            return self.process.running() and self.answers()
        wait_for(self.process.name, answers, 60, 0.2)

    def stop(self):
        if self.process.running():
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.remove_containers()
            self.process.stop(30)
        self.lock.close()
        for group in guard.cgroups(self.group.strip("/")):
            with contextlib.suppress(OSError):
                group.rmdir()


class Dockerd(Engine):
    name, programs = "docker", ("dockerd",)

    def __init__(self, directory, home="dockerd", args=()):
        super().__init__(directory, home)
        self.process = Process("dockerd", [
            "dockerd", "-H", self.url, "--data-root", self.home, "--exec-root", directory / "exec",
            "-p", directory / "pid", "--bridge=none", "--iptables=false", "--ip6tables=false",
            "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false", "--cgroup-parent", self.group, *args],
            plain_env(), str(directory / "dockerd.log"))

    def clear(self):
        """By what names this home: the daemon's arguments, and the containers that it knows (their shims and groups)."""
        known = [p.name for p in (self.home / "containers").glob("*")]
        doomed = set()
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                args = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if str(self.home) in args or any(k in args for k in known):
                    doomed.add(int(proc.name))
        for group in guard.CGROUPS.glob("*/mt*engine*/*"):
            if group.name in known:
                doomed.update(map(int, (group / "cgroup.procs").read_text().split()))
        for pid in doomed:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        wait_for("an end of an earlier engine", lambda: not any(os.path.exists(f"/proc/{p}/exe") and
                                                                 self._lives(p) for p in doomed))
        guard.unmount(self.home)

    @staticmethod
    def _lives(pid):
        with contextlib.suppress(OSError):
            return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
        return False


class DockerdTls(Dockerd):
    """That listens on a port, too, for those whose certificate is of the Pki's."""

    def __init__(self, directory, pki, home="dockerd-tls"):
        self.port = free_port()
        super().__init__(directory, home, [
            "-H", f"tcp://127.0.0.1:{self.port}", "--tlsverify", "--tlscacert", pki.own.ca, "--tlscert", pki.server[0], "--tlskey",
            pki.server[1]])

    def line(self, address, ca, cert, key, options):
        """For docker_host."""
        return f"tls tcp://{address}:{self.port} ca={ca} cert={cert} key={key} {options}"


CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
[network]
network_backend = "cni"
network_config_dir = "{dir}"
"""


class Podman(Engine):
    """Its service under Docker's API. runc, because crun refuses the hybrid groups that a CI machine may have."""

    name, programs = "podman", ("podman", "runc")

    def __init__(self, directory, home="podman"):
        super().__init__(directory, home)
        conf = directory / "containers.conf"
        conf.write_text(CONTAINERS_CONF.format(dir=directory))
        # it leaves archives that it could not load where temporary files go
        self.env = plain_env(CONTAINERS_CONF=conf, TMPDIR=directory)
        # all in the home: its database insists on the folders that it was made with
        self.podman = ["podman", "--root", self.home / "root", "--runroot", self.home / "run", "--tmpdir",
                       self.home / "tmp", "--storage-driver", "overlay"]
        self.process = Process("podman", [*self.podman, "system", "service", "--time=0", self.url], self.env,
                               str(directory / "podman.log"), cwd=directory)  # where its conmon leaves files, too

    def clear(self):
        # a container's processes belong to no daemon, so only podman knows them
        remove = [*self.podman, "rm", "-f", "-a", "-t", "0"]
        guard.guard.command(self.env, *remove)
        subprocess.run(list(map(str, remove)), env=self.env, capture_output=True, timeout=60)

    def stop(self):
        super().stop()
        for group in guard.cgroups("libpod_parent"):
            with contextlib.suppress(OSError):  # only what is empty
                group.rmdir()


@contextlib.contextmanager
def running(kind, *args, **more):
    """One of that kind in a directory of its own, with the grading image."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mte."))
    guard.guard.directory(directory)
    tar = image.tarball()
    e = kind(directory, *args, **more).start()
    try:
        e.load(tar)
        yield e
    finally:
        e.stop()
        shutil.rmtree(directory, ignore_errors=True)
