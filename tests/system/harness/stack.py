"""An installation: Redis, api replicas, a dispatcher (and standby), vmms, all on this host."""

import contextlib
import os
import pathlib
import signal
import subprocess

import pytest

from . import clean, image
from .process import Process, free_port, plain_env, wait_for
from .redis_server import Redis
from .tango import Tango

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = (ROOT / os.environ.get("MILONGA_BUILD", "build")).resolve()

# Short, so that a lost process is noticed soon; long enough for a busy two-core machine.
QUICK = {
    "beat_ms": "200ms", "lease_ms": "2s", "leader_lease_ms": "1500ms", "retry_base_ms": "100ms",
    "callback_delay_ms": "200ms", "callback_timeout_ms": "3s", "callback_connect_timeout_ms": "1s",
    "callback_retry_cap_ms": "1s", "reap_interval_ms": "1s", "pipe_lease_ms": "3s", "pool_size": "0",
    "redis_timeout_ms": "2s", "dup_window_ms": "0", "log_level": "info", "slots": "4",
    "listen_host": "127.0.0.1", "wish_wait_ms": "10s",
}
_count = 0


def need(*names):
    missing = [n for n in names if not (BUILD / n).exists()]
    if missing:
        pytest.skip(f"not built: {', '.join(missing)}")


class Stack:
    def __init__(self, directory, driver="null", apis=1, dispatchers=1, vmms=1, **settings):
        global _count
        _count += 1
        need("milonga-api", "milonga-dispatcher", "milonga-vmm", "autodriver")
        self.image = "null" if driver == "null" else image.NAME
        self.dir, self.driver = directory, driver
        self.name = f"mt{os.getpid()}x{_count}"
        self.data = directory / "data"
        self.data.mkdir()
        self.redis = Redis(directory)
        self.settings = dict(QUICK, driver=driver, data_dir=self.data, redis_url=self.redis.url,
                             deployment=self.name, prefix="local", cgroup_parent=self.name,
                             autodriver=BUILD / "autodriver")
        if driver == "oci":
            self.settings.update(oci_host_image="yes", oci_host_image_alias=image.NAME)
        self.settings.update(settings)
        self.ports = [free_port() for _ in range(apis)]
        self.apis = [self._service("api", i, port=p) for i, p in enumerate(self.ports)]
        self.dispatchers = [self._service("dispatcher", i) for i in range(dispatchers)]
        self.vmms = [self._service("vmm", i, vmm_name=f"{self.name}v{i}") for i in range(vmms)]
        self.tangos = [Tango(p, image=self.image) for p in self.ports]

    def _service(self, what, number, **more):
        env = {f"MILONGA_{k.upper()}": v for k, v in {**self.settings, **more}.items()}
        name = f"{what}{number}"
        return Process(name, [BUILD / f"milonga-{what}"], plain_env(**env),
                       str(self.dir / f"{name}.log"))

    @property
    def api(self):
        return self.apis[0]

    @property
    def dispatcher(self):
        return self.dispatchers[0]

    @property
    def vmm(self):
        return self.vmms[0]

    @property
    def tango(self):
        return self.tangos[0]

    @property
    def processes(self):
        return [*self.apis, *self.dispatchers, *self.vmms]

    def import_image(self, tar, name=image.NAME):
        env = plain_env(MILONGA_DATA_DIR=self.data)
        done = subprocess.run([BUILD / "milonga", "image", "import", tar, "--name", name], env=env,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def start(self):
        try:
            self.redis.start()
            for p in self.processes:
                p.start()
            for t in self.tangos:
                self.wait_api(t)
            self.wait_image()
            wait_for("a dispatcher in charge", lambda: self.redis.client.hexists("{milonga}:meta", "id_limit"))
        except AssertionError as e:
            report = self.report()
            self.stop_hard()
            raise AssertionError(f"{e}\n{report}") from None
        return self

    def wait_api(self, tango=None):
        wait_for("api", (tango or self.tango).up, 20)

    def wait_image(self, timeout=30):
        """An image that is known is the sign of a registered vmm."""
        def known():
            dead = [p.tail() for p in self.processes if not p.running()]
            if dead:
                pytest.fail("ended early:\n" + "\n".join(dead))
            return self.redis.client.hexists("{milonga}:img", self.image)
        wait_for(f"image {self.image} of a vmm", known, timeout)

    def report(self):
        return "\n".join(p.tail() for p in [*self.processes, self.redis.process])

    def stop_hard(self):
        for p in [*self.processes, self.redis.process]:
            p.kill()

    def stop(self):
        """The ordinary stop, in the order in which nobody misses another. A vmm drains at the first
        TERM, and hands back at the second what a test left running."""
        try:
            for v in self.vmms:
                if v.running():
                    told = self.stops(v)
                    v.signal(signal.SIGTERM)
                    # Two that it has not read yet are one: the second goes when the first was heard.
                    wait_for(f"{v.name} hears SIGTERM", lambda v=v, told=told: not v.running() or self.stops(v) > told, 20)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        v.child.wait(0.5)
            codes = {p.name: p.stop() for p in [*self.vmms, *self.dispatchers, *self.apis]}
        finally:
            self.stop_hard()
        return codes

    @staticmethod
    def stops(vmm):
        text = vmm.text()
        return text.count("vmm.drains") + text.count("vmm.leaves") - text.count("vmm.leaves_late")

    def leftovers(self):
        return clean.leftovers(self)

    def wait_clean(self, timeout=15):
        """Nothing of any machine is left on this host, as the system itself tells it."""
        last = []

        def nothing():
            last[:] = self.leftovers()
            return not last
        try:
            wait_for("a clean machine", nothing, timeout, 0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}: {last}") from None

    def sane(self):
        """What no test may leave behind in a log: a sanitizer's report or a failed assertion."""
        for p in self.processes:
            text = p.text()
            for bad in ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer",
                        "Assertion `", "LeakSanitizer", "script_error"):
                assert bad not in text, p.tail(60)


@contextlib.contextmanager
def installations(work_dir):
    """A function that starts one more, of these settings; all are stopped, and looked after, at the end."""
    stacks = []

    def make(**settings):
        started = settings.pop("start", True)
        directory = work_dir / str(len(stacks))
        directory.mkdir()
        stack = Stack(directory, **settings)
        stacks.append(stack)
        return stack.start() if started else stack
    yield make
    problems = []
    for stack in reversed(stacks):
        try:
            stack.stop()
            stack.wait_clean()
            stack.sane()
        except AssertionError as e:
            problems.append(f"{e}")
            stack.stop_hard()
        clean.remove_groups(stack)
    assert not problems, "\n".join(problems)
