"""docker-compose.yml brought up for real: on an engine that has a network namespace of its own, with a bridge and published
ports, and reaches Debian's archive (for the images) by slirp4netns. The host's own network and firewall are not touched."""

import contextlib
import json
import os
import shutil
import socket
import subprocess

import pytest

from . import image
from .engine import Dockerd
from .process import Process, free_port, plain_env, wait_for
from .stack import ROOT

PROJECT = "milongatest"
GUEST = "10.0.2.100"  # what slirp4netns gives the namespace
DNS = "10.0.2.3"


class BridgedEngine(Dockerd):
    def __init__(self, directory):
        missing = [p for p in ("slirp4netns", "docker-compose", "unshare", "iptables") if not shutil.which(p)]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}")
        super().__init__(directory, "dockerd-compose")
        dockerd = ["dockerd", "-H", self.url, "--data-root", self.home, "--exec-root", directory / "exec",
                   "-p", directory / "pid", "--bip=172.31.250.1/24", f"--dns={DNS}", "--userland-proxy=false",
                   "--default-address-pool=base=172.30.0.0/16,size=24", "--cgroup-parent", self.group]
        self.process.argv = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                             *map(str, dockerd)]
        self.slirp = None

    def start(self):
        super().start()
        api = self.dir / "slirp.sock"
        self.slirp = Process("slirp4netns", [
            "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--api-socket", api,
            self.process.pid, "tap0"], plain_env(), str(self.dir / "slirp.log"))
        self.slirp.start()
        wait_for("slirp4netns", api.exists, 20)
        return self

    def publish(self, port):
        """A port of this host that leads to that port of the engine's."""
        here = free_port()
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.dir / "slirp.sock"))
            s.sendall(json.dumps({"execute": "add_hostfwd", "arguments": {
                "proto": "tcp", "host_addr": "127.0.0.1", "host_port": here, "guest_addr": GUEST,
                "guest_port": port}}).encode())
            s.shutdown(socket.SHUT_WR)
            answer = s.makefile().read()
        assert '"error"' not in answer, answer
        return here

    def stop(self):
        if self.slirp:
            self.slirp.kill()
        super().stop()


class Compose:
    def __init__(self, engine, **env):
        self.engine = engine
        self.env = plain_env(DOCKER_HOST=engine.url, DOCKER_BUILDKIT=0, MILONGA_BASE=image.NAME,
                             DOCKER_SOCKET=engine.socket, COMPOSE_PROJECT_NAME=PROJECT,
                             MILONGA_IMAGE="milonga-under-test", **env)

    def run(self, *args, timeout=300, check=True):
        done = subprocess.run(["docker-compose", "-f", ROOT / "docker-compose.yml", *map(str, args)], env=self.env,
                              cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"docker-compose {args}: {done.stderr[-2000:]}\n{self.report()}"
        return done.stdout

    def build(self):
        # The stage that compiles gets a name as well, or what it installed would be fetched again next time.
        done = subprocess.run(["docker", "build", "-q", "--target", "build", "--build-arg", f"BASE={image.NAME}",
                               "--build-arg", "VERSION=compose", "-t", "milonga-under-test-build", ROOT], env=self.env, capture_output=True,
                              text=True, timeout=1800)
        if done.returncode and "The command '/bin/sh -c apt-get update" in done.stderr:
            pytest.skip(f"Debian's archive is out of reach: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        self.run("build", timeout=1800)
        self.engine.docker("image", "prune", "-f", timeout=900)

    def up(self, **scale):
        self.run("up", "-d", "--no-build", *(f"--scale={k}={v}" for k, v in scale.items()))

    def containers(self, service, everything=False):
        ids = self.engine.docker("ps", "-q", "--no-trunc", *(["-a"] if everything else []),
                                 "--filter", f"label=com.docker.compose.project={PROJECT}",
                                 "--filter", f"label=com.docker.compose.service={service}").split()
        return [json.loads(self.engine.docker("inspect", i))[0] for i in ids]

    def healthy(self, service, count):
        def all_healthy():
            found = self.containers(service)
            return len(found) == count and all(c["State"].get("Health", {}).get("Status") == "healthy" for c in found)
        wait_for(f"{count} healthy {service}", all_healthy, 120, 0.5)

    def key(self):
        return self.run("run", "--rm", "init", "key").split()[-1]

    def volume(self, name):
        """The files of a volume, as this host sees them."""
        return self.engine.home / "volumes" / f"{PROJECT}_{name}" / "_data"

    def down(self):
        self.run("down", "-v", "--timeout", "60")

    def leftovers(self):
        mine = f"label=com.docker.compose.project={PROJECT}"
        left = [f"container {x}" for x in self.engine.docker("ps", "-aq").split()]
        left += [f"volume {x}" for x in self.engine.docker("volume", "ls", "-q", "--filter", mine).split()]
        left += [f"network {x}" for x in self.engine.docker("network", "ls", "-q", "--filter", mine).split()]
        for top in os.listdir("/sys/fs/cgroup"):
            for d, _, files in os.walk(f"/sys/fs/cgroup/{top}{self.engine.group}"):
                if "cgroup.procs" in files:
                    with contextlib.suppress(OSError), open(f"{d}/cgroup.procs") as f:
                        left += [f"process {x} in {d}" for x in f.read().split()]
        return left

    def report(self):
        done = subprocess.run(["docker-compose", "-f", ROOT / "docker-compose.yml", "logs", "--no-color", "--tail=15"],
                              env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.stdout[-8000:] + self.engine.process.tail(20)
