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
def server(work_dir):
    """A Redis with the ACL lines of milonga-init itself; nobody logs in, so passwords do not matter."""
    text = (ROOT / "packaging/compose/milonga-init").read_text()
    block = re.search(r"^work=.*?^\} \| put /conf/redis/users\.acl", text, re.M | re.S)[0].rpartition(" | put")[0]
    lines = subprocess.run(["bash", "-euc", f"digest() {{ printf %064d 0; }}\n{block}"], env=plain_env(),
                           capture_output=True, text=True, check=True).stdout
    acl = work_dir / "users.acl"
    acl.write_text(lines.replace("user default off", "user default on nopass ~* &* +@all"))
    r = Redis(work_dir)
    r.process = Process("redis", [*r.process.argv, "--aclfile", acl], plain_env(), r.process.log)
    r.start()
    yield r.client
    r.stop()


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
    assert allowed(server, user, "SCAN") == (user == "dispatcher")
