"""The oci driver by itself (driver_probe) and the image store under it (`milonga image`): real crun, real kernel.

Needs root, crun, and what `make` builds; each test has a data_dir, a deployment and a cgroup of its own.
"""

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile

import pytest

from harness.process import own_address, plain_env, wait_for
from harness.stack import BUILD

PROBE, CLIENT = BUILD / "driver_probe", BUILD / "milonga"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("crun"), reason="needs crun"),
    pytest.mark.skipif(not (PROBE.exists() and CLIENT.exists()), reason="not built"),
]


class Host:
    def __init__(self, data):
        self.data, self.name = data, f"mo{os.getpid()}"
        self.env = plain_env(
            MILONGA_DATA_DIR=data, MILONGA_DEPLOYMENT=self.name, MILONGA_CGROUP_PARENT=self.name,
            MILONGA_VMM_NAME="v", MILONGA_OCI_HOST_IMAGE="yes", MILONGA_AUTODRIVER=BUILD / "autodriver")

    def call(self, program, *args, timeout=60):
        return subprocess.run([program, *map(str, args)], env=self.env, capture_output=True, text=True,
                              timeout=timeout)

    def probe(self, *args, **keys):
        return self.call(PROBE, "oci", *args, *(f"{k}={v}" for k, v in keys.items()))

    def job(self, *lines, image="host", **keys):
        done = self.probe("run", image, makefile="all:\\n" + "".join(f"\\t@{line}\\n" for line in lines), **keys)
        assert done.returncode == 0, done.stderr
        return done

    def image(self, *args):
        return self.call(CLIENT, "image", *args)

    def leftovers(self):
        base = self.data / "oci" / self.name / "v"
        bundles = [p.name for p in base.glob("*") if not p.name.startswith(".")]
        groups = [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob(f"*/{self.name}/*/*") if p.is_dir()]
        mounts = [m for m in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(self.data) in m]
        return bundles + groups + mounts


@pytest.fixture
def host(work_dir):
    data = work_dir / "oci-data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    host = Host(data)
    yield host
    assert host.leftovers() == []


# ---- machines ----

def test_a_job_runs_as_nobody_in_particular(host):
    done = host.job("id -un", "pwd", "hostname", "test ! -e /etc/shadow && echo no secrets", "grep -c . /proc/net/dev",
                    "grep CapEff /proc/self/status", "python3 -c \"import socket; s = socket.create_server(('localhost', 0)); "
                    "socket.create_connection(s.getsockname()); print('lo')\"")
    assert done.stdout.splitlines() == ["autograde", "/home/autograde/autolab", "milonga", "no secrets", "3",
                                        "CapEff:\t0000000000000000", "lo"]


@pytest.mark.parametrize("attempt", [
    "mknod /tmp/n c 1 3", "mount -t tmpfs t /tmp", "unshare -U true", "unshare -r true", "ls /proc/1/root",
    "cat /proc/1/environ", "kill -9 1", "kill -STOP 1", "echo x > /.milonga/autodriver", "rm -f /.milonga/autodriver",
    "touch /etc/x", "touch /usr/x", "echo 1 > /proc/sys/kernel/core_pattern", "chroot / true", "dmesg",
    "ls /sys/firmware/*", "hostname x", "echo 1 > /sys/kernel/mm/ksm/run",
])
def test_invariant_7_what_a_job_may_not(host, attempt):
    done = host.job(f"if {attempt}; then echo DONE; else echo refused; fi")
    assert done.stdout.splitlines()[-1] == "refused", done.stdout


def test_memory_limit(host):
    done = host.job("python3 -c \"x = bytearray(300 << 20)\"; echo $$?", memory=128, ask_limit=1)
    assert "137" in done.stdout and "probe.limit 1" in done.stderr


