"""A kind of machine: an installation with that driver, and what only the kind knows: where its machines are, how they die,
and what may not be there afterwards. The cases (test_kinds.py) know no driver.

A new kind is a class here or beside it, and a line in kinds/all.py.
"""

import contextlib
import os
import signal

from harness.process import own_address, short_directory, wait_for
from harness.stack import installations
from harness.v1 import V1

# Where the vmm stands still, by its crash points, while its machine dies: (name, passing). In `run` it need not: a job prints.
STEPS = {
    "copyin": ("vmm.files.after", 3),
    "copyout": ("vmm.output.after", 5),
    "done": ("vmm.copyout.before", 1),
}
# A vmm that stands still for the time of a test is not to be taken for lost.
SETTINGS = {"lease_ms": "15s", "pipe_lease_ms": "5s", "retry_cap_ms": "4s", "job_memory_mb": "128", "job_pids": "60"}


class Kind:
    name = None
    group = None  # those of one group share a store of images, and so take turns (pytest-xdist)
    slots = 2
    # by which of its die_*() a machine of it dies in each step
    deaths = {"copyin": "machine", "run": "machine", "copyout": "machine", "done": "machine"}

    no_network = None  # why a job that asks for network has nothing but its loopback here
    network_untried = None  # or why that is not tried

    # ---- for a kind to fill in ----

    def prepare(self):
        """Starts what its machines run on, until self.ends; returns the vmm's settings."""
        raise NotImplementedError

    def attach(self, stack):
        """What the stack is told of that, so that its leftovers are found; before its services start."""

    def usable(self):
        """Does the vmm use all there is?"""
        return True

    def die_machine(self):
        """The machine's first process is gone; nothing around it is. Each die_*() says whether there was something to kill, or how
        it is mended, to be called when the vmm goes on."""
        raise NotImplementedError

    def left(self):
        """What is still there after the vmm's end, beside what clean.leftovers() finds."""
        return []

    @property
    def here(self):
        """An address of this machine, as a job calls it that has network."""
        return own_address()

    # ---- for the cases ----

    def __init__(self):
        self.ends = contextlib.ExitStack()
        self.stack = self.dir = self.mark = None

    def start(self):
        try:
            self.dir = self.ends.enter_context(short_directory())
            settings = self.prepare()
            make_stack = self.ends.enter_context(installations(self.dir))
            self.stack = make_stack(start=False, **{**SETTINGS, "slots": str(self.slots), **settings})
            self.attach(self.stack)
            self.stack.vmm.env["MILONGA_CRASH"] = ";".join(f"{name},{nth},pause,{self.dir}/{step}" for step, (name, nth) in STEPS.items())
            self.stack.start()
        except BaseException:
            self.ends.close()
            raise
        return self

    def stop(self):
        self.ends.close()

    def settle(self):
        """As a case wants to find it, also after one that has failed."""
        if self.stack.vmm.stopped():
            self.stack.vmm.signal(signal.SIGCONT)
        for job in self.stack.tango.jobs(dead=False):
            V1(self.stack.ports[0]).call("POST", f"/v1/jobs/{job['id']}/cancel", want=(200, 202, 409))
        wait_for("an end of earlier jobs", lambda: not self.stack.tango.jobs(dead=False), 60)
        wait_for(f"all of {self.name} to be in use", self.usable, 60, 0.1)

    @contextlib.contextmanager
    def holding(self, step):
        """The vmm stands still where a job comes to that step; the body's end lets it go on."""
        gate = self.dir / step
        gate.touch()
        vmm = self.stack.vmm

        def stands():
            wait_for(f"the vmm at {STEPS[step][0]}", vmm.stopped, 60)
        try:
            yield stands
        finally:
            gate.unlink()
            if vmm.stopped():
                vmm.signal(signal.SIGCONT)

    def die(self, step):
        """How it is mended. An autodriver that has told the end of its job may have ended already."""
        self.mark = len(self.stack.vmm.text())
        done = getattr(self, f"die_{self.deaths[step]}")()
        assert done or step == "done", "there was no machine to die"
        return done if callable(done) else lambda: None

    def told(self, event, host):
        """Lines of the vmm's log about a host, since the last death."""
        return [x for x in self.stack.vmm.text()[self.mark or 0:].splitlines() if f"event=host.{event} host={host} " in x]


class OneHost(Kind):
    """On a single host of a farm, so that nothing else can take the work meanwhile."""

    host_name = "h1"

    def usable(self):
        lines = [x for x in self.stack.vmm.text().splitlines() if f" host={self.host_name} " in x]
        words = [x for x in lines if "event=host.up" in x or "event=host.out" in x]
        return bool(words) and "event=host.up" in words[-1]

    @property
    def host(self):
        return self.farm.hosts[0]

    @property
    def here(self):
        return f"{self.farm.net}.1"

    def _until_out(self):
        wait_for(f"{self.host_name} to be given up", lambda: self.told("out", self.host_name), 30, 0.1)

    def die_cut(self):
        self.host.cut()

        def mend():
            try:
                self._until_out()
            finally:
                self.host.heal()
        return mend

    def die_freeze(self):
        self.host.freeze()

        def mend():
            try:
                self._until_out()
            finally:
                self.host.thaw()
        return mend

    def die_power(self):
        self.host.power_off()

        def mend():
            try:
                self._until_out()
            finally:
                self.host.boot().ready()
                self.booted()
        return mend

    def booted(self):
        """What the host needs after each boot."""

    def kill_processes(self):
        """On the host itself: the first of each machine's control group. How many there were."""
        pids = set()
        for group in self.host.groups():
            with open(f"{group}/cgroup.procs") as f:
                pids.update(sorted(map(int, f.read().split()))[:1])
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)
