"""Backup and restore by the commands of docs/operations.md: one part in the shell of a running installation, one after its end."""

import os
import shutil
import subprocess

import pytest

from harness.process import plain_env, wait_for
from harness.redis_server import Redis
from harness.stack import ROOT
from test_docs import examples

pytestmark = [pytest.mark.fast]


def commands(how, **places):
    [code] = [c for h, _, c, _ in examples(ROOT / "docs/operations.md") if h == how]
    for name, place in places.items():
        shown = {"redis": "/var/lib/redis", "store": "/var/lib/milonga/store", "backup": "/backup", "cli": "redis-cli"}[name]
        assert shown in code, shown
        code = code.replace(shown, str(place))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=plain_env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


def grade(stack):
    ident, lab, output = stack.tango.submit("# null: output=2000\n")
    stack.tango.wait_dead(ident)
    return ident, lab, output


@pytest.mark.parametrize("lost", ["Redis", "Redis and the store"])
def test_what_was_backed_up_is_there_again(make_stack, tmp_path, lost):
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    stack = make_stack()
    store, backup = stack.data / "store", tmp_path / "backup"
    backup.mkdir()
    before = grade(stack)
    feedback = stack.tango.poll(*before[1:])
    assert len(feedback) > 2000
    commands("backup", cli=f"redis-cli -s {stack.redis.socket}", store=store, backup=backup)
    after = grade(stack)
    stack.stop()

    # the disk is gone; Redis gets a folder of its own, as Debian's has
    if "store" in lost:
        shutil.rmtree(store)
        store.mkdir(mode=0o700)
    folder = stack.dir / "redis"
    folder.mkdir()
    stack.redis = Redis(folder)
    commands("restore", redis=folder, store=store, backup=backup)
    shutil.rmtree(stack.dir / "appendonlydir")
    # as at first, on the socket that the services know
    os.symlink(stack.redis.socket, stack.dir / "redis.sock.new")
    os.replace(stack.dir / "redis.sock.new", stack.dir / "redis.sock")
    stack.start()

    assert stack.tango.poll(*before[1:]) == feedback
    assert stack.tango.job(before[0])[1], "it is among the finished ones"
    assert stack.tango.job(after[0]) is None
    again = grade(stack)
    assert again[0] > after[0] and len(stack.tango.poll(*again[1:])) > 2000
    wait_for("a new generation", lambda: int(stack.redis.client.hget("{milonga}:meta", "gen")) == 2)
