"""The docker-hosts driver: one engine behind TCP with TLS, one behind a real sshd, both this test run's own; by itself
(driver_probe), and in an installation.

What is left is asked of the engines, before the harness takes them down.
"""

import pathlib
import signal
import socket
import subprocess
import threading

import pytest

from harness import engine, image
from harness.pki import Pki
from harness.process import plain_env, wait_for
from harness.stack import BUILD
from harness.tango import messages

PROBE = BUILD / "driver_probe"
DONE = "Success: Autodriver returned normally"
ONLY = "only_on_tls"
DEAD_MS = 4000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROBE.exists(), reason="make build/driver_probe first"),
]


# ---- engines ----

@pytest.fixture(scope="module")
def pki(work_dir):
    return Pki(work_dir / "pki")


@pytest.fixture(scope="module")
def tls(pki, docker):
    with engine.running(engine.DockerdTls, pki) as e:  # with an image of its own, whose id no other engine's has
        base = e.docker("create", image.NAME, "true").strip()
        e.docker("commit", "--change", "LABEL only_on=tls", base, ONLY)
        e.docker("rm", base)
        same = e.dir / "image.tar"
        docker.docker("save", "-o", same, image.NAME, timeout=300)
        e.docker("load", "-i", same, timeout=300)
        same.unlink()
        yield e
        e.docker("rmi", "--force", ONLY)


@pytest.fixture(scope="module")
def farm(make_farm):
    return make_farm(1)


@pytest.fixture(scope="module", autouse=True)
def before(tls, docker):
    for e in (tls, docker):
        e.remember()


def line_tls(tls, pki, address="127.0.0.1", ca=None, client=None, options="slots=2"):
    cert, key = client or pki.client
    return tls.line(address, ca or pki.own.ca, cert, key, options)


def line_ssh(farm, docker, options="slots=2"):
    return f"far ssh://root@{farm.hosts[0].address}{docker.socket} key={farm.key} {options}"


# ---- by itself ----

class Probe:
    def __init__(self, farm, data):
        self.farm, self.data = farm, data

    def call(self, hosts, *args, timeout=120, **keys):
        env = plain_env(MILONGA_DATA_DIR=self.data, MILONGA_DOCKER_HOST=hosts, MILONGA_DEPLOYMENT="mdh", MILONGA_PREFIX="mdh",
                        MILONGA_VMM_NAME="v1", MILONGA_AUTODRIVER=BUILD / "autodriver", MILONGA_SSH_DEAD_MS=f"{DEAD_MS}ms",
                        MILONGA_SSH_CONFIG="/dev/null", MILONGA_SSH_KNOWN_HOSTS=self.farm.known_hosts)
        p = subprocess.run([PROBE, "docker-hosts", *map(str, args), *(f"{k}={v}" for k, v in keys.items())], env=env,
                           capture_output=True, text=True, timeout=timeout)
        p.out, p.err = p.stdout, p.stderr
        return p


@pytest.fixture
def probe(farm, work_dir, tls, docker):
    p = Probe(farm, work_dir / "probe")
    yield p
    for e in (tls, docker):
        wait_for("a clean engine", lambda e=e: e.leftovers() == [], 15, 0.2)
    assert [f for d in (p.data / "dh").glob("*") for f in d.iterdir()] == []  # no socket is left


@pytest.fixture(params=["tls", "ssh"])
def host(request, tls, docker, farm, pki):
    """(engine, its line) of each kind."""
    if request.param == "tls":
        return tls, line_tls(tls, pki)
    return docker, line_ssh(farm, docker)


def makefile(*lines):
    return "all:\\n" + "".join(f"\\t@{x}\\n" for x in lines)


