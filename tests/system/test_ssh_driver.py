"""The ssh driver on real sshd hosts in namespaces (harness/hosts.py): by itself (driver_probe), and in an installation.

What is left on a host is looked at from outside of it, before the harness takes it down.
"""

import os
import re
import signal
import subprocess
import time

import pytest

from harness import image
from harness.process import plain_env, wait_for
from harness.stack import BUILD
from harness.tango import messages

PROBE = BUILD / "driver_probe"
DONE = "Success: Autodriver returned normally"
DEAD_MS = 4000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROBE.exists(), reason="make build/driver_probe first"),
]


@pytest.fixture(scope="module")
def farm(make_farm):
    return make_farm(4)


def clean(farm, keepers=False):
    """Nothing of a machine is there; of a vmm neither, unless it keeps them still."""
    last = []

    def nothing():
        last[:] = farm.leftovers(keepers)
        return not last
    try:
        wait_for("clean hosts", nothing, 15, 0.1)
    except AssertionError as e:
        raise AssertionError(f"{e}: {last}") from None


# ---- by itself ----

class Probe:
    def __init__(self, farm, data, host, options="slots=2"):
        self.farm, self.data, self.host, self.options = farm, data, host, options

    def env(self, **more):
        settings = dict(self.farm.settings(self.options, [self.host]), data_dir=self.data, deployment="mts", vmm_name="v",
                        ssh_dead_ms=f"{DEAD_MS}ms", autodriver=BUILD / "autodriver")
        return plain_env(**{f"MILONGA_{k.upper()}": v for k, v in {**settings, **more}.items()})

    def start(self, *args, env=None, **keys):
        return subprocess.Popen([PROBE, "ssh", *map(str, args), *(f"{k}={v}" for k, v in keys.items())],
                                env=env or self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, *args, timeout=90, **keys):
        p = self.start(*args, **keys)
        p.out, p.err = p.communicate(timeout=timeout)
        return p

    def job(self, *lines, **keys):
        p = self.call("run", "ssh", makefile="all:\\n" + "".join(f"\\t@{x}\\n" for x in lines), **keys)
        assert p.returncode == 0, p.err
        return p


@pytest.fixture
def probe(farm, work_dir):
    p = Probe(farm, work_dir / "probe", farm.hosts[0])
    yield p
    clean(farm)
    sockets = [f for d in (p.data / "ssh").glob("*") for f in d.iterdir()]
    assert not sockets  # no master is left


def test_a_job_on_a_host(probe):
    done = probe.job("id -un", "pwd", "ls -A ..", "test `ls /proc | grep -c '^[0-9]'` -lt 9 && echo few", "tail -n +3 /proc/net/dev | cut -d: -f1",
                     "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", "echo x >/tmp/x; ls -A /tmp /var/tmp /dev/shm")
    assert done.out.splitlines() == [
        "autograde", "/home/autograde/autolab", "autolab", "few", "    lo",
        "CapEff:\t0000000000000000", "CapBnd:\t00000000000000eb", "NoNewPrivs:\t1", "Seccomp:\t2",
        "/dev/shm:", "", "/tmp:", "x", "", "/var/tmp:"]


MAY_NOT = ["mknod /tmp/n c 1 3", "mount -t tmpfs t /tmp", "unshare -U true", "unshare -r true", "ls /proc/1/root", "kill -9 1",
           "touch /etc/x", "touch /usr/x", "touch /run/x", "touch /var/lib/milonga-host/x", "ls /var/lib/milonga-host/m",
           "cat /var/lib/milonga-host/owner", "echo 1 >/proc/sys/kernel/core_pattern", "chroot / true", "hostname x",
           "mkdir /sys/fs/cgroup/memory/x", "cat /proc/1/environ", "test -w /var/lib/milonga-host/autodriver-*"]


def test_invariant_7_what_a_job_may_not(probe):
    done = probe.job(*(f"if {x}; then echo 'did {x}'; fi 2>/dev/null" for x in MAY_NOT), "echo end")
    assert done.out == "end\n"


