"""The docker driver by itself (driver_probe), against real engines that are this test run's own: Docker's and Podman's."""

import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time

import pytest

from harness import image
from harness.process import plain_env, wait_for
from harness.stack import BUILD

PROBE = BUILD / "driver_probe"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROBE.exists(), reason="make build/driver_probe first"),
]


class Driver:
    def __init__(self, engine, data):
        self.engine, self.data = engine, data

    def env(self, **more):
        return plain_env(**{
            "MILONGA_DATA_DIR": self.data, "MILONGA_DOCKER_URL": self.engine.url, "MILONGA_DEPLOYMENT": "mdd",
            "MILONGA_PREFIX": "mdd", "MILONGA_VMM_NAME": "v1", "MILONGA_AUTODRIVER": BUILD / "autodriver", **more})

    def start(self, *args, env=None, **keys):
        return subprocess.Popen([PROBE, "docker", *map(str, args), *(f"{k}={v}" for k, v in keys.items())],
                                env=env or self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, *args, timeout=90, **keys):
        p = self.start(*args, **keys)
        p.out, p.err = p.communicate(timeout=timeout)
        return p

    def job(self, *lines, **keys):
        return self.call("run", image.NAME, makefile="all:\\n" + "".join(f"\\t@{x}\\n" for x in lines), **keys)

    def list(self):
        return self.call("list").out.split()


@pytest.fixture
def driver(engine, work_dir):
    d = Driver(engine, work_dir / "driver")
    yield d
    d.call("reap", "all")
    assert d.list() == []


def test_invariant_4_one_life_leaves_nothing(driver):
    done = driver.job("id -un; pwd; cat")
    assert done.returncode == 0, done.err
    assert done.out == "autograde\n/home/autograde/autolab\n"
    assert "outcome=exited\nstatus=0\n" in done.err
    assert driver.list() == []


def test_images_have_their_names(driver):
    names = dict(line.split() for line in driver.call("images").out.splitlines())
    assert names[image.NAME] == names[image.NAME + ":latest"]
    assert names[image.NAME].startswith("sha256:")


def test_limits_and_privileges(driver):
    out = driver.job("grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", "ls /sys/class/net",
                     "touch /.milonga/x || echo read-only").out
    assert "CapEff:\t0000000000000000" in out and "NoNewPrivs:\t1" in out and "Seccomp:\t2" in out
    assert "\nlo\n" in out and "\neth0\n" not in out and out.endswith("read-only\n")
    assert int(re.search(r"CapBnd:\t(\w+)", out)[1], 16) == 0xeb
    many = driver.job("for i in $$(seq 40); do sleep 3 & done; wait", pids=10)
    assert "fork" in many.out


def test_memory_kill_is_told(driver):
    """By the autodriver, from inside, also where the job lives on and where the engine never says it."""
    done = driver.job("head -c 90m /dev/zero | tail -c 85m | wc -c", memory=64, timeout_ms=60000)
    assert re.search(r"oom_kills=[1-9]", done.err), done.err
    assert int(re.search(r"peak_kb=(\d+)", done.err)[1]) in range(60000, 66000)
    done = driver.job("exit 3", memory=64)
    assert "oom_kills=0\n" in done.err and re.search(r"peak_kb=[1-9]", done.err), done.err


@pytest.mark.parametrize("step", ["init", "ready", "load", "go"])
def test_invariant_4_a_vmm_that_was_killed_leaves_what_its_successor_finds(driver, step):
    assert driver.job("sleep 30", id=4000, **{"kill-after": step}).returncode == -signal.SIGKILL
    assert driver.list() == [f"mdd-4000-{image.NAME}"]
    # Under the same name again: what is there is ours, and goes.
    assert driver.job("true", id=4000).returncode == 0
    assert driver.list() == []


def test_what_another_vmm_made_is_left_alone(driver):
    assert driver.job("sleep 30", id=4001, **{"kill-after": "init"}).returncode == -signal.SIGKILL
    other = driver.env(MILONGA_VMM_NAME="v2")
    taken = driver.job("true", id=4001, env=other)
    assert taken.returncode == 1 and "code=EEXIST" in taken.err and "class=temporary" in taken.err
    driver.call("reap", f"mdd-4001-{image.NAME}", env=other)
    assert driver.list() == [f"mdd-4001-{image.NAME}"]


@pytest.mark.parametrize("ms", [1, 40, 200])
def test_cancelled_while_it_is_made(driver, ms):
    done = driver.job("true", cancel_ms=ms)
    assert "code=ECANCELED" in done.err or done.returncode == 0  # a fast engine was done before
    assert driver.list() == []


def test_no_image_is_the_jobs_trouble(driver):
    done = driver.call("run", "nope", digest="sha256:" + "0" * 64)
    assert "class=refused code=ENOENT" in done.err


