"""Machines on the vmm's own host."""

import os
import signal

from harness import clean, engine, image

from .kind import Kind


class EngineKind(Kind):
    """Of one engine's, which may be killed."""

    engine_class = None
    no_network = "the tests' engines have no bridge"
    deaths = {"copyin": "machine", "run": "engine", "copyout": "machine", "done": "machine"}

    def prepare(self):
        self.engine = self.ends.enter_context(engine.running(self.engine_class))
        self.engine.remember()
        return {"driver": "docker", "docker_url": self.engine.url}

    def attach(self, stack):
        stack.engine_url = self.engine.url

    def die_machine(self):
        return self.engine.kill_machines()

    def die_engine(self):
        self.engine.process.kill()
        return self.engine.revive

    def left(self):
        return self.engine.leftovers()


class Docker(EngineKind):
    name, group, engine_class = "docker", "dockerd", engine.Dockerd


class Podman(EngineKind):
    name, group, engine_class = "podman", "podman", engine.Podman
    no_network, network_untried = None, "podman would lay a bridge and packet filters on this machine"


class Oci(Kind):
    name = group = "oci"

    def prepare(self):
        return {"driver": "oci", "oci_host_image": "no", "oci_host_image_alias": "", "oci_network": "slirp"}

    def attach(self, stack):
        stack.import_image(image.tarball())

    def die_machine(self):
        pid = clean.machine(self.stack)
        if pid:
            os.kill(pid, signal.SIGKILL)
        return pid
