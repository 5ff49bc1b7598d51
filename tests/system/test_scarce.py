"""Things run out or lie: Redis's memory, its writability, its connections, the disk, inodes, descriptors, the clock. Who asks is
told; what was accepted ends once; when there is enough again, all goes on by itself."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import socket
import struct
import subprocess
import time

import pytest
import redis
import requests

from harness.cutter import Cutter
from harness.process import wait_for
from harness.running import Running
from harness.tango import messages

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FINAL = "Success: Autodriver returned normally"


def refused(tango, lab, output):
    """What addJob answers, which must not be a job."""
    answer = tango.json("POST", f"/addJob/{tango.key}/{lab}/", data=json.dumps(tango.body(output)))
    assert answer["statusId"] == -1 and "jobId" not in answer, answer
    return answer["statusMsg"]


def served_again(stack):
    def accepted():
        with contextlib.suppress(AssertionError, requests.RequestException):
            return stack.tango.submit("all:\n\t@echo again\n")
    ident, *_ = wait_for("service again", accepted, 20, 0.2)
    assert messages(stack.tango.wait_dead(ident))[-1] == FINAL


@pytest.mark.parametrize("scarce,enough", [
    ({"maxmemory": "1mb"}, {"maxmemory": "0"}),
    ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
], ids=["memory", "replicas"])
def test_redis_takes_no_writes(make_stack, receiver, scarce, enough):
    """Longer than a lease: the attempt may be lost, the job may not."""
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    stack.tango.open("more")
    stack.tango.upload("more", "Makefile", "all:\n\t@true\n")
    for name, value in scarce.items():
        stack.redis.client.config_set(name, value)
    why = refused(stack.tango, "more", "x")
    assert why and "(null)" not in why
    time.sleep(3)
    for name, value in enough.items():
        stack.redis.client.config_set(name, value)
    job.check()
    served_again(stack)
    stack.stop()


def test_a_job_that_no_replica_has_is_not_promised(make_stack, receiver):
    """Nor when the same is asked again, and the answer could come from the record of the first time."""
    stack = make_stack(redis_replicas="1", dup_window_ms="1h")
    stack.tango.open("wait")
    stack.tango.upload("wait", "Makefile", "all:\n\t@true\n")
    body = json.dumps(stack.tango.body("o", callback_url=f"{receiver.url}/wait"))
    for _ in range(2):
        answer = stack.tango.json("POST", f"/addJob/{stack.tango.key}/wait/", data=body)
        assert answer["statusId"] == -1 and "redis_replicas" in answer["statusMsg"], answer
    wait_for("the callback to be put off", lambda: "callback.put_off" in stack.dispatcher.text(), 20, 0.1)
    assert receiver.of("/wait") == []
    stack.stop()


def test_redis_becomes_a_replica_and_a_master_again(make_stack, receiver):
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    stack.tango.open("more")
    stack.tango.upload("more", "Makefile", "all:\n\t@true\n")
    stack.redis.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert refused(stack.tango, "more", "x")
    time.sleep(3)
    stack.redis.client.execute_command("REPLICAOF", "NO", "ONE")
    job.check()
    served_again(stack)
    stack.stop()


def test_redis_is_slow(make_stack, receiver):
    """Slower than the time that the services give it."""
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    for _ in range(3):
        with contextlib.suppress(redis.exceptions.RedisError):
            stack.redis.client.execute_command("DEBUG", "SLEEP", "2.5")
    job.check()
    served_again(stack)
    stack.stop()


def test_connections_are_cut_in_the_middle_of_replies(make_stack, receiver, tmp_path):
    cutter = Cutter(tmp_path / "cut.sock")
    try:
        stack = make_stack(driver="null", dispatchers=2, vmms=2, start=False, redis_url=cutter.url, dup_window_ms="1h")
        cutter.target = stack.redis.socket
        stack.start()
        lab = "cut"
        stack.tango.open(lab)
        stack.tango.upload(lab, "Makefile", "lines=1 sleep_ms=50")
        cutter.every = 6000
        ids = {}

        def added(n):
            """As Autolab does: asks again with the same callback until it knows."""
            body = stack.tango.body(f"o{n}", callback_url=f"{receiver.url}/cut/{n}")
            answer = stack.tango.json("POST", f"/addJob/{stack.tango.key}/{lab}/", data=json.dumps(body))
            return answer["statusId"] == 0 and int(answer["jobId"])
        for n in range(60):
            ids[n] = wait_for(f"job {n}", lambda n=n: added(n), 30, 0.1)
        wait_for("cuts", lambda: cutter.cuts > 20, 30, 0.1)
        cutter.every = 0
        assert len(set(ids.values())) == 60
        for n, ident in ids.items():
            assert messages(stack.tango.wait_dead(ident))[-1] == FINAL
            assert len({c.content for c in receiver.wait(f"/cut/{n}")}) == 1
        dead = [j["id"] for j in stack.tango.jobs(dead=True)]
        assert sorted(dead) == sorted(ids.values())
        assert stack.redis.client.zcard("{milonga}:alive") == 0
        stack.stop()
    finally:
        cutter.stop()


@contextlib.contextmanager
def small_disk(directory, options):
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_the_disk_of_the_store_is_full(make_stack, receiver, what):
    stack = make_stack(driver="null", start=False, pool_size="0")
    with small_disk(stack.data, "size=24m,nr_inodes=4000,mode=755"):
        stack.start()
        tango = stack.tango
        before, *_ = tango.submit("lines=1 sleep_ms=1500", lab="early", callback_url=f"{receiver.url}/full/{what}")
        fill = stack.data / "filling"
        fill.mkdir()
        with contextlib.suppress(OSError):
            if what == "inodes":
                for n in range(5000):
                    (fill / str(n)).touch()
            else:
                with open(fill / "all", "wb", buffering=0) as f:
                    while f.write(b"x" * 65536):
                        pass
        answer = tango.json("POST", f"/upload/{tango.key}/early/", data=b"y" * 100_000, headers={"Filename": "big"})
        assert answer["statusId"] == -1 and "o space left" in answer["statusMsg"], answer
        assert "big" not in tango.open("early")["files"], "half an upload"
        time.sleep(2)
        shutil.rmtree(fill)
        entry = tango.wait_dead(before)
        assert messages(entry)[-1] == FINAL
        assert receiver.wait(f"/full/{what}")
        served = tango.run("lines=1", lab="late")
        assert served[1]
        stack.stop()


def test_the_api_runs_out_of_descriptors(make_stack):
    stack = make_stack(driver="null", start=False, max_connections="1000")
    stack.start()
    resource.prlimit(stack.api.pid, resource.RLIMIT_NOFILE, (60, 60))
    hold = []
    try:
        for _ in range(120):
            s = socket.socket()
            s.settimeout(0.5)
            with contextlib.suppress(OSError):
                s.connect(("127.0.0.1", stack.tango.port))
            hold.append(s)
        time.sleep(1)
        spent = pathlib.Path(f"/proc/{stack.api.pid}/stat").read_text().split()
        before = int(spent[13]) + int(spent[14])
        time.sleep(1)
        spent = pathlib.Path(f"/proc/{stack.api.pid}/stat").read_text().split()
        assert int(spent[13]) + int(spent[14]) - before < 50, "it spins on accept"
    finally:
        for s in hold:
            s.close()
    assert stack.api.running()
    stack.tango.http.close()
    served_again(stack)
    stack.stop()


def test_the_vmm_runs_out_of_descriptors(make_stack, receiver):
    stack = make_stack(driver="oci")
    job = Running(stack, receiver)
    used = len(os.listdir(f"/proc/{stack.vmm.pid}/fd"))
    soft, hard = resource.prlimit(stack.vmm.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stack.vmm.pid, resource.RLIMIT_NOFILE, (used, hard))
    ident, *_ = stack.tango.submit("all:\n\t@echo later\n")
    time.sleep(3)
    assert stack.vmm.running()
    resource.prlimit(stack.vmm.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert messages(stack.tango.wait_dead(job.ident, 60))[-1] == FINAL
    assert messages(stack.tango.wait_dead(ident, 60))[-1] == FINAL
    stack.wait_clean()
    stack.stop()


FAKETIME = next(iter(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


@pytest.mark.skipif(not FAKETIME, reason="needs faketime")
@pytest.mark.parametrize("jump", ["+1h", "-1h"])
def test_the_clock_jumps(make_stack, receiver, jump, tmp_path):
    """Of all services, while a job runs."""
    now = tmp_path / "offset"
    now.write_text("+0")
    stack = make_stack(driver="oci", start=False)
    for p in stack.processes:
        p.env.update(LD_PRELOAD=str(FAKETIME), FAKETIME_TIMESTAMP_FILE=str(now), FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1")
    stack.start()
    job = Running(stack, receiver, "autograde:\n\t@echo one; sleep 4; echo two\n")
    aside = now.with_suffix(".new")
    aside.write_text(jump)
    os.replace(aside, now)
    job.check(60)
    served_again(stack)
    for p in [stack.vmm, stack.dispatcher]:
        last = time.mktime(time.strptime(p.text().rstrip().rsplit("time=", 1)[1][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        assert abs(abs(last - time.time()) - 3600) < 300, p.tail(2)
    stack.stop()


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_the_clock_of_redis_jumps(make_stack, receiver, jump_s, tmp_path):
    """While a job runs. Not by libfaketime, under which redis-server's
    allocator does not start."""
    shim, offset = tmp_path / "wall_clock.so", tmp_path / "offset"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", shim, pathlib.Path(__file__).parent / "harness/wall_clock.c"], check=True)
    offset.write_bytes(struct.pack("q", 0))
    stack = make_stack(driver="oci", start=False, dup_window_ms="60s")
    stack.redis.process.env.update(LD_PRELOAD=str(shim), WALL_CLOCK=str(offset))
    stack.start()
    job = Running(stack, receiver, "autograde:\n\t@echo one; sleep 4; echo two\n")
    leader = stack.redis.client.hget("{milonga}:lead", "epoch")
    with open(offset, "r+b") as f:
        f.write(struct.pack("q", jump_s * 1000))
    assert abs(stack.redis.client.time()[0] - time.time() - jump_s) < 60
    job.check(60)
    assert stack.redis.client.hget("{milonga}:lead", "epoch") == leader, "no lease goes by that clock"
    served_again(stack)
    stack.stop()
