"""Hosts that are reached over ssh, on one machine: a real sshd each, in its own network, mount, PID, UTS, IPC and cgroup
namespaces, behind a bridge. They can be cut off, frozen, killed and booted again, and looked into without ssh.

Needs root, util-linux, iproute2 and openssh-server.
"""

import contextlib
import itertools
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from .guard import guard
from .process import plain_env, wait_for


_numbers = itertools.count()
LIMITS = ("memory", "pids", "cpu", "cpuacct", "cpu,cpuacct", "cpuacct,cpu")

# $1 directory, $2 name, $3 address, $4 gateway, $5 its MAC address, rest: options of sshd
INIT = r"""
set -e
D=$1 NAME=$2 IP=$3 GW=$4 MAC=$5; shift 5
until ip link show eth0 >/dev/null 2>&1; do sleep .01; done
ip link set lo up; ip addr add $IP/24 dev eth0; ip link set eth0 up
ip neigh replace $GW lladdr $MAC dev eth0 nud permanent
mount --make-rprivate /
mount -t proc proc /proc
# the cgroups of this host alone, with its own processes aside as systemd has it
grep ' cgroup2\? ' /proc/mounts | while read -r _ at type opts _; do
    umount -l $at
    o=; for c in memory pids cpuacct cpu; do case ,$opts, in *,$c,*) o=$o${o:+,}$c;; esac; done
    [ $type = cgroup2 ] || [ -n "$o" ] || continue
    if [ $type = cgroup2 ]; then mount -t cgroup2 cgroup2 $at || continue; mkdir -p $at/init; echo 0 >$at/init/cgroup.procs || true
    else mount -t cgroup -o $o cgroup $at || true; fi
done
mount -t tmpfs -o mode=755,size=32m tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=700 tmpfs /root  # no start-up files of this machine
mkdir -p /run/sshd /run/accounts
# the accounts that a host which was set up for Tango has
cp /etc/passwd /etc/group /run/accounts
grep -q ^autograde: /run/accounts/passwd || { echo 'autograde:x:1001:1001::/home/autograde:/bin/sh' >>/run/accounts/passwd
    echo autograde:x:1001: >>/run/accounts/group; }
for f in passwd group; do mount --bind /run/accounts/$f /etc/$f; done
mount -t tmpfs -o mode=755 tmpfs /home
mkdir /home/autograde
hostname $NAME
exec /usr/sbin/sshd -D -e -f /dev/null -h $D/host_key -o ListenAddress=$IP -o UsePAM=no -o PidFile=none \
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o PermitRootLogin=prohibit-password -o UseDNS=no \
    -o StrictModes=no -o AuthorizedKeysFile=$D/authorized_keys "$@"
"""


def usable():
    tools = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen")
    return os.geteuid() == 0 and all(map(shutil.which, tools)) and pathlib.Path("/usr/sbin/sshd").exists()


def _ip(*args, check=True):
    return subprocess.run(["ip", *map(str, args)], check=check, capture_output=True, text=True)


def _mac(address):
    return "02:5f:" + ":".join(f"{int(x):02x}" for x in address.split("."))


def _namespace(pid, kind):
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