def test_invariant_7_limits_are_held(probe):
    done = probe.job("python3 -c 'x = bytearray(300 << 20)'; echo $$?", memory=128, ask_limit=1)
    assert "137" in done.out and "probe.limit 1" in done.err
    done = probe.job("for d in /tmp /var/tmp /dev/shm $$HOME; do dd if=/dev/zero of=$$d/x bs=1M count=600 2>&1 | "
                     "grep -c 'No space'; done", "for i in $$(seq 40); do sleep 3 & done 2>&1; wait", pids=10, memory=256,
                     disk=512 << 20, ask_limit=1)
    assert done.out.split()[:4] == ["1"] * 4 and "fork" in done.out.lower() and "probe.limit 0" in done.err
    done = probe.job("tail -n +3 /proc/net/dev | cut -d: -f1", network=1)
    assert "eth0" in done.out


@pytest.mark.parametrize("step", ["init", "ready", "load", "go"])
def test_invariant_4_a_killed_vmm_leaves_nothing(probe, step):
    """And the host is free at once for the next one."""
    assert probe.call("run", "ssh", "kill-after=" + step, makefile="all:\\n\\tsleep 60\\n").returncode == -signal.SIGKILL
    clean(probe.farm)
    assert "it runs" in probe.call("run", "ssh").out


def test_a_machine_that_is_cancelled_is_gone(probe):
    for ms in (0, 5, 20, 60):
        probe.call("run", "ssh", cancel_ms=ms, makefile="all:\\n\\ttrue\\n")
    clean(probe.farm)


def test_strangers_are_refused(probe, farm):
    """Each with its reason: another's key, a host key that is not the known one, one that is not known at all."""
    other = farm.hosts[1].dir / "host_key"
    wrong = probe.data.parent / "wrong_hosts"
    wrong.write_text(f"{probe.host.address} {' '.join((farm.hosts[1].dir / 'host_key.pub').read_text().split()[:2])}\n")
    for settings, reason in (({"ssh_key": other}, "Permission denied"), ({"ssh_known_hosts": wrong}, "Host key verification failed"),
                             ({"ssh_known_hosts": "/dev/null"}, "Host key verification failed")):
        done = probe.call("health", env=probe.env(**settings))
        assert done.returncode == 1 and reason in done.err and f"host={probe.host.name}" in done.err, done.err


def test_two_vmms_do_not_share_a_host(probe):
    first = probe.start("run", "ssh", makefile="all:\\n\\tsleep 4; echo undisturbed\\n")
    wait_for("the first one's machine", lambda: any(" sleep 4" in f" {p}" for p in probe.host.processes()))
    second = probe.call("health", env=probe.env(vmm_name="w", data_dir=f"{probe.data}2"))
    assert second.returncode == 1 and "the host is used by mts/v" in second.err, second.err
    assert "undisturbed" in first.communicate(timeout=30)[0]


def test_a_host_that_is_not_fit_says_why(probe):
    """A full disk, and a directory that others may write: told, and over when it is mended."""
    init = probe.host.exec
    init("sh", "-c", "rm -rf /var/lib/milonga-host; dd if=/dev/zero of=/var/lib/fill bs=1M")
    done = probe.call("health")
    assert done.returncode == 1 and ("cannot write" in done.err or "No space" in done.err), done.err
    init("sh", "-c", "rm /var/lib/fill; mkdir -p /var/lib/milonga-host; chown 1001 /var/lib/milonga-host")
    done = probe.call("health")
    assert done.returncode == 1 and "others could put programs there" in done.err, done.err
    init("chown", "0", "/var/lib/milonga-host")
    assert "it runs" in probe.call("run", "ssh").out


# ---- in an installation ----

@pytest.fixture(scope="module")
def stack(farm, make_stack):
    return make_stack(
        start=False, driver="ssh", slots="0", job_memory_mb="128", job_pids="60", ssh_dead_ms=f"{DEAD_MS}ms", retry_cap_ms="4s",
        **farm.settings(f"slots=2 images={image.NAME}")).start()