def test_a_job_on_each_kind_of_host(probe, host):
    e, line = host
    done = probe.call(line, "run", image.NAME, makefile=makefile(
        "id -un; pwd", "touch /.milonga/x 2>/dev/null || echo read-only", "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"))
    assert done.returncode == 0, done.err
    assert done.out == ("autograde\n/home/autograde/autolab\nread-only\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
                        "Seccomp:\t2\n")
    assert "event=host.up" in done.err
    assert "event=docker.autodriver_put" not in probe.call(line, "health").err  # it is there by now, and no other
    assert len(e.docker("volume", "ls", "-q", "--filter", "label=milonga.deployment=mdh").split()) == 1
    names = dict(x.split() for x in probe.call(line, "images").out.splitlines())
    assert image.NAME in names and not any("autodriver" in n for n in names)


def test_limits_on_each_kind_of_host(probe, host):
    _, line = host
    done = probe.call(line, "run", image.NAME, makefile=makefile("head -c 90m /dev/zero | tail -c 85m | wc -c"), memory=64,
                      timeout_ms=60000)
    assert "oom_kills=1" in done.err, done.err
    done = probe.call(line, "run", image.NAME, makefile=makefile("yes 0123456789 | head -c 90000 | md5sum; yes | head -c 90000"))
    assert done.returncode == 0 and len(done.out) > 90000, done.err


def test_a_volume_that_holds_something_else_is_mended(probe, host):
    e, line = host
    assert probe.call(line, "health").returncode == 0
    volume = e.docker("volume", "ls", "-q", "--filter", "label=milonga.deployment=mdh").strip()
    where = pathlib.Path(e.docker("volume", "inspect", "-f", "{{.Mountpoint}}", volume).strip())
    (where / "autodriver").write_bytes(b"half of it")
    done = probe.call(line, "run", image.NAME)
    assert "it runs" in done.out and "event=docker.autodriver_put" in done.err, done.err


@pytest.mark.parametrize("step", ["init", "go"])
def test_invariant_4_what_a_killed_vmm_left_is_swept(probe, host, step):
    e, line = host
    killed = probe.call(line, "run", image.NAME, makefile=makefile("sleep 60"), **{"kill-after": step})
    assert killed.returncode == -signal.SIGKILL
    assert e.leftovers()
    assert "it runs" in probe.call(line, "run", image.NAME).out
    assert e.leftovers() == []


def test_certificates_are_checked_on_both_sides(probe, tls, pki):
    def reason(**more):
        done = probe.call(line_tls(tls, pki, **more), "health")
        assert done.returncode != 0
        return done.err
    text = reason(ca=pki.other.ca)
    assert f"the certificate of 127.0.0.1:{tls.port} is not one that ca = {pki.other.ca} vouches for" in text, text
    text = reason(address="localhost")
    assert "is not for localhost but for IP Address:127.0.0.1; give the address that it names" in text, text
    text = reason(client=pki.stranger)
    assert "ended the connection: " in text and f"is cert = {pki.stranger[0]} one that it accepts?" in text, text
    text = reason(client=(pki.client[0], pki.stranger[1]))
    assert f"key = {pki.stranger[1]} is not the private key of cert = {pki.client[0]}" in text, text
    text = reason(ca="/nonexistent/ca.pem")
    assert "ca = /nonexistent/ca.pem: No such file or directory" in text, text


def test_what_ssh_says_is_the_reason(probe, farm, docker, pki):
    far = line_ssh(farm, docker)
    done = probe.call(far.replace(str(docker.socket), "/nonexistent.sock"), "health")
    assert "open failed" in done.err and "host=far" in done.err, done.err
    key = farm.dir / "other-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    done = probe.call(far.replace(f"key={farm.key}", f"key={key}"), "health")
    assert "Permission denied (publickey)" in done.err, done.err