class Host:
    """One of a farm's."""

    def __init__(self, farm, number):
        self.farm, self.name, self.address = farm, f"h{number}", f"{farm.net}.{number + 1}"
        self.dir = farm.dir / self.name
        self.dir.mkdir()
        self.veth = f"{farm.bridge}-{number}"
        self.group = f"mt{os.getpid()}x{farm.letter}{number}"  # by which the guard knows it
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", self.dir / "host_key"], check=True)
        shutil.copy(farm.dir / "key.pub", self.dir / "authorized_keys")
        self.child = None

    # ---- life ----

    def tops(self):
        return [p for pattern in (self.group, f"*/{self.group}") for p in pathlib.Path("/sys/fs/cgroup").glob(pattern)]

    def _enter_group(self):
        """Of the hierarchies that limits are taken from; in the others the host has what this machine has."""
        tops = [pathlib.Path("/sys/fs/cgroup"), *pathlib.Path("/sys/fs/cgroup").iterdir()]
        for top in tops:
            if (top / "cgroup.procs").exists() and (top / "cgroup.controllers").exists() or top.name in LIMITS:
                (top / self.group).mkdir(exist_ok=True)
                (top / self.group / "cgroup.procs").write_text("0")

    def boot(self):
        _ip("link", "del", self.veth, check=False)
        with open(self.dir / "log", "ab") as log:
            self.child = subprocess.Popen(
                ["unshare", "--cgroup", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c", INIT,
                 "host", self.dir, self.name, self.address, f"{self.farm.net}.1", self.farm.mac, *self.farm.sshd],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=self._enter_group,
                env=plain_env())
        own = _namespace("self", "net")
        wait_for(f"{self.name} to have a network of its own", lambda: _namespace(self.child.pid, "net") not in (own, None))
        _ip("link", "add", self.veth, "type", "veth", "peer", "name", "eth0", "address", _mac(self.address), "netns", self.child.pid)
        _ip("link", "set", self.veth, "master", self.farm.bridge, "up")
        # a host that is dead is silence then, and not "no route to host"
        _ip("neigh", "replace", self.address, "lladdr", _mac(self.address), "dev", self.farm.bridge, "nud", "permanent")
        return self

    def ready(self):
        def listens():
            assert self.child.poll() is None, (self.dir / "log").read_text()
            return self.exec("ss", "-Hltn", f"src {self.address}:22").stdout.strip()
        wait_for(f"sshd of {self.name}", listens, 30)
        return self

    def power_off(self):
        """As if the plug was pulled: no FIN, no RST."""
        if self.child and self.child.poll() is None:
            self.cut()
            self.child.kill()
            self.child.wait()

    def cut(self):
        """Packets vanish, links stay up."""
        _ip("link", "set", self.veth, "nomaster")

    def heal(self):
        _ip("link", "set", self.veth, "master", self.farm.bridge)

    def link(self, state):
        _ip("link", "set", self.veth, state)

    def rate(self, to_host=None, from_host=None):
        """Bits a second as tc has them, such as "2mbit"; None: as fast as it goes."""
        def here(*args):
            return subprocess.run(["tc", *args], capture_output=True, text=True)

        def there(*args):
            return self.exec("tc", *args)
        for tc, device, rate in ((here, self.veth, to_host), (there, "eth0", from_host)):
            tc("qdisc", "del", "dev", device, "root")
            if rate:
                done = tc("qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
                assert done.returncode == 0, done.stderr

    def sent_bytes(self):
        return int(pathlib.Path(f"/sys/class/net/{self.veth}/statistics/rx_bytes").read_text())

    # ---- looking in ----

    def pids(self):
        """Those of the host's PID namespace or below it, by the numbers of this machine."""
        init = self.init()
        if not init:
            return []
        found, parents = [], {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                text = pathlib.Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            parents[int(pid)] = int(text.rsplit(")", 1)[1].split()[1])
        for pid in parents:
            at = pid
            while at in parents and at != init:
                at = parents[at]
            if at == init:
                found.append(pid)
        return found

    def init(self):
        try:
            text = pathlib.Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        except OSError:
            return None
        return int(text[0]) if text else None

    def processes(self):
        """Command lines of what is neither sshd nor ours to look in."""
        lines = []
        for pid in self.pids():
            try:
                line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if line and not line.startswith(("sshd", "/usr/sbin/sshd")):
                lines.append(line)
        return lines

    def freeze(self, what=""):
        """Its processes stand still; its kernel still acknowledges."""
        self._signal(signal.SIGSTOP, what)

    def thaw(self, what=""):
        self._signal(signal.SIGCONT, what)

    def _signal(self, number, what):
        for pid in self.pids():
            try:
                if what in pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                    os.kill(pid, number)
            except OSError:
                pass

    def exec(self, *argv):
        return subprocess.run(["nsenter", "-t", str(self.init() or self.child.pid), "-m", "-p", "-n", "-u", "-i", "--", *argv],
                              capture_output=True, text=True)

    def listing(self, directory):
        return self.exec("ls", "-A", directory).stdout.split()

    def groups(self):
        """Machines' control groups."""
        return [str(p) for top in self.tops() for p in top.glob("milonga-host/*/*") if p.is_dir()]

    def leftovers(self, directory="/var/lib/milonga-host"):
        """What no machine and no vmm may leave: all but the programs and the locks."""
        if not self.init():
            return []
        kept = ("autodriver-", "hostdriver-", "lock", "gate", "owner", "m")
        return ([f"{self.name} file {f}" for f in self.listing(directory) if not f.startswith(kept)] +
                [f"{self.name} machine {f}" for f in self.listing(f"{directory}/m")] +
                [f"{self.name} process {p}" for p in self.processes()] + [f"{self.name} group {g}" for g in self.groups()] +
                [f"{self.name} mount {m}" for m in self.exec("cat", "/proc/1/mounts").stdout.splitlines() if directory in m])

    def remove_groups(self):
        for base in self.tops():
            for d, _, _ in os.walk(base, topdown=False):
                try:
                    os.rmdir(d)
                except OSError:
                    pass


def leftovers(hosts, keepers):
    found = (x for h in hosts for x in h.leftovers())
    return [x for x in found if not (keepers and "/hostdriver-" in x and (" keep /" in x or " hold /" in x))]


class Farm:
    """Farm(directory, 3): hosts[0] to hosts[2], up; with keys, a known_hosts and what ssh_host lines need."""

    def __init__(self, directory, count, sshd=()):
        self.dir = directory
        self.dir.mkdir(exist_ok=True)
        number = next(_numbers)
        self.letter = "hijklmnopqrstu"[number % 14]
        self.bridge = f"m{self.letter}{os.getpid() % 1000000}"
        self.mac = "02:5f:5f:5f:5f:02"
        # of the range for benchmarks (RFC 2544), which is never routed; another for each test run
        worker = int("0" + os.environ.get("PYTEST_XDIST_WORKER", "")[2:]) % 2
        self.net = f"198.18.{50 + worker * 100 + (os.getpid() // 2 + number) % 100}"
        self.hosts = []
        self.sshd = [x for option in sshd for x in ("-o", option)]
        self.key, self.known_hosts = directory / "key", directory / "known_hosts"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "farm", "-f", self.key], check=True)
        guard.command(plain_env(), "ip", "link", "del", self.bridge)
        try:
            self._up(count)
        except BaseException:
            self.down()
            raise

    def _up(self, count):
        # with no host up, a packet for one is refused here and never leaves this machine
        _ip("route", "replace", "unreachable", f"{self.net}.0/24", "metric", "4000000000")
        _ip("link", "del", self.bridge, check=False)
        _ip("link", "add", self.bridge, "address", self.mac, "type", "bridge")
        _ip("addr", "add", f"{self.net}.1/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        self.hosts = [Host(self, i + 1) for i in range(count)]
        with open(self.known_hosts, "w") as f:
            for h in self.hosts:
                f.write(f"{h.address} {' '.join((h.dir / 'host_key.pub').read_text().split()[:2])}\n")
        for h in self.hosts:
            h.boot()
        for h in self.hosts:
            h.ready()

    def lines(self, options="", hosts=None):
        return "; ".join(f"{h.name} root@{h.address} {options}" for h in hosts or self.hosts)

    def leftovers(self, keepers):
        """Of all hosts; without the keepers of a vmm that is there."""
        return leftovers(self.hosts, keepers)

    def settings(self, options="", hosts=None):
        return {"ssh_host": self.lines(options, hosts), "ssh_key": self.key, "ssh_known_hosts": self.known_hosts,
                "ssh_config": "/dev/null"}

    def down(self):
        for h in self.hosts:
            h.power_off()
        _ip("link", "del", self.bridge, check=False)
        _ip("route", "del", "unreachable", f"{self.net}.0/24", "metric", "4000000000", check=False)
        for h in self.hosts:
            wait_for(f"groups of {h.name} to go", lambda h=h: h.remove_groups() or not h.tops(), 5)


@contextlib.contextmanager
def farms(work_dir):
    """A function that boots one more, of so many hosts; all go down at the end."""
    if not usable():
        pytest.skip("needs root, unshare, ip, ssh and sshd")
    up = []

    def make(count, **more):
        up.append(Farm(work_dir / f"farm{len(up)}", count, **more))
        return up[-1]
    try:
        yield make
    finally:
        for farm in up:
            farm.down()
