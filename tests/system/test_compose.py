"""docker-compose.yml, from nothing to nothing. The tests go through the life of one installation, in this order.

Not in `make test`, for the images take minutes to build: `make compose` and .ci/run run it."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest
import requests

from harness import image
from harness.guard import guard
from harness.compose import PROJECT, BridgedEngine, Compose
from harness.process import wait_for
from harness.stack import ROOT
from harness.tango import Tango

pytestmark = [pytest.mark.compose, pytest.mark.slow, pytest.mark.timeout(2400)]
LAB = "all:\n\t@cat handin.txt\n\t@echo '{\"scores\": {\"p\": 7}}'\n"


@pytest.fixture(scope="module")
def engine():
    tar = image.tarball()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtc."))
    guard.directory(directory)
    e = BridgedEngine(directory).start()
    try:
        e.load(tar)
        yield e
    finally:
        e.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def compose(engine):
    c = Compose(engine)
    c.run("down", "-v", "--timeout", "5")  # of a run that was killed
    c.build()
    try:
        c.up()
        c.healthy("proxy", 1)
        yield c
    except AssertionError as e:
        raise AssertionError(f"{e}\n{c.report()}") from None
    finally:
        c.run("down", "-v", "--timeout", "60", check=False)


@pytest.fixture(scope="module")
def tango(compose, engine):
    t = Tango(engine.publish(3000), key=compose.key())
    wait_for("the published port", t.up, 30)
    wait_for("the vmm's images", lambda: t.json("POST", f"/prealloc/{t.key}/{image.NAME}/0/", data="{}")[
        "statusId"] == 0, 60, 0.5)
    return t


class Load:
    """Callers who do what a frontend does, until stop(); what was not answered rightly is in `failed`."""

    def __init__(self, tango):
        self.tango, self.failed, self.done, self.over = tango, [], 0, threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(i,)) for i in range(4)]
        for t in self.threads:
            t.start()

    def _call(self, number):
        turn = 0
        http = requests.Session()
        http.trust_env = False
        key, base, lab = self.tango.key, self.tango.base, f"load{number}"
        while not self.over.is_set():
            turn += 1
            if turn % 10 == 0:  # an Autolab makes a connection a request, others keep theirs
                http.close()
            calls = [("GET", f"/open/{key}/{lab}/", None, {}),
                     ("POST", f"/upload/{key}/{lab}/", f"{number} {turn}".encode() * 50, {"Filename": "f"}),
                     ("GET", f"/info/{key}/", None, {}), ("GET", f"/jobs/{key}/0/", None, {})]
            for method, path, body, headers in calls:
                try:
                    answer = http.request(method, base + path, data=body, headers=headers, timeout=30)
                    if answer.status_code != 200 or answer.json()["statusId"] != 0:
                        self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                except (requests.RequestException, ValueError) as e:
                    self.failed.append(f"{method} {path}: {e!r}")
                self.done += 1

    def more(self, count):
        """Until so many further requests were answered, so that what happened before lies behind."""
        seen = self.done
        wait_for("the load to go on", lambda: self.done >= seen + count, 120, 0.1)

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join()
        assert self.failed == [] and self.done > 0, self.failed[:5]


@pytest.fixture
def load(tango):
    running = Load(tango)
    yield running
    running.over.set()


def grade(tango, **more):
    entry, feedback = tango.run(LAB, files={"handin.txt": "what I hand in\n"}, wait=90, **more)
    assert feedback.endswith(b'what I hand in\n{"scores": {"p": 7}}\n'), feedback
    return entry


def test_a_lab_is_graded(tango):
    grade(tango)


def test_all_are_healthy(compose):
    for service, count in (("redis", 1), ("api", 1), ("proxy", 1), ("dispatcher", 2), ("vmm", 1)):
        compose.healthy(service, count)


def test_secrets_are_made_and_nothing_has_a_default(compose, tango):
    assert len(tango.key) >= 40
    for key in ("test", "main", "x"):
        assert Tango(tango.port, key=key).json("GET", f"/open/{key}/x/")["statusMsg"] == "Key not recognized"
    # The same at the next start, told to whoever may run containers and to no log.
    before = {p.name: p.read_text() for p in compose.volume("secrets").iterdir()}
    compose.run("up", "-d", "--no-build", "init")
    assert {p.name: p.read_text() for p in compose.volume("secrets").iterdir()} == before
    assert len(set(before.values())) == len(before) >= 7
    logs = compose.run("logs", "--no-color")
    inspected = json.dumps([compose.containers(s) for s in ("api", "dispatcher", "vmm", "redis", "proxy")])
    for name, secret in before.items():
        if name != "deployment":
            assert secret not in logs and secret not in inspected, name


def test_each_service_may_do_what_it_needs(compose, tango):
    def cli(user, *command):
        password = (compose.volume("secrets") / f"redis-{user}").read_text().strip()
        redis = compose.containers("redis")[0]["Id"]
        return compose.engine.docker("exec", redis, "redis-cli", "--no-auth-warning", "--user", user,
                                     "--pass", password, *command)
    redis = compose.containers("redis")[0]["Id"]
    assert "NOAUTH" in compose.engine.docker("exec", redis, "redis-cli", "get", "{milonga}:meta")
    for user in ("api", "dispatcher", "vmm"):
        assert "PONG" in cli(user, "ping")
        assert cli(user, "hget", "{milonga}:meta", "gen").strip().isdigit()
        for denied in (("flushall",), ("config", "set", "appendonly", "no"), ("keys", "*"), ("get", "other"),
                       ("acl", "list"), ("shutdown",), ("publish", "other", "x")):
            assert "NOPERM" in cli(user, *denied), (user, denied)
    assert "NOPERM" in cli("vmm", "scan", "0") and "NOPERM" not in cli("dispatcher", "scan", "0")
    kept = cli("operator", "config", "get", "appendonly").split() + cli(
        "operator", "config", "get", "maxmemory-policy").split()
    assert kept == ["appendonly", "yes", "maxmemory-policy", "noeviction"]


def test_nobody_is_root_who_can_do_without(compose):
    for service in ("api", "dispatcher", "vmm", "redis", "proxy"):
        for c in compose.containers(service):
            with open(f"/proc/{c['State']['Pid']}/status") as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            assert status["Uid"].split()[0] != "0", service
            assert status["CapEff"] == "0" * 16 and status["NoNewPrivs"] == "1", service
            assert c["HostConfig"]["ReadonlyRootfs"] and not c["HostConfig"]["Privileged"]


def test_machines_elsewhere_need_no_engine_here(compose):
    """With a driver for other hosts the vmm has OpenSSH, a home that it may read, and no way to the socket."""
    vmm = ("run", "--rm", "--no-deps", "-e", "VMMS_NAME=ssh", "-e", "MILONGA_SSH_HOST=far 192.0.2.1:1", "vmm")
    start = (compose.containers("vmm")[0]["Config"]["Cmd"][0], "--check-config")
    assert compose.run(*vmm, *start).endswith("milonga.conf: ok\n")
    seen = compose.engine.docker("run", "--rm", "--read-only", "milonga-under-test", "ssh", "-G", "far")
    assert "identityfile ~/.ssh/id_ed25519" in seen and "\nuser milonga\n" in seen


def test_the_backup_of_the_manual(compose, tmp_path):
    """Its two lines for Redis, as they stand."""
    code = re.search(r"^    pass=.*\n    docker-compose exec.*\n", (ROOT / "docs/operations.md").read_text(), re.M)[0]
    code = code.replace("docker-compose", f"docker-compose -f {ROOT}/docker-compose.yml").replace("/backup", str(tmp_path))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=compose.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dump.rdb").read_bytes().startswith(b"REDIS")


def test_it_stands_where_autolab_looks_for_tango(compose):
    script = "exec 3<>/dev/tcp/tango/3000; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    said = compose.engine.docker("run", "--rm", "--network", f"{PROJECT}_default", image.NAME, "bash", "-c", script)
    assert "RESTful Tango here!" in said


def test_replicas_come_and_go_under_load(compose, tango, load):
    load.more(40)
    compose.up(api=3)
    compose.healthy("api", 3)
    load.more(100)
    grade(tango)
    compose.up(api=1)
    compose.healthy("api", 1)
    load.more(100)
    load.stop()
    grade(tango)


def test_a_killed_api_is_not_noticed(compose, tango, load):
    compose.up(api=2)
    compose.healthy("api", 2)
    load.more(50)
    victim = compose.containers("api")[0]
    os.kill(victim["State"]["Pid"], signal.SIGKILL)
    load.more(100)
    load.stop()
    wait_for("a restart", lambda: [c for c in compose.containers("api") if c["Id"] == victim["Id"]
                                   and c["RestartCount"] > 0], 60, 0.5)
    compose.up(api=1)


def test_the_standby_takes_over(compose, tango):
    def log_of(c):
        return subprocess.run(["docker", "-H", compose.engine.url, "logs", c["Id"]], capture_output=True,
                              text=True).stderr
    taken = {}
    for c in compose.containers("dispatcher"):
        for line in log_of(c).splitlines():
            if "event=lead.taken" in line:
                taken[line.split()[0]] = c
    first = taken[max(taken)]
    ident, lab, output = tango.submit("all:\n\t@sleep 3; echo done\n")
    compose.engine.docker("kill", first["Id"])
    tango.wait_dead(ident, 90)
    assert tango.poll(lab, output).endswith(b"done\n")
    grade(tango)
    compose.up()
    compose.healthy("dispatcher", 2)


def test_jobs_outlive_redis_and_vmm(compose, tango):
    ident, lab, output = tango.submit("all:\n\t@sleep 2; echo done\n")
    for service in ("redis", "vmm"):
        os.kill(compose.containers(service)[0]["State"]["Pid"], signal.SIGKILL)
    jobs = f"{tango.base}/jobs/{tango.key}/0/"

    def answered():
        answer = requests.get(jobs, timeout=30)
        return answer.status_code == 200 and answer.json()["statusId"] == 0
    wait_for("Redis again", answered, 90, 0.5)
    tango.wait_dead(ident, 120)
    assert tango.poll(lab, output).endswith(b"done\n")


def test_nothing_is_left(compose, tango):
    begun = time.monotonic()
    compose.down()
    assert compose.leftovers() == []
    assert time.monotonic() - begun < 300