@pytest.mark.skipif(not (shutil.which("slirp4netns") and os.path.exists("/dev/net/tun")), reason="needs slirp4netns")
def test_network_by_slirp_reaches_out_and_not_the_loopback(host):
    host.env["MILONGA_OCI_NETWORK"] = "slirp"
    with socket.create_server(("127.0.0.1", 0)) as inner, socket.create_server((own_address(), 0)) as outer:
        tries = [("outer", outer.getsockname()), ("inner", ("10.0.2.2", inner.getsockname()[1])),
                 ("lo", ("127.0.0.1", inner.getsockname()[1]))]
        lines = [f"python3 -c \"import socket; socket.create_connection(('{a}', {p}), 3)\" 2>/dev/null && echo {name} || true"
                 for name, (a, p) in tries]
        lines.append("cat /etc/resolv.conf")
        done = host.job(*lines, network=1)
        assert done.stdout.split("\n")[:2] == ["outer", "nameserver 10.0.2.3"], done.stdout
        assert host.job(*lines[:3], network=0).stdout == ""
        children = subprocess.run(["pgrep", "-fa", f"slirp4netns.*{host.name}"], capture_output=True, text=True)
        assert children.stdout == ""


def test_invariant_7_network_that_cannot_be_had_is_refused_at_start(host):
    host.env.update(MILONGA_OCI_NETWORK="slirp", MILONGA_OCI_CRUN=shutil.which("crun"), PATH=str(host.data))
    done = host.probe("run", "host", makefile="all:\\n\\ttrue\\n", network=1)
    assert done.returncode != 0 and "apt-get install slirp4netns, or set oci_network = none" in done.stderr


def test_fork_bomb_ends_with_its_machine(host):
    done = host.job("b() { b | b & }; b; sleep 1; echo still here", pids=40)
    assert "still here" in done.stdout


def test_a_full_disk_is_an_error_and_not_the_end(host):
    done = host.job("for d in /tmp /var/tmp /dev/shm $$HOME; do dd if=/dev/zero of=$$d/x bs=1M count=600 2>&1 | "
                    "grep -c 'No space'; done", memory=256, disk=512, ask_limit=1)
    assert done.stdout.split() == ["1"] * 4 and "probe.limit 0" in done.stderr


@pytest.mark.parametrize("when", ["init", "ready", "load", "go"])
def test_invariant_4_a_killed_vmm_leaves_nothing_that_reap_does_not_find(host, when):
    assert host.probe("run", "host", "kill-after=" + when, makefile="all:\\n\\tsleep 60\\n").returncode == -9

    def ended():  # by the end of its pipe, with nobody's help
        groups = pathlib.Path("/sys/fs/cgroup").glob(f"*/{host.name}/*/*/cgroup.procs")
        return not any(p.read_text() for p in groups)
    wait_for("the machine's processes to end", ended, 10)
    assert host.probe("list").stdout.split() == ["local-1000-host"]
    assert host.probe("reap", "all").returncode == 0
    assert host.probe("list").stdout == ""


@pytest.mark.parametrize("ms", [0, 5, 15, 30])
def test_a_machine_that_is_cancelled_or_late_is_gone(host, ms):
    host.probe("run", "host", cancel_ms=ms, makefile="all:\\n\\ttrue\\n")
    host.probe("run", "host", deadline_ms=ms, makefile="all:\\n\\ttrue\\n")
    assert host.leftovers() == []


# ---- images ----

def tar(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, tuple):
                info.type, info.linkname = content
            else:
                info.size = len(content)
            t.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


LOWER = tar(("d", None), ("d/gone", b"1"), ("d/kept", b"2"), ("o", None), ("o/below", b"3"), ("up", (tarfile.SYMTYPE, "/etc")))
UPPER = tar(("d/.wh.gone", b""), ("o/.wh..wh..opq", b""), ("./o/above", b"4"))
LAYERS = [LOWER, UPPER]


def config(layers=LAYERS):
    return json.dumps({"architecture": "amd64", "rootfs": {"diff_ids": ["sha256:" + sha(x) for x in layers]}}).encode()


