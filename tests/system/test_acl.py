"""The users that packaging/compose/milonga-init writes for Redis may do what the services' scripts do, and not much more."""

import re
import subprocess

import pytest
import redis

from harness.process import Process, plain_env
from harness.redis_server import Redis
from harness.stack import ROOT

pytestmark = pytest.mark.fast
SERVICES = ("api", "dispatcher", "vmm")
# by themselves, not in a script: greeting, subscriber, and reads
PLAIN = ["PING", "SELECT", "EVAL", "EVALSHA", "SUBSCRIBE", "UNSUBSCRIBE", "GET", "HMGET", "HGETALL", "ZRANGE", "CLIENT SETNAME x",
         "CONFIG GET x", "INFO"]
CALL = re.compile(r"""\bcall\(\s*['"](\w+)['"]""")


@pytest.fixture(scope="module")
def redis_server(work_dir):
    """A Redis with the ACL lines of milonga-init itself; everybody's password is x."""
    text = (ROOT / "packaging/compose/milonga-init").read_text()
    block = re.search(r"^work=.*?^\} \| put /conf/redis/users\.acl", text, re.M | re.S)[0].rpartition(" | put")[0]
    lines = subprocess.run(["bash", "-euc", f"digest() {{ printf x | sha256sum | cut -d' ' -f1; }}\n{block}"], env=plain_env(),
                           capture_output=True, text=True, check=True).stdout
    acl = work_dir / "users.acl"
    acl.write_text(lines)
    r = Redis(work_dir)
    r.process = Process("redis", [*r.process.argv, "--aclfile", acl], plain_env(), r.process.log)
    r.client = redis.Redis(unix_socket_path=r.socket, username="operator", password="x")
    yield r.start()
    r.stop()


@pytest.fixture(scope="module")
def server(redis_server):
    return redis_server.client


def used_by(service):
    files = [ROOT / "libshared/lua/prelude.lua", *sorted((ROOT / f"services/{service}/lua").glob("*.lua"))]
    assert len(files) > 3
    used = {c.upper() for f in files for c in CALL.findall(f.read_text())}
    assert {"HSET", "HGET"} <= used
    return sorted(used) + (["SCAN", "HSCAN"] if service == "dispatcher" else [])


def allowed(server, user, command):
    words = command.split()
    if len(words) == 1:  # as many arguments as it takes: keys and channels, all below the prefix
        words += ["{milonga}:x"] * (abs(server.command()[command.lower()]["arity"]) - 1)
    if words[0] in ("EVAL", "EVALSHA"):
        words = [words[0], "return 1", "1", "{milonga}"]
    answer = server.execute_command("ACL", "DRYRUN", user, *words)
    assert answer == b"OK" or b"no permissions" in answer, (command, answer)
    return answer == b"OK"


@pytest.mark.parametrize("user", SERVICES)
def test_all_that_scripts_call_is_allowed(server, user):
    assert [c for c in used_by(user) + PLAIN if not allowed(server, user, c)] == []


@pytest.mark.parametrize("user", SERVICES)
def test_no_more_than_that(server, user):
    for command in ("FLUSHALL", "FLUSHDB", "KEYS", "CONFIG SET x y", "SHUTDOWN", "ACL LIST", "SCRIPT FLUSH", "MONITOR", "SAVE", "REPLICAOF",
                    "MODULE LIST", "CLIENT KILL x", "SWAPDB", "MIGRATE"):
        assert not allowed(server, user, command), command
    for words in (("GET", "other"), ("SET", "other", "1"), ("PUBLISH", "other", "1"), ("EVAL", "return 1", "1", "other")):
        answer = server.execute_command("ACL", "DRYRUN", user, *words)
        assert b"no permissions" in answer, words
    assert allowed(server, user, "WAIT 1 10")
    assert allowed(server, user, "INFO replication")
    assert server.execute_command("ACL", "DRYRUN", user, "PUBLISH", "{milonga}:sync", "") == b"OK"
    assert allowed(server, user, "SCAN") == (user == "dispatcher")


def test_nobody_is_let_in_without_a_password(redis_server):
    for name in (None, "default"):
        with pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)):
            redis.Redis(unix_socket_path=redis_server.socket, username=name, password=name and "").get("{milonga}:x")


def test_a_restart_keeps_what_scripts_wrote(redis_server):
    """They are transactions in the append-only file, and Redis reads that as the user `default`."""
    api = redis.Redis(unix_socket_path=redis_server.socket, username="api", password="x")
    api.eval("redis.call('SET', KEYS[1] .. ':a', 1) redis.call('HSET', KEYS[1] .. ':b', 'f', 2)", 1, "{milonga}")
    redis_server.kill()
    redis_server.start()
    assert (api.get("{milonga}:a"), api.hget("{milonga}:b", "f")) == (b"1", b"2")
