"""Machines on other hosts."""

from harness import engine, hosts, image
from harness.ec2 import Ec2 as Double, settings as ec2_settings
from harness.pki import Pki

from .kind import Kind, OneHost
from .local import EngineKind

DEAD_MS = 4000


class DockerTls(EngineKind):
    """An engine behind a port, with certificates."""

    name = group = "docker-tls"
    host_name = "tls"
    usable, told = OneHost.usable, Kind.told

    def prepare(self):
        pki = Pki(self.dir / "pki")
        self.engine = self.ends.enter_context(engine.running(engine.DockerdTls, pki))
        self.engine.remember()
        return {"driver": "docker-hosts", "ssh_dead_ms": f"{DEAD_MS}ms",
                "docker_host": self.engine.line("127.0.0.1", pki.own.ca, *pki.client, f"slots={self.slots}")}


class DockerSsh(OneHost):
    """An engine whose socket an sshd forwards."""

    name, group, host_name = "docker-ssh", "dockerd", "far"
    no_network = EngineKind.no_network
    deaths = {"copyin": "cut", "run": "power", "copyout": "machine", "done": "cut"}

    def prepare(self):
        self.engine = self.ends.enter_context(engine.running(engine.Dockerd))
        self.engine.remember()
        self.farm = self.ends.enter_context(hosts.farms(self.dir))(1)
        return {"driver": "docker-hosts", "ssh_dead_ms": f"{DEAD_MS}ms", "ssh_config": "/dev/null", "ssh_known_hosts": self.farm.known_hosts,
                "docker_host": f"far ssh://root@{self.host.address}{self.engine.socket} key={self.farm.key} slots={self.slots}"}

    def attach(self, stack):
        stack.engine_url, stack.farm = self.engine.url, self

    def leftovers(self, keepers):
        """The session that forwards lasts as long as the vmm; what it runs there is cat."""
        return [x for x in self.farm.leftovers(keepers) if not (keepers and x == f"{self.host.name} process cat")]

    def die_machine(self):
        return self.engine.kill_machines()

    def left(self):
        return self.engine.leftovers()


class SshDirect(OneHost):
    """On the host itself, under the autodriver."""

    name = group = "ssh-direct"
    deaths = {"copyin": "cut", "run": "freeze", "copyout": "power", "done": "machine"}
    options = f"images={image.NAME}"

    def prepare(self):
        self.farm = self.ends.enter_context(hosts.farms(self.dir))(1)
        return {"driver": "ssh", "ssh_dead_ms": f"{DEAD_MS}ms", **self.farm.settings(f"slots={self.slots} {self.options}")}

    def attach(self, stack):
        stack.farm = self.farm

    def die_machine(self):
        return self.kill_processes()


class SshContainer(SshDirect):
    """In a container of the host's engine."""

    name, group = "ssh-container", "dockerd"
    no_network = EngineKind.no_network
    deaths = {"copyin": "cut", "run": "machine", "copyout": "power", "done": "cut"}

    def prepare(self):
        self.engine = self.ends.enter_context(engine.running(engine.Dockerd))
        self.engine.remember()
        self.home = self.dir / "host"
        self.home.mkdir(mode=0o711)
        self.options = f"mode=docker dir={self.home}"
        settings = super().prepare()
        self.booted()
        return settings

    def booted(self):
        """The host finds the engine where a host's engine listens."""
        done = self.host.exec("ln", "-sf", self.engine.socket, "/run/docker.sock")
        assert done.returncode == 0, done.stderr

    def attach(self, stack):
        super().attach(stack)
        stack.engine_url = self.engine.url

    def die_machine(self):
        return self.engine.kill_machines()

    def left(self):
        return self.engine.leftovers() + self.host.leftovers(str(self.home))


class Ec2(Kind):
    """Instances of the tests' own EC2, real sshd hosts each."""

    name = group = "ec2"
    deaths = {"copyin": "reclaim", "run": "cut", "copyout": "power", "done": "reclaim"}

    def prepare(self):
        self.farm = self.ends.enter_context(hosts.farms(self.dir))(0)
        self.double = Double(self.farm)
        self.ends.callback(self.double.stop)
        return {"driver": "ec2", **ec2_settings(self.farm, ec2_max=self.slots, ec2_idle_s="1h", ec2_reap_ms="2s", ssh_dead_ms=f"{DEAD_MS}ms"),
                "slots": "0"}

    def attach(self, stack):
        stack.farm = self.double
        stack.vmm.env.update(self.double.environment())

    @property
    def here(self):
        return f"{self.farm.net}.1"

    def _busy(self):
        """Instances with machines; of one whose machine has told the end of its job, all that there are."""
        running = [i for i in self.double.alive() if i.state == "running"]
        return [i for i in running if i.host.groups()] or running

    def die_reclaim(self):
        return [self.double.reclaim(i) for i in self._busy()]

    def die_cut(self):
        return [i.host.cut() for i in self._busy()]

    def die_power(self):
        return [i.host.power_off() for i in self._busy()]

    def left(self):
        return [f"instance {i.id}" for i in self.double.alive()]