def test_where_no_engine_listens(probe, pki, tls):
    done = probe.call(line_tls(tls, pki).replace(f":{tls.port}", ":1"), "health")
    assert "127.0.0.1:1: connect: Connection refused" in done.err, done.err
    with socket.create_server(("127.0.0.1", 0)) as plain:
        def answer():
            with plain.accept()[0] as c:
                c.recv(100)
                c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        done = probe.call(line_tls(tls, pki).replace(f":{tls.port}", f":{plain.getsockname()[1]}"), "health")
        thread.join(10)
    assert "wrong version number" in done.err and "--tlsverify" in done.err, done.err


def test_a_key_for_nothing_else(probe, farm, docker):
    """As docs/remote-docker.md restricts it."""
    key, allowed = farm.dir / "narrow-key", farm.hosts[0].dir / "authorized_keys"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    before = allowed.read_text()
    allowed.write_text(before + 'restrict,port-forwarding,command="cat" ' + key.with_suffix(".pub").read_text())
    try:
        line = line_ssh(farm, docker).replace(f"key={farm.key}", f"key={key}")
        assert "it runs" in probe.call(line, "run", image.NAME).out
    finally:
        allowed.write_text(before)


# ---- in an installation ----

@pytest.fixture(scope="module")
def stack(tls, docker, farm, pki, make_stack):
    return make_stack(driver="docker-hosts", slots="0", docker_host=f"{line_tls(tls, pki)}; {line_ssh(farm, docker)}",
                      ssh_dead_ms=f"{DEAD_MS}ms", ssh_config="/dev/null", ssh_known_hosts=farm.known_hosts)


def one_on_each(stack, tls, docker, seconds):
    """Two jobs that run; (id, lab, output) of each."""
    for e in (tls, docker):
        wait_for("no machine of before", lambda e=e: e.machines() == [], 20, 0.2)
    jobs = [stack.tango.submit(f"autograde:\n\t@echo begun; sleep {seconds}; echo ended\n") for _ in range(2)]
    for ident, _, _ in jobs:
        stack.tango.wait_output(ident, "begun")
    assert len(tls.machines()) == 1 and len(docker.machines()) == 1
    return jobs


def events(stack, event, host, mark):
    return [x for x in stack.vmm.text()[mark:].splitlines() if f"event=host.{event} host={host} " in x]


def hosts_out(stack):
    return stack.tango.ok("GET", "/pool/test/").get("hosts_out", {})


def test_jobs_on_both_at_once(stack, tls, docker):
    """More than either has room for."""
    jobs = [stack.tango.submit(f"autograde:\n\t@echo begun; sleep 6; echo job {i}\n") for i in range(4)]
    wait_for("two on each", lambda: len(tls.machines()) == 2 and len(docker.machines()) == 2, 40, 0.2)
    for i, (ident, lab, output) in enumerate(jobs):
        assert messages(stack.tango.wait_dead(ident))[-1] == DONE
        assert stack.tango.poll(lab, output).endswith(f"\njob {i}\n".encode())
    for e in (tls, docker):
        wait_for("no machine", lambda e=e: e.machines() == [], 20, 0.2)


def test_a_job_goes_where_its_image_is(stack, tls, docker):
    wait_for("the image to be known", lambda: stack.redis.client.hexists("{milonga}:img", ONLY), 30)
    jobs = [stack.tango.submit("autograde:\n\t@echo begun; sleep 10\n", image=ONLY) for _ in range(2)]
    for ident, _, _ in jobs:
        stack.tango.wait_output(ident, "begun")
    assert len(tls.machines()) == 2 and docker.machines() == []
    for ident, _, _ in jobs:
        assert messages(stack.tango.wait_dead(ident))[-1] == DONE


