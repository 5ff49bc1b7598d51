"""Three Redis and three Sentinels, each pair of them a host of its own: a network namespace behind a bridge. A host can be
killed, cut off from all, or cut off from the other two only.

In the place of a Stack's `redis`: start(), kill(), client (of whoever is master), url, process.

Needs root, util-linux and iproute2.
"""

import os
import shutil
import subprocess

import redis

from .guard import guard
from .process import Process, plain_env, wait_for

MASTER = "grades"
REDIS = """bind {address}
protected-mode no
port 6379
dir {dir}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
min-replicas-to-write 1
min-replicas-max-lag 3
repl-ping-replica-period 1
repl-timeout 5
repl-diskless-sync-delay 0
{replica}
"""
SENTINEL = """bind {address}
protected-mode no
port 26379
dir {dir}
sentinel monitor {master} {first} 6379 2
sentinel down-after-milliseconds {master} 2000
sentinel failover-timeout {master} 6000
sentinel parallel-syncs {master} 1
"""
_count = 0


def usable():
    return os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "ip", "redis-server")))


def _ip(*args, check=True):
    return subprocess.run(["ip", *map(str, args)], check=check, capture_output=True, text=True)


def _namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


class Node:
    def __init__(self, group, number):
        self.group, self.address = group, f"{group.net}.{number + 2}"
        self.dir = group.dir / f"node{number}"
        self.dir.mkdir()
        self.veth = f"{group.bridge}-{number}"
        self.holder = Process(f"net{number}", ["unshare", "--net", "sleep", "infinity"], plain_env(), str(self.dir / "net.log")).start()
        wait_for("a network of its own", lambda: _namespace(self.holder.pid) not in (_namespace("self"), None))
        _ip("link", "add", self.veth, "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid)
        _ip("link", "set", self.veth, "master", group.bridge, "up")
        for args in (("link", "set", "lo", "up"), ("addr", "add", f"{self.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            self._ip(*args)
        replica = f"replicaof {group.net}.2 6379" if number else ""
        self._write("redis.conf", REDIS, replica=replica)
        self._write("sentinel.conf", SENTINEL, master=MASTER, first=f"{group.net}.2")
        enter = ["nsenter", "-t", self.holder.pid, "-n", "redis-server"]
        self.process = Process(f"redis{number}", [*enter, self.dir / "redis.conf"], plain_env(), str(self.dir / "redis.log"))
        self.sentinel = Process(f"sentinel{number}", [*enter, self.dir / "sentinel.conf", "--sentinel"], plain_env(),
                                str(self.dir / "sentinel.log"))
        self.client = redis.Redis(self.address, 6379, socket_timeout=2, socket_connect_timeout=2)
        self.asker = redis.Redis(self.address, 26379, socket_timeout=2, socket_connect_timeout=2, decode_responses=True)

    def _ip(self, *args, check=True):
        return subprocess.run(["nsenter", "-t", str(self.holder.pid), "-n", "ip", *map(str, args)], check=check, capture_output=True)

    def _write(self, name, text, **more):
        (self.dir / name).write_text(text.format(address=self.address, dir=self.dir, **more))

    def role(self):
        """master, slave, or nothing when it cannot be asked."""
        try:
            return self.client.role()[0].decode()
        except redis.exceptions.RedisError:
            return ""

    def follows(self, master):
        try:
            kind, host, _, state, _ = self.client.role()
            return kind == b"slave" and host.decode() == master.address and state == b"connected"
        except (redis.exceptions.RedisError, ValueError):
            return False

    # ---- faults ----

    def cut(self):
        """From everybody: packets vanish, links stay up."""
        _ip("link", "set", self.veth, "nomaster")

    def heal(self):
        _ip("link", "set", self.veth, "master", self.group.bridge)

    def others(self):
        return [n for n in self.group.nodes if n is not self]

    def part(self):
        """From the other Redis and Sentinels, not from the services."""
        for n in self.others():
            self._ip("route", "add", "blackhole", f"{n.address}/32")

    def join(self):
        for n in self.others():
            self._ip("route", "del", "blackhole", f"{n.address}/32")

    def down(self):
        for p in (self.sentinel, self.process, self.holder):
            p.kill()


class Sentinels:
    def __init__(self, directory):
        global _count
        _count += 1
        self.dir = directory / "sentinels"
        self.dir.mkdir()
        self.bridge = f"ms{_count % 10}{os.getpid() % 1000000}"
        # of the range for benchmarks (RFC 2544), which is never routed; beside those of hosts.py
        self.net = f"198.19.{(os.getpid() + 7 * _count) % 250}"
        guard.command(plain_env(), "ip", "link", "del", self.bridge)
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.net}.1/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        self.nodes = []
        for number in range(3):
            self.nodes.append(Node(self, number))
        hosts = ",".join(f"{n.address}:26379" for n in self.nodes)
        self.url = f"redis+sentinel://{hosts}/{MASTER}"

    def start(self):
        for n in self.nodes:
            n.process.start()
        wait_for("two replicas", lambda: all(n.follows(self.nodes[0]) for n in self.nodes[1:]), 30)
        for n in self.nodes:
            n.sentinel.start()
        wait_for("Sentinels that know each other", lambda: all(self.knows(n) for n in self.nodes), 30, 0.1)
        return self

    @staticmethod
    def knows(node):
        try:
            state = node.asker.sentinel_master(MASTER)
        except redis.exceptions.RedisError:
            return False
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 2

    def named(self):
        """The master by the voice of two Sentinels at least; None while they do not agree."""
        names = []
        for n in self.nodes:
            try:
                names.append(n.asker.sentinel_get_master_addr_by_name(MASTER)[0])
            except (redis.exceptions.RedisError, TypeError):
                pass
        found = [n for n in self.nodes if names.count(n.address) >= 2]
        return found[0] if found else None

    def wait_master(self, but=None, timeout=60):
        """One that two Sentinels name and that says so of itself."""
        def there():
            node = self.named()
            return node if node and node is not but and node.role() == "master" else None
        return wait_for("a master", there, timeout, 0.1)

    def wait_whole(self, timeout=60):
        """All up, one master, two replicas of it."""
        master = self.wait_master(timeout=timeout)
        wait_for("two replicas", lambda: all(n.follows(master) for n in self.nodes if n is not master), timeout, 0.1)
        return master

    @property
    def client(self):
        return (self.named() or self.nodes[0]).client

    @property
    def process(self):
        return (self.named() or self.nodes[0]).process

    def kill(self):
        for n in self.nodes:
            n.down()
        _ip("link", "del", self.bridge, check=False)

    stop = kill
