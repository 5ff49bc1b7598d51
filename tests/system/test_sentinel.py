"""Redis fails over by Sentinel, under load: three of each, hosts of their own. What was accepted is done, once; the judge of the
chaos runs (tests/chaos/check.py) says so. A master that was replaced is not written to any more."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time

import pytest

from harness import sentinels
from harness.process import wait_for

CHAOS = pathlib.Path(__file__).resolve().parents[1] / "chaos"
sys.path.insert(0, str(CHAOS))

import chaos  # noqa: E402
import rig  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sentinels.usable(), reason="needs root, unshare, ip and redis-server")]


def kill(master):
    master.sentinel.kill()
    master.process.kill()


def start(master):
    master.process.start()
    master.sentinel.start()


FAULTS = {"killed": (kill, start), "cut off from all": (lambda m: m.cut(), lambda m: m.heal()),
          "cut off from the others, not from us": (lambda m: m.part(), lambda m: m.join())}


class Installation:
    def __init__(self, directory):
        self.dir = directory
        self.redis = sentinels.Sentinels(directory)
        try:
            self.stack = chaos.rig.Stack(directory, driver="null", apis=2, dispatchers=2, vmms=2, redis_url=self.redis.url,
                                         **{**chaos.SETTINGS, "slots": "8", "redis_replicas": "1", "collect_grace_s": "10s",
                                            "collect_interval_s": "2s", "collect_quiet_s": "0"})
            self.stack.redis = self.redis
            self.history = rig.History(directory / "history.jsonl")
            self.history.add("begin", driver="null", prefix=rig.PREFIX, job_retries=2, pipe_lease_ms=3000)
            self.receiver = rig.Receiver(self.history)
            self.stack.start()
        except BaseException:
            self.redis.kill()
            raise
        self.load = chaos.Load(self.history, self.stack, self.receiver, "null", 1, 10 ** 9)
        self.load.threads = self.load.threads[:4]

    def accepted(self):
        """Waits for a job that is asked for from now on."""
        rig_client = rig.Client(self.history, self.stack.ports, self.stack.image)
        req = f"now{time.monotonic_ns()}"
        assert rig_client.submit(req, self.receiver.url(req), "0.mk"), "nothing is accepted"
        wait_for(f"the callback of {req}", lambda: req in self.receiver.whole, 60)

    def verdict(self):
        rig.dump(self.stack, self.dir / "final.json")
        return subprocess.run([sys.executable, CHAOS / "check.py", self.dir], capture_output=True, text=True)

    def judge(self):
        self.load.stop()
        rig.settle(self.stack, 90)
        self.history.flush()
        self.stack.sane()
        # Feedback whose commit went with the old master is nobody's, and goes by itself.
        with contextlib.suppress(AssertionError):
            wait_for("the collector", lambda: "left in the store" not in self.verdict().stdout, 60, 1)
        done = self.verdict()
        print(done.stdout[-3000:])
        assert done.returncode == 0, done.stdout[-3000:]

    def stop(self):
        self.load.quit.set()
        self.receiver.stop()
        self.stack.stop_hard()
        self.redis.kill()


@pytest.fixture
def installation(tmp_path_factory, work_dir):
    directory = work_dir / f"sentinel{time.monotonic_ns()}"
    directory.mkdir()
    i = Installation(directory)
    yield i
    i.stop()


@pytest.mark.parametrize("fault", list(FAULTS))
def test_invariant_4_a_failover_loses_no_accepted_job(installation, fault):
    break_, mend = FAULTS[fault]
    redis, old = installation.redis, installation.redis.wait_whole()
    installation.load.start()
    wait_for("load", lambda: len(installation.receiver.whole) > 20, 60)
    began = time.monotonic()
    break_(old)
    new = redis.wait_master(but=old)
    named = time.monotonic() - began
    installation.accepted()
    print(f"{fault}: another master after {named:.1f} s, a job accepted by it and done after {time.monotonic() - began:.1f} s")
    mend(old)
    wait_for("the old master to follow", lambda: old.follows(new), 60, 0.1)
    installation.accepted()
    installation.judge()
    assert redis.wait_whole() is new


def test_a_job_that_no_replica_has_is_not_promised(installation):
    """Both replicas gone: Redis takes no writes, and what it may have taken before it noticed is not answered with yes."""
    redis, master = installation.redis, installation.redis.wait_whole()
    tango = installation.stack.tango
    installation.load.start()
    wait_for("load", lambda: len(installation.receiver.whole) > 20, 60)
    installation.load.stop()
    others = master.others()
    for n in others:
        n.sentinel.kill()
        n.process.kill()
    lab = rig.LAB
    answer = tango.json("POST", f"/addJob/{tango.key}/{lab}/", data=json.dumps(tango.body("none", files=[("0.mk", "Makefile")])))
    assert answer["statusId"] == -1 and "replicas" in answer["statusMsg"].lower() or "NOREPLICAS" in answer["statusMsg"], answer
    for n in others:
        n.process.start()
        n.sentinel.start()
    redis.wait_whole()
    installation.accepted()