@pytest.fixture(autouse=True)
def nothing_left(request):
    yield
    if "stack" in request.fixturenames:
        clean(request.getfixturevalue("farm"), keepers=True)


def up(stack, host, since=0):
    return re.search(rf"event=host.up host={host.name} ", stack.vmm.text()[since:])


def out(stack, host, since=0):
    return re.search(rf"event=host.out host={host.name} reason=(.*)", stack.vmm.text()[since:])


def all_up(stack, farm, timeout=40):
    def last_word(host):
        return (re.findall(rf"event=host\.(up|out) host={host.name} ", stack.vmm.text()) or [""])[-1]
    wait_for("all hosts to be up", lambda: all(last_word(h) == "up" for h in farm.hosts), timeout)


def host_of(farm, stack, ident):
    def found():
        number = (stack.tango.job(ident)[0].get("vm") or {}).get("id")
        return next((h for h in farm.hosts if number and any(f"/local-{number}-" in g for g in h.groups())), None)
    return wait_for(f"the host of job {ident}", found)


def test_invariant_4_a_host_lost_in_each_step_costs_that_attempt(stack, farm):
    """One is cut off while files go in, one stands still (and keeps its connection) while the job runs, one dies while the
    output comes out. The fourth does their work; they come back, and are clean."""
    all_up(stack, farm)
    copy_in, run, copy_out, good = farm.hosts
    copy_in.rate(to_host="4mbit")
    copy_out.rate(from_host="400kbit")
    first = stack.tango.submit("autograde:\n\t@wc -c < big\n", files={"big": os.urandom(6 << 20)})
    assert host_of(farm, stack, first[0]) is copy_in
    second = stack.tango.submit("autograde:\n\t@echo begun; sleep 3; echo ended\n")
    assert host_of(farm, stack, second[0]) is run
    sent = copy_out.sent_bytes()
    third = stack.tango.submit("autograde:\n\t@yes 0123456789 | head -c 900000; echo; echo last\n")
    stack.tango.wait_output(second[0], "begun")
    # the job itself is over soon: sshd has all of it, and a long way to send it
    wait_for("the output to be on its way", lambda: copy_out.sent_bytes() > sent + 100000)
    wait_for("its job to be over", lambda: not copy_out.groups())
    mark, began = len(stack.vmm.text()), time.monotonic()
    try:
        copy_in.cut()
        run.freeze()
        copy_out.power_off()
        for h in (copy_in, run, copy_out):
            wait_for(f"{h.name} to be given up", lambda h=h: out(stack, h, mark), 12)
        assert time.monotonic() - began < 12
        for (ident, lab, output), last in ((first, b"6291456\n"), (second, b"begun\nended\n"), (third, b"\nlast\n")):
            entry = stack.tango.wait_dead(ident, 60)
            assert messages(entry)[-1] == DONE, entry
            assert stack.tango.poll(lab, output).endswith(last)
        # who was cut off ends its job by itself: nobody could tell it to
        wait_for("the lease to end what was cut off", lambda: not copy_in.groups() and not copy_in.processes(), 20)
    finally:
        copy_in.rate()
        copy_in.heal()
        run.thaw()
        copy_out.power_off()
        copy_out.boot().ready()
    all_up(stack, farm, 90)


def test_fifty_jobs_while_a_host_dies(stack, farm):
    all_up(stack, farm)
    victim = farm.hosts[2]

    def submit(numbers, seconds):
        return [stack.tango.submit(f"autograde:\n\t@sleep {seconds}; echo job {i}\n") for i in numbers]
    jobs = submit(range(12), 3)
    wait_for("jobs on each host", lambda: all(h.groups() for h in farm.hosts))
    victim.power_off()
    victim.boot().ready()  # at once: that it was away must not be noticed by its absence alone
    jobs += submit(range(12, 50), 0.2)
    for i, (ident, lab, output) in enumerate(jobs):
        stack.tango.wait_dead(ident, 90)
        assert stack.tango.poll(lab, output).endswith(f"\njob {i}\n".encode())
    all_up(stack, farm)


