"""Each fault is made for real where it can be (a fake Redis says what a real one of today can not), and doctor names it."""

import json
import os
import shutil
import signal
import socketserver
import subprocess
import threading
import time

import pytest

from harness.process import plain_env, wait_for
from harness.stack import BUILD

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

KEY = "a-key-of-more-than-16-characters"
P = "{milonga}"


@pytest.fixture(scope="module")
def stack(make_stack):
    stack = make_stack(driver="null", keys=f"test:{KEY}", start=False)
    for t in stack.tangos:
        t.key = KEY
    return stack.start()


def doctor(stack, *before, config=None, **settings):
    """(findings by check, exit status)"""
    env = plain_env(**{f"MILONGA_{k.upper()}": v for k, v in
                       {**stack.settings, "port": stack.ports[0], **settings}.items()})
    options = ["--config", config] if config else []
    done = subprocess.run([*before, BUILD / "milonga", *options, "--json", "doctor"], env=env, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (report["faults"] > 0)
    assert len([f for f in report["findings"] if f["level"] == "FAULT"]) == report["faults"]
    assert all(f["remedy"] for f in report["findings"] if f["level"] != "ok")
    return {f["check"]: f for f in report["findings"]}


def level(found, check):
    return found[check]["level"] if check in found else None


def test_nothing_is_wrong(stack):
    found = doctor(stack)
    bad = {c: f for c, f in found.items() if f["level"] != "ok"}
    assert not bad and len(found) > 15


def test_all_of_it_for_people(stack):
    env = plain_env(**{f"MILONGA_{k.upper()}": v for k, v in {**stack.settings, "redis_url": "unix:///none"}.items()})
    done = subprocess.run([BUILD / "milonga", "--table", "doctor"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "FAULT       redis.reachable" in done.stdout and "-> start it, or mend redis_url" in done.stdout


# ---- settings

@pytest.mark.parametrize("check, how, settings", [
    ("config.file", "FAULT", {"port": "70000"}),
    ("config.keys", "warning", {"keys": "t:short"}),
    ("disk.data_dir", "FAULT", {"data_dir": "/nonexistent"}),
    ("redis.reachable", "FAULT", {"redis_url": "unix:///nonexistent/redis.sock"}),
    ("driver.autodriver", "FAULT", {"autodriver": "/nonexistent"}),
    ("driver.machine", "FAULT", {"driver": "oci", "oci_crun": "/nonexistent/crun"}),
    ("driver.machine", "FAULT", {"driver": "docker", "docker_url": "unix:///nonexistent/docker.sock"}),
    ("api.reachable", "FAULT", {"port": "1"}),
    ("api.key", "FAULT", {"keys": "test:another-key-than-the-api-has"}),
])
def test_setting(stack, check, how, settings):
    assert level(doctor(stack, **settings), check) == how


def test_oci_driver_makes_a_machine(stack):
    assert level(doctor(stack, driver="oci"), "driver.machine") == "ok"


def test_config_that_all_can_read(stack, tmp_path):
    conf = tmp_path / "milonga.conf"
    conf.write_text("port = 3000\n")
    conf.chmod(0o644)
    assert level(doctor(stack, config=conf), "config.mode") == "warning"
    conf.chmod(0o640)
    assert level(doctor(stack, config=conf), "config.mode") == "ok"


def test_too_few_descriptors(stack):
    assert level(doctor(stack, "prlimit", "--nofile=512:512"), "config.descriptors") == "warning"


# ---- disk

@pytest.fixture
def small_disk(work_dir):
    mount = work_dir / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "none", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)
    mount.rmdir()


def test_disk_full(stack, small_disk):
    (small_disk / "data").write_bytes(b"x" * (1 << 20))
    assert level(doctor(stack, data_dir=small_disk), "disk.space") == "FAULT"


def test_no_inodes(stack, small_disk):
    for n in range(61):
        (small_disk / str(n)).touch()
    assert level(doctor(stack, data_dir=small_disk), "disk.inodes") == "FAULT"


@pytest.mark.parametrize("what", ["data_dir", "store"])
def test_not_ours(stack, work_dir, what):
    data = work_dir / f"foreign-{what}"
    (data / "store").mkdir(parents=True)
    os.chown(data, 0 if what == "data_dir" else 65534, 0)
    found = doctor(stack, "setpriv", "--reuid=65534", "--clear-groups", data_dir=data)
    shutil.rmtree(data)
    assert level(found, f"disk.{what}") == "FAULT"
    assert level(found, "disk.data_dir") == ("FAULT" if what == "data_dir" else "ok")


# ---- the Redis that is there

@pytest.mark.parametrize("check, how, name, bad", [
    ("redis.aof", "warning", "appendonly", "no"),
    ("redis.evicts", "FAULT", "maxmemory-policy", "allkeys-lru"),
    ("redis.login", "FAULT", "requirepass", "secret"),
    ("redis.memory", "FAULT", "maxmemory", "1mb"),
])
def test_redis_setting(make_redis, check, how, name, bad):
    redis, stack = make_redis
    redis.client.config_set(name, bad)
    assert level(doctor(stack, redis_url=redis.url), check) == how


def test_redis_is_a_replica(make_redis):
    redis, stack = make_redis
    redis.client.replicaof("127.0.0.1", 1)
    assert level(doctor(stack, redis_url=redis.url), "redis.role") == "FAULT"


@pytest.fixture
def make_redis(stack, work_dir):
    """A Redis of its own, with which one may do what the services would not forgive."""
    from harness.redis_server import Redis
    directory = work_dir / "alone"
    directory.mkdir()
    redis = Redis(directory).start()
    yield redis, stack
    redis.process.kill()
    shutil.rmtree(directory)


# ---- a Redis that says what it is told to

class FakeRedis(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def __init__(self, info="redis_version:7.0.15\r\nrole:master\r\naof_enabled:1\r\naof_last_write_status:ok\r\n"
                            "used_memory:1\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n", ping="+PONG", offset=0, delay=0):
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while line := self.rfile.readline():
                    words = []
                    for _ in range(int(line[1:])):
                        size = int(self.rfile.readline()[1:])
                        words.append(self.rfile.read(size + 2)[:-2].upper())
                    self.wfile.write(fake.answer(words[0]))

        self.info, self.ping, self.offset, self.delay = info, ping, offset, delay
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, word):
        if word == b"INFO":
            return f"${len(self.info)}\r\n{self.info}\r\n".encode()
        if word == b"TIME":
            time.sleep(self.delay)
            now = str(int(time.time()) + self.offset)
            return f"*2\r\n${len(now)}\r\n{now}\r\n$1\r\n0\r\n".encode()
        return f"{self.ping}\r\n".encode() if word == b"PING" else b"$-1\r\n"


@pytest.mark.parametrize("check, how, fake", [
    ("redis.version", "FAULT", {"info": "redis_version:6.2.1\r\nmaxmemory_policy:noeviction\r\n"}),
    ("redis.aof", "FAULT", {"info": "redis_version:7.0.1\r\naof_enabled:1\r\naof_last_write_status:err\r\n"}),
    ("redis.loading", "FAULT", {"ping": "-LOADING Redis is loading the dataset in memory"}),
    ("redis.clock", "warning", {"offset": 3600}),
    ("redis.slow", "warning", {"delay": 0.2}),
])
def test_redis_that_is_not_well(stack, check, how, fake):
    server = FakeRedis(**fake)
    try:
        assert level(doctor(stack, redis_url=f"redis://127.0.0.1:{server.server_address[1]}"), check) == how
    finally:
        server.shutdown()
        server.server_close()


# ---- what the services keep in Redis; each puts back what it changed

@pytest.mark.parametrize("check, key, name, bad", [
    ("vmm.drains", "vmm:{v}", "drain", "1"),
    ("vmm.version", "vmm:{v}", "version", "0.0.1"),
])
def test_vmm(stack, check, key, name, bad):
    key = f"{P}:{key.format(v=stack.vmm.env['MILONGA_VMM_NAME'])}"
    before = stack.redis.client.hget(key, name)
    stack.redis.client.hset(key, name, bad)
    found = doctor(stack)
    stack.redis.client.hset(key, name, before)
    assert level(found, check) == "warning"


def test_vmm_without_an_image(stack):
    key = f"{P}:vmm:{stack.vmm.env['MILONGA_VMM_NAME']}:img"
    before = stack.redis.client.hgetall(key)
    stack.redis.client.delete(key)
    found = doctor(stack)
    stack.redis.client.hset(key, mapping=before)
    assert level(found, "vmm.no_image") == "FAULT"


def test_vmm_lost_then_none(stack):
    stack.vmm.kill()
    key = f"{P}:vmm:{stack.vmm.env['MILONGA_VMM_NAME']}"
    wait_for("the vmm to be missed", lambda: stack.redis.client.hget(key, "state") == b"lost")
    found = doctor(stack)
    assert level(found, "vmm.lost") == "warning" and level(found, "vmm.none") == "FAULT"

    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", "all:\n")
    ident = stack.tango.add("lab", "out")
    stack.redis.client.zadd(f"{P}:alive", {str(ident): (time.time() - 3600) * 1000})
    found = doctor(stack, max_live_jobs=1)
    assert level(found, "jobs.old") == "warning" and str(ident) in found["jobs.old"]["what"]
    assert level(found, "jobs.many") == "warning"
    stack.vmm.start()
    stack.tango.wait_dead(ident)


def test_no_dispatcher(stack):
    stack.dispatcher.stop()
    found = doctor(stack)
    stack.dispatcher.start()
    assert level(found, "dispatcher.leads") == "FAULT"
    wait_for("a dispatcher", lambda: level(doctor(stack), "dispatcher.leads") == "ok")


def test_dispatcher_that_hangs(stack):
    stack.dispatcher.signal(signal.SIGSTOP)
    try:
        assert level(doctor(stack), "dispatcher.leads") == "FAULT"
    finally:
        stack.dispatcher.signal(signal.SIGCONT)


def test_callbacks_fail(stack):
    ident, *_ = stack.tango.submit("all:\n", callback_url="http://127.0.0.1:1/cb")
    stack.tango.wait_dead(ident)
    wait_for("three tries", lambda: int(stack.redis.client.hget(f"{P}:ob:{ident}", "tries") or 0) >= 3)
    assert level(doctor(stack), "callbacks.fail") == "warning"
    stack.redis.client.zrem(f"{P}:outbox", ident)