def docker_save(conf=None):
    manifest = [{"Config": "c.json", "RepoTags": ["x:latest"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    return tar(("a/layer.tar", LOWER), ("b/layer.tar", (tarfile.SYMTYPE, "../z/layer.tar")), ("z/layer.tar", UPPER),
               ("c.json", conf or config()), ("manifest.json", json.dumps(manifest).encode()))


def oci_layout():
    blobs = [gzip.compress(x) for x in LAYERS]
    manifest = json.dumps({"config": {"digest": "sha256:" + sha(config())},
                           "layers": [{"digest": "sha256:" + sha(b)} for b in blobs]}).encode()
    index = json.dumps({"manifests": [{"digest": "sha256:" + sha(manifest)}]}).encode()
    return tar(("oci-layout", b"{}"), ("index.json", index),
               *((f"blobs/sha256/{sha(b)}", b) for b in [*blobs, manifest, config()]))


@pytest.mark.parametrize("archive", [docker_save, oci_layout, lambda: gzip.compress(docker_save())])
def test_import_makes_overlay_layers(host, archive):
    (host.data / "i.tar").write_bytes(archive())
    done = host.image("import", host.data / "i.tar", "--name", "x:latest")
    assert done.stdout.split() == ["x:latest", "sha256:" + sha(config())], done.stderr
    lower, upper = (host.data / "images" / "layers" / sha(x) for x in LAYERS)
    assert (lower / "d" / "gone").read_bytes() == b"1" and os.readlink(lower / "up") == "/etc"
    gone = (upper / "d" / "gone").lstat()
    assert (gone.st_mode & 0o170000, gone.st_rdev) == (0o020000, 0)
    assert os.getxattr(upper / "o", "trusted.overlay.opaque") == b"y"
    assert f"x:latest sha256:{sha(config())}\nx sha256:" in host.probe("images").stdout
    assert host.image("remove", "x:latest").returncode == 0
    assert not any((host.data / "images" / "layers").iterdir()) and not any((host.data / "images" / "tmp").iterdir())


@pytest.mark.parametrize("what, data, says", [
    ("dotdot", tar(("a/../../x", b"1")), "bad path"),
    ("deep", tar(("a/" * 200 + "x", b"1")), "bad path"),
    ("cut", tar(("a", b"1" * 99999))[:50000], "Truncated"),
    ("junk", b"junk" * 4096, "not a tar"),
    ("config", docker_save(config([LOWER, LOWER + b"x"])), "SHA-256"),
    ("lost", tar(("manifest.json", b'[{"Config": "../../../etc/passwd", "Layers": []}]')), "has no file"),
    ("link", tar(("up", (tarfile.SYMTYPE, "/")), ("up/tmp/milonga-escaped", b"1")), ""),
    ("hard", tar(("h", (tarfile.LNKTYPE, "/etc/shadow"))), ""),
])
def test_invariant_6_bad_archives_are_refused_and_leave_nothing(host, what, data, says):
    (host.data / "i.tar").write_bytes(data)
    done = host.image("import", host.data / "i.tar", "--name", what)
    assert not os.path.exists("/tmp/milonga-escaped")
    if says or done.returncode:
        assert done.returncode == 1 and says in done.stderr
        assert not any((host.data / "images" / "layers").iterdir())
    assert not any((host.data / "images" / "tmp").iterdir())


@contextlib.contextmanager
def held(layer):
    """What a machine on this layer does."""
    fd = os.open(layer, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    yield
    os.close(fd)


def test_an_image_in_use_is_not_removed(host):
    (host.data / "i.tar").write_bytes(tar(("bin", None)))
    assert host.image("import", host.data / "i.tar", "--name", "small").returncode == 0
    digest = host.image("list").stdout.split()[1]
    layer = host.data / "images" / "layers" / digest[7:]
    with held(layer):
        done = host.image("remove", "small")
        assert done.returncode == 1 and "in use" in done.stderr
    assert host.image("remove", "small").returncode == 0
    assert host.image("remove", "small").returncode == 1