def test_invariant_4_a_killed_vmm_comes_back_to_its_hosts(stack, farm):
    all_up(stack, farm)
    jobs = [stack.tango.submit("autograde:\n\t@sleep 2; echo done\n") for _ in range(3)]
    wait_for("the jobs to run", lambda: sum("sleep 2" in p for h in farm.hosts for p in h.processes()) >= 3)
    stack.vmm.kill()
    stack.vmm.start()
    for ident, lab, output in jobs:
        stack.tango.wait_dead(ident, 60)
        assert stack.tango.poll(lab, output).endswith(b"\ndone\n")


def test_labels_and_exclusive_hosts(farm, make_stack, stack):
    """A timing lab has its host for itself, and a label that only one host has leads there."""
    stack.stop()
    clean(farm)
    one, two = farm.hosts[0], farm.hosts[1]
    settings = farm.settings()
    settings["ssh_host"] = (f"one root@{one.address} exclusive=yes images={image.NAME}; "
                            f"two root@{two.address} slots=3 labels=big images={image.NAME}")
    other = make_stack(driver="ssh", slots="0", pool_size="1", ssh_dead_ms=f"{DEAD_MS}ms", **settings)
    stamp = "autograde:\n\t@date +%s.%N; sleep 0.3; date +%s.%N\n"
    v1 = {"labels": ["exclusive"]}
    jobs = [other.tango.submit(stamp, **v1) for _ in range(4)]
    big = other.tango.submit("autograde:\n\t@sleep 1\n", labels=["big"])
    assert host_of(farm, other, big[0]) is two
    times = []
    for ident, lab, output in jobs:
        other.tango.wait_dead(ident)
        times.append(tuple(map(float, other.tango.poll(lab, output).decode().split()[-2:])))
    times.sort()
    assert all(a[1] < b[0] for a, b in zip(times, times[1:])), times
    both = other.tango.submit("autograde:\n\t@true\n", labels=["big", "exclusive"])
    entry = other.tango.wait_dead(both[0])
    assert "no host of this worker has image" in messages(entry)[-1], entry
    other.stop()
    clean(farm)


# ---- containers of the host's own engine

def test_containers_on_a_host(farm, docker, work_dir):
    """The engine is this run's own; the host finds it where a host's engine listens."""
    host = farm.hosts[3]
    directory = work_dir / "engine-host"
    directory.mkdir(mode=0o711)
    assert host.exec("ln", "-sf", docker.url.removeprefix("unix://"), "/run/docker.sock").returncode == 0
    p = Probe(farm, work_dir / "probe-engine", host, f"slots=2 mode=docker dir={directory}")

    def run(*lines, **keys):
        return p.call("run", image.NAME, makefile="all:\\n" + "".join(f"\\t@{x}\\n" for x in lines), timeout=180, **keys)
    done = run("id -un; pwd; ls /sys/class/net; grep -E 'CapEff|Seccomp:' /proc/self/status", memory=128, pids=50)
    assert done.returncode == 0, done.err
    assert done.out == "autograde\n/home/autograde/autolab\nlo\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
    done = run("tail /dev/zero; echo $$?", memory=64, ask_limit=1)
    assert "137" in done.out, done.err
    done = run("true", disk=5 << 20)
    assert "class=refused" in done.err and "what holds the limits" in done.err, done.err
    assert run("sleep 60", **{"kill-after": "go"}).returncode == -signal.SIGKILL
    assert "it runs" in p.call("run", image.NAME, timeout=180).out  # which sweeps
    names = subprocess.run(["docker", "-H", docker.url, "ps", "-aq", "--filter", f"label=milonga.host={directory}"],
                           capture_output=True, text=True, check=True).stdout
    assert names == "" and host.leftovers(str(directory)) == []