def test_a_disk_limit_without_quotas_is_held_by_looking(driver):
    """Over it the autodriver is told to end, so that what the job printed is not lost."""
    begun = time.monotonic()
    done = driver.job("echo before; head -c 100m /dev/zero >big; sleep 60", disk=50 << 20, ask_limit=1)
    assert "docker.disk_watched" in done.err
    assert "outcome=lease_lost" in done.err and "probe.limit 2" in done.err, done.err
    assert done.out == "before\n" and time.monotonic() - begun < 30
    done = driver.job("head -c 40m /dev/zero >big; sleep 2.5", disk=50 << 20, ask_limit=1)
    assert "outcome=exited\nstatus=0\n" in done.err and "probe.limit 0" in done.err, done.err


def test_import_takes_one_image_and_no_other_name(driver, tmp_path):
    e = driver.engine
    one, two, junk = tmp_path / "one", tmp_path / "two", tmp_path / "junk"
    before = e.docker("images", "-q", "--no-trunc", image.NAME).strip()
    small = tmp_path / "small.tar"
    subprocess.run(["tar", "-C", str(BUILD), "-cf", str(small), "autodriver"], check=True)
    e.docker("import", small, "mdd/a:1")
    e.docker("import", "-c", "ENV X=1", small, "mdd/b:1")
    e.docker("save", "-o", one, "mdd/a:1")
    e.docker("save", "-o", two, "mdd/a:1", "mdd/b:1")
    e.docker("rmi", "mdd/a:1", "mdd/b:1")
    junk.write_bytes(os.urandom(100000))

    assert "2 images" in driver.call("import", two, "mdd-new").err
    assert "class=refused" in driver.call("import", junk, "mdd-new").err
    assert "mdd" not in driver.call("images").out
    # A tag of the archive that already means something else goes on meaning it.
    e.docker("tag", image.NAME, "mdd/a:1")
    try:
        assert driver.call("import", one, "mdd-new").returncode == 0
        names = dict(line.split() for line in driver.call("images").out.splitlines())
        assert names["mdd/a:1"] == before and names["mdd-new"] != before
        assert names["mdd-new:latest"] == names["mdd-new"]
    finally:
        e.docker("rmi", "mdd/a:1", "mdd-new")


def forged(archive, path, change):
    """The archive with its manifest changed: `change` gets it and the entries' writer, and returns what is written as manifest.json."""
    with tarfile.open(archive) as old, tarfile.open(path, "w") as new:
        def add(name, data=b"", **how):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for member, value in how.items():
                setattr(entry, member, value)
            new.addfile(entry, io.BytesIO(data))
        for entry in old:
            if entry.name == "manifest.json":
                manifest = change(json.load(old.extractfile(entry)), add)
                if manifest:
                    add("manifest.json", json.dumps(manifest).encode())
            elif entry.name != "repositories":
                new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
    return path


def test_invariant_9_an_archive_does_not_say_whose_image_it_becomes(driver, tmp_path):
    """Engines give the names in an archive to what is loaded, one image after the other, also when a later one is broken."""
    e = driver.engine
    before = e.docker("images", "-q", "--no-trunc", image.NAME).strip()
    one, small, path = tmp_path / "one", tmp_path / "small.tar", tmp_path / "forged"
    subprocess.run(["tar", "-C", str(BUILD), "-cf", str(small), "milonga"], check=True)
    e.docker("import", small, "mde/a:1")
    e.docker("save", "-o", one, "mde/a:1")
    e.docker("rmi", "mde/a:1")

    def taken(m):
        m[0]["RepoTags"] = [f"{image.NAME}:latest", "mde/victim:1"]
        return m

    def broken_second(m, add):
        return taken(m) + [{**m[0], "Layers": ["nowhere/layer.tar"]}]

    def behind_a_link(m, add):
        add("other.json", json.dumps(taken(m)).encode())
        add("manifest.json", type=tarfile.SYMTYPE, linkname="other.json")

    def through_a_folder(m, add):
        add("d", type=tarfile.SYMTYPE, linkname=".")
        add("d/manifest.json", json.dumps(taken(m)).encode())

    for change, said in ((broken_second, "2 images"), (behind_a_link, "not where"), (through_a_folder, "not where"),
                         (lambda m, add: None, "no manifest.json"), (lambda m, add: add("manifest.json", b"{"), "is no JSON")):
        done = driver.call("import", forged(one, path, change), "mde-new")
        assert done.returncode != 0 and said in done.err and "class=refused" in done.err, done.err
    e.docker("tag", image.NAME, "mde/victim:1")
    try:
        assert driver.call("import", forged(one, path, lambda m, add: taken(m)), "mde-new").returncode == 0
        names = dict(line.split() for line in driver.call("images").out.splitlines())
        assert names[image.NAME] == names["mde/victim:1"] == before and names["mde-new"] != before
    finally:
        e.docker("rmi", "mde/victim:1", "mde-new")


def test_a_frozen_engine_is_given_up_and_cleaned_after(driver):
    pid = driver.engine.process.pid
    p = driver.start("run", image.NAME, id=6000, deadline_ms=2000)
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        _, err = p.communicate(timeout=60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert p.returncode == 1 and time.monotonic() - begun < 30, err
    wait_for("an engine again", lambda: driver.call("health").returncode == 0, 30)
    driver.call("reap", "all")