def test_invariant_4_an_engine_killed_in_a_job_costs_that_attempt(stack, tls, docker):
    """The other takes it, the one is out with the reason, and back after its restart with nothing of the past on it."""
    mark = len(stack.vmm.text())
    jobs = one_on_each(stack, tls, docker, 5)
    tls.process.kill()
    try:
        line = wait_for("the engine to be out", lambda: events(stack, "out", "tls", mark), 3 * DEAD_MS / 1000)[0]
        assert f"127.0.0.1:{tls.port}" in line and "again_ms=" in line, line
        for ident, lab, output in jobs:
            entry = stack.tango.wait_dead(ident, 60)
            assert messages(entry)[-1] == DONE, entry
            assert stack.tango.poll(lab, output).endswith(b"begun\nended\n")
        assert events(stack, "out", "far", mark) == []
        told = wait_for("/pool to tell of it", lambda: hosts_out(stack), 20, 0.2)
        assert [k.rpartition("/")[2] for k in told] == ["tls"] and f"127.0.0.1:{tls.port}" in next(iter(told.values())), told
    finally:
        mark = len(stack.vmm.text())
        tls.process.start()
        wait_for("the engine", tls.answers, 60, 0.2)
    wait_for("the engine to be used again", lambda: events(stack, "up", "tls", mark), 60)
    wait_for("/pool to tell of that, too", lambda: not hosts_out(stack), 20, 0.2)
    assert tls.machines() == []
    entry, _ = stack.tango.run("autograde:\n\t@true\n", image=ONLY)
    assert messages(entry)[-1] == DONE


def test_invariant_4_a_host_cut_off_costs_that_attempt(stack, farm, tls, docker):
    """Silently: nobody says that the connection has ended."""
    mark = len(stack.vmm.text())
    jobs = one_on_each(stack, tls, docker, 4)
    farm.hosts[0].cut()
    try:
        wait_for("the host to be out", lambda: events(stack, "out", "far", mark), 4 * DEAD_MS / 1000)
        for ident, lab, output in jobs:
            assert messages(stack.tango.wait_dead(ident, 60))[-1] == DONE
            assert stack.tango.poll(lab, output).endswith(b"begun\nended\n")
    finally:
        mark = len(stack.vmm.text())
        farm.hosts[0].heal()
    wait_for("the host to be used again", lambda: events(stack, "up", "far", mark), 60)
    wait_for("its engine to be swept", lambda: docker.machines() == [], 20, 0.2)


def test_no_host_left_and_nothing_left(stack, tls, docker):
    for ident in (stack.tango.submit("autograde:\n\t@sleep 1\n")[0] for _ in range(6)):
        assert messages(stack.tango.wait_dead(ident))[-1] == DONE
    stack.stop()
    for e in (tls, docker):
        assert e.leftovers() == []


def test_check_hosts_says_what_is_missing_where(tls, docker, farm, pki, work_dir):
    conf = work_dir / "check.conf"

    def check(far):
        conf.write_text(f"data_dir = {work_dir}/check\ndriver = docker-hosts\ndocker_host = {line_tls(tls, pki)}\ndocker_host = {far}\n"
                        f"ssh_config = /dev/null\nssh_known_hosts = {farm.known_hosts}\nautodriver = {BUILD / 'autodriver'}\n")
        done = subprocess.run([BUILD / "milonga-vmm", "--config", conf, "--check-hosts"], env=plain_env(), capture_output=True,
                              text=True, timeout=60)
        return done.returncode, done.stdout
    far = line_ssh(farm, docker)
    assert check(far) == (0, "tls: ok\nfar: ok\n")
    code, text = check(far.replace(str(docker.socket), "/nonexistent.sock"))
    assert code == 1 and text.startswith("tls: ok\nfar: ") and "open failed: connect failed" in text, text
    for e in (tls, docker):
        assert e.leftovers() == []


def test_two_lines_for_one_engine(probe, tls, pki, farm, docker):
    """By two ways, so that the lines do not show it: one of them has it, the other says whose it is."""
    done = probe.call(f"{line_ssh(farm, docker)}; near unix://{docker.socket}", "run", image.NAME)
    assert done.returncode == 0 and "it runs" in done.out, done.err
    assert "its engine is that of host " in done.err and done.err.count("event=host.up") == 1, done.err
