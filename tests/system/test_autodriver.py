"""The real autodriver, as root in namespaces of its own, against jobs that do not wish it well.

Needs root and unshare(1); `AUTODRIVER` names the binary (default build/autodriver).
"""

import io
import os
import pathlib
import select
import shutil
import signal
import struct
import subprocess
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = os.environ.get("AUTODRIVER", str(ROOT / "build" / "autodriver"))
# where the sandbox sees it, wherever the checkout lies: the tests mount over /tmp, /home and /root
BINARY = "/var/lib/milonga-autodriver-under-test"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists(BUILT), reason="no autodriver binary"),
]

JOB_UID = 61301
CALLER_UID = 61302
PASSWD = f"""root:x:0:0:root:/root:/bin/sh
autograde:x:{JOB_UID}:{JOB_UID}::/home/autograde:/bin/sh
autolab:x:{CALLER_UID}:{CALLER_UID}::/home/autolab:/bin/sh
"""
GROUP = f"""root:x:0:
autograde:x:{JOB_UID}:
autolab:x:{CALLER_UID}:
graders:x:61310:autolab,autograde
"""
HOMES = f"""
mount -t tmpfs none /home
mkdir -m 755 /home/autograde /home/autolab /home/output
chown {JOB_UID}:{JOB_UID} /home/autograde
chown {CALLER_UID}:{CALLER_UID} /home/autolab /home/output
"""


@pytest.fixture(scope="module", autouse=True)
def binary_in_reach():
    shutil.copy(BUILT, BINARY)
    yield
    os.unlink(BINARY)


@pytest.fixture
def etc(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    return tmp_path


def sandbox(etc, then, setup=HOMES, pid=True):
    """An argv that runs the shell text `then` in a machine of its own."""
    proc = "mount -t proc proc /proc\n" if pid else ""
    script = f"""set -e
mount --make-rprivate /
{proc}
mount --bind {etc}/passwd /etc/passwd
mount --bind {etc}/group /etc/group
{setup}
mount -t tmpfs none /tmp
cd /
{then}
"""
    spaces = ["--mount", "--ipc"] + (["--pid", "--fork", "--kill-child"] if pid else [])
    return ["unshare", *spaces, "sh", "-c", script]


def tar_of(files, fmt=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            data = content if isinstance(content, bytes) else content.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Ended(Exception):
    pass


class Machine:
    """One autodriver and the vmm's end of its pipe."""

    def __init__(self, etc, setup=HOMES, pid=True, binary=BINARY, prefix=""):
        self.proc = subprocess.Popen(
            sandbox(etc, f"{prefix} exec {binary} --pipe", setup, pid),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self.buf = b""
        self.eof = False

    def send(self, kind, payload=b""):
        if isinstance(payload, str):
            payload = payload.encode()
        self.proc.stdin.write(struct.pack(">Ic", len(payload), kind.encode()) + payload)

    def frame(self, timeout=10.0):
        """The next frame as (type, payload)."""
        end = time.monotonic() + timeout
        while True:
            if len(self.buf) >= 5:
                length, kind = struct.unpack(">Ic", self.buf[:5])
                if len(self.buf) >= 5 + length:
                    payload = self.buf[5:5 + length]
                    self.buf = self.buf[5 + length:]
                    return kind.decode(), payload
            if self.eof:
                raise Ended(self.proc.stderr.read().decode(errors="replace"))
            ready, _, _ = select.select([self.proc.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, "no frame in time"
            data = os.read(self.proc.stdout.fileno(), 65536)
            self.eof = not data
            self.buf += data

    def expect(self, kind, timeout=10.0):
        got, payload = self.frame(timeout)
        assert got == kind, (got, payload)
        return payload

    def load(self, files, **header):
        self.expect("R")
        self.send("H", "".join(f"{k}={v}\n" for k, v in header.items()))
        tar = files if isinstance(files, bytes) else tar_of(files)
        for at in range(0, len(tar), 60000):
            self.send("T", tar[at:at + 60000])
        self.send("E")

    def start(self, files, **header):
        self.load(files, **header)
        self.expect("L")
        self.send("G")
        self.expect("S")

    def finish(self, timeout=15.0):
        """(output, fields of the final record), and the exit code was what it should be."""
        out, fields = self.output(timeout)
        assert self.proc.wait(5) == 0
        return out, fields

    def output(self, timeout=15.0):
        out = b""
        end = time.monotonic() + timeout
        while True:
            kind, payload = self.frame(max(0.1, end - time.monotonic()))
            if kind == "O":
                out += payload
            elif kind == "X":
                return out, dict(l.split("=", 1) for l in payload.decode().splitlines())
            else:
                assert False, (kind, payload)

    def close(self):
        for stream in (self.proc.stdin, self.proc.stdout, self.proc.stderr):
            stream.close()
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


@pytest.fixture
def machine(etc):
    made = []

    def make(**kw):
        made.append(Machine(etc, **kw))
        return made[-1]

    yield make
    for m in made:
        m.close()


def run_sh(machine, script, timeout=15.0, **header):
    """Runs a shell script as the job in a fresh machine."""
    m = machine() if callable(machine) else machine
    header.setdefault("timeout_ms", 8000)
    m.start({"job.sh": script}, argv="sh\tjob.sh", **header)
    return m.finish(timeout)


def survivors(pid_of_namespace_init=None):
    """Processes of the job's uid that are alive, seen from outside."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            status = pathlib.Path(f"/proc/{entry}/status").read_text()
        except (OSError, NotADirectoryError):
            continue
        if f"\nUid:\t{JOB_UID}\t" in status and "\nState:\tZ" not in status:
            found.append(int(entry))
    return found


def gone():
    for _ in range(100):
        if not survivors():
            return True
        time.sleep(0.02)
    return False


# ---- The ordinary life ----

def test_make_is_the_default(machine):
    m = machine()
    m.start({"Makefile": "all:\n\t@echo hello\n\t@exit 3\n"}, timeout_ms=5000)
    out, final = m.finish()
    assert out.startswith(b"hello\n")
    assert final["outcome"] == "exited" and final["status"] == "2"
    assert int(final["output_total"]) == len(out) and final["elided"] == "0"


def test_what_a_job_finds(machine):
    out, final = run_sh(machine, "pwd; id -u; id -G; umask; env | sort; readlink /proc/self/fd/0; "
                                 "ls /proc/self/fd; cat; ulimit -c; stat -c '%U %a' . job.sh; "
                                 "grep -E 'NoNewPrivs|CapPrm|CapEff|CapInh|SigBlk|SigIgn' /proc/self/status; "
                                 "ps -o sid= -p $$ | grep -qw $$ && echo own session; echo err >&2; echo x >/dev/stdout")
    lines = out.decode().splitlines()
    assert lines[:4] == ["/home/autograde/autolab", str(JOB_UID), f"{JOB_UID} 61310", "0022"]
    env = [l for l in lines if "=" in l and not l.startswith("PWD=")]
    assert env == ["HOME=/home/autograde", "LANG=C.UTF-8", "LOGNAME=autograde",
                   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "SHELL=/bin/sh", "TZ=UTC", "USER=autograde"]
    at = lines.index("/dev/null")
    assert lines[at + 1:at + 5] == ["0", "1", "2", "3"]  # 3 is ls's own
    assert "autograde 755" in lines and "autograde 644" in lines
    status = dict(l.split(":\t") for l in lines if ":\t" in l)
    assert status["NoNewPrivs"] == "1"
    for key in ("CapPrm", "CapEff", "CapInh", "SigBlk", "SigIgn"):
        assert int(status[key], 16) == 0, key
    assert "own session" in lines and "err" in lines and lines[-1] == "x"
    assert final["outcome"] == "exited" and final["status"] == "0"


def test_header_settings(machine):
    out, _ = run_sh(machine, "echo $TZ $PATH $EXTRA $LANG; umask; ulimit -n; ulimit -f; pwd; grep processes /proc/self/limits",
                    tz="Europe/Zurich", path="/opt/x:/bin:/usr/bin", umask="027", nofile=64, nproc=77,
                    fsize_bytes=1048576, env="EXTRA=a b\tLANG=C", dir="work")
    assert out.decode().split("\n")[:5] == [
        "Europe/Zurich /opt/x:/bin:/usr/bin a b C", "0027", "64", "2048", "/home/autograde/work"]
    assert out.decode().split()[-3:] == ["77", "77", "processes"]


def test_signal_death_is_told(machine):
    _, final = run_sh(machine, "kill -SEGV $$")
    assert final["outcome"] == "signaled" and final["status"] == "11"


def test_no_account_and_no_writable_home(machine, etc):
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    out, final = run_sh(machine, "id -u; echo $HOME; pwd; touch $HOME/x . && echo writable; id -G; echo $USER")
    lines = out.decode().splitlines()
    assert lines[0] == "61234" and lines[1].startswith("/tmp/milonga-home.")
    assert lines[2] == lines[1] + "/autolab" and lines[3:] == ["writable", "61234", "autograde"]


def test_read_only_home_falls_back(machine):
    m = machine(setup=HOMES + "mount -o remount,ro /home\n")
    out, _ = run_sh(m, "pwd")
    assert out.startswith(b"/tmp/milonga-home.")


def test_root_is_refused(machine):
    m = machine()
    m.expect("R")
    m.send("H", "user=root\n")
    assert b"root" in m.expect("Q")
    assert m.proc.wait(5) == 3


def test_no_make_and_no_program(machine):
    m = machine()
    m.load({}, path="/nowhere")
    m.expect("L")
    m.send("G")
    _, final = m.finish()
    assert final["outcome"] == "no_make"
    m = machine()
    m.load({"x": "not a program"}, argv="./x")
    m.expect("L")
    m.send("G")
    _, final = m.finish()
    assert final["outcome"] == "exec_failed" and "ermission" in final["reason"]


def test_usage(machine):
    _, final = run_sh(machine, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 0.3")
    assert int(final["cpu_ms"]) > 50 and int(final["wall_ms"]) >= 300 and int(final["maxrss_kb"]) > 500


# ---- Output ----

@pytest.mark.parametrize("limit", [1000, 1001, 65536])
@pytest.mark.parametrize("extra", [-1, 0, 1, 5000])
def test_head_and_tail(machine, limit, extra):
    total = limit + extra
    out, final = run_sh(machine, f"seq 1000000 | head -c {total}", output_bytes=limit)
    whole = "".join(f"{i}\n" for i in range(1, 30000)).encode()[:total]
    assert int(final["output_total"]) == total
    if extra <= 0:
        assert out == whole and final["elided"] == "0"
        return
    half = limit // 2
    assert out == whole[:half] + whole[-half:]
    assert int(final["head"]) == half and int(final["elided"]) == total - 2 * half


def test_output_comes_while_the_job_runs(machine):
    m = machine()
    m.start({"job.sh": "echo first; sleep 1; echo second"}, argv="sh\tjob.sh", timeout_ms=5000)
    begun = time.monotonic()
    assert m.expect("O") == b"first\n"
    assert time.monotonic() - begun < 0.7
    out, _ = m.finish()
    assert out == b"second\n"


def test_endless_output_keeps_the_deadline_and_the_ends(machine):
    begun = time.monotonic()
    out, final = run_sh(machine, "echo start; exec yes 0123456789", timeout_ms=700, output_bytes=100000)
    assert time.monotonic() - begun < 4
    assert final["outcome"] == "timed_out" and out.startswith(b"start\n0123") and len(out) == 100000
    assert int(final["elided"]) > 1000000


def test_deadline_holds_when_nobody_reads(machine):
    m = machine()
    m.start({"job.sh": "exec yes"}, argv="sh\tjob.sh", timeout_ms=500)
    time.sleep(1.5)
    assert not survivors()
    out, final = m.finish()
    assert final["outcome"] == "timed_out" and len(out) == int(final["output_total"])
    assert int(final["wall_ms"]) < 900


def test_closed_stdout_is_not_the_end(machine):
    out, final = run_sh(machine, "exec >&- 2>&-; sleep 0.4; exit 7")
    assert out == b"" and final["status"] == "7" and int(final["wall_ms"]) >= 400


def test_background_process_does_not_keep_the_job(machine):
    out, final = run_sh(machine, "sleep 100 & setsid sleep 100 & echo done")
    assert out == b"done\n" and int(final["wall_ms"]) < 3000 and final["killed"] == "2"


# ---- The clock, and jobs that fight it ----

HOSTILE = {
    "sleep": "sleep 100",
    "trap": "trap '' TERM INT HUP QUIT CHLD; while :; do sleep 1; done",
    "stop_parent": "(while :; do kill -STOP $PPID; kill -CONT $PPID; done) & while :; do kill -STOP $$; done",
    "setsid_daemons": "for i in 1 2 3 4 5; do setsid sh -c 'setsid sleep 100 & setsid sleep 100 &' & done; sleep 100",
    "stopped": "sleep 100 & kill -STOP $! $$",
    "user_namespace": "setsid unshare -Urpf --mount-proc sleep 100 & unshare -Ur sleep 100 & sleep 100",
    "closed_streams": "exec <&- >&- 2>&-; while :; do :; done",
    "kill_all": "trap '' TERM; while :; do kill -STOP -1; kill -KILL -1; done",
    "signal_driver": "while :; do kill -KILL 1 $PPID; kill -STOP 1; done 2>/dev/null",
}


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
@pytest.mark.parametrize("name", [n for n in HOSTILE if n != "kill_all"])
def test_timeout_is_not_dodged(machine, name, pid):
    begun = time.monotonic()
    _, final = run_sh(machine(pid=pid), HOSTILE[name], timeout_ms=600)
    assert final["outcome"] == "timed_out"
    assert 550 <= int(final["wall_ms"]) < 1500 and time.monotonic() - begun < 4
    assert gone()


def test_kill_all_hits_only_itself(machine):
    _, final = run_sh(machine, HOSTILE["kill_all"], timeout_ms=600)
    assert final["outcome"] in ("timed_out", "signaled")


FORK_BOMB = r"""
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            try: os.setsid()
            except OSError: pass
    except OSError:
        pass
"""


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
def test_fork_bomb(machine, pid):
    m = machine(pid=pid)
    m.start({"bomb.py": FORK_BOMB}, argv="/usr/bin/python3\tbomb.py", timeout_ms=700, nproc=60)
    _, final = m.finish()
    assert final["outcome"] == "timed_out" and int(final["killed"]) >= 1
    assert "reason" not in final
    assert gone()


SPY = r"""
import ctypes, glob, os, signal
libc = ctypes.CDLL(None, use_errno=True)
target = os.getppid()
for sig in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
    try:
        os.kill(target, sig); print("SIGNALLED", sig)
    except PermissionError: pass
if libc.ptrace(16, target, 0, 0) == 0: print("ATTACHED")
for path in glob.glob(f"/proc/{target}/fd/*") + [f"/proc/{target}/mem"] + \
        [f"/proc/{target}/fd/{i}" for i in range(30)]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags)); print("OPENED", path)
        except OSError: pass
try:
    os.listdir(f"/proc/{target}/fd"); print("LISTED")
except OSError: pass
print("tried")
"""


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
def test_driver_is_out_of_reach(machine, pid):
    m = machine(pid=pid)
    m.start({"spy.py": SPY}, argv="/usr/bin/python3\tspy.py", timeout_ms=8000)
    out, final = m.finish()
    assert out == b"tried\n" and final["outcome"] == "exited" and final["status"] == "0"


THREADS = r"""
#include <pthread.h>
#include <unistd.h>
static void *forever(void *a) { for (;;) pause(); return a; }
int main(void) { pthread_t t; if (fork()) { pthread_create(&t, 0, forever, 0); pthread_exit(0); } pause(); }
"""


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
def test_threads_without_their_leader(machine, pid):
    m = machine(pid=pid)
    m.start({"t.c": THREADS, "Makefile": "all:\n\t@gcc -pthread -o t t.c && ./t\n"}, timeout_ms=2000)
    _, final = m.finish()
    assert final["outcome"] == "timed_out" and "reason" not in final and gone()


def test_setuid_programs_give_nothing(machine):
    out, _ = run_sh(machine(setup=HOMES + "mkdir /home/bin; cp /usr/bin/id /home/bin/; chmod 4755 /home/bin/id\n"),
                    "/home/bin/id -u; /home/bin/id -ru")
    assert out.split() == [str(JOB_UID).encode()] * 2


# ---- Cancel, lease, the end of the pipe ----

def test_cancel(machine):
    m = machine()
    m.start({"job.sh": "echo up; sleep 100"}, argv="sh\tjob.sh")
    m.expect("O")
    m.send("C")
    _, final = m.finish()
    assert final["outcome"] == "cancelled" and not survivors()


def test_cancel_before_go(machine):
    m = machine()
    m.load({"Makefile": "all:\n"})
    m.expect("L")
    m.send("C")
    _, final = m.finish()
    assert final["outcome"] == "cancelled"


ENGINE_CAPS = "+chown,+dac_override,+fowner,+setgid,+setuid"


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
@pytest.mark.parametrize("kill", ["", ",+kill"], ids=["without_kill", "with_kill"])
def test_few_capabilities(machine, pid, kill):
    m = machine(pid=pid, binary=f"setpriv --bounding-set=-all,{ENGINE_CAPS}{kill} {BINARY}")
    out, final = run_sh(m, HOSTILE["setsid_daemons"], timeout_ms=500)
    assert final["outcome"] == "timed_out" and "reason" not in final and gone()


def test_bare_image(machine):
    """No /dev, nothing writable but a /tmp without exec, no accounts."""
    setup = "mount -t tmpfs none /dev; mount -t tmpfs none /var/tmp; mount -o remount,ro /var/tmp\n" \
            "mount -t tmpfs none /run; mount -o remount,ro /run\nmount -t tmpfs none /home; rm -f /home/*\n"
    out, final = run_sh(machine(setup=setup), "cat; echo $HOME; exec 3>/dev/null || echo no dev")
    assert out.startswith(b"/tmp/milonga-home.") and final["outcome"] == "exited"


@pytest.mark.parametrize("pid", [True, False], ids=["pid1", "subreaper"])
def test_end_of_pipe_kills_the_job(machine, pid):
    m = machine(pid=pid)
    m.start({"job.sh": "setsid sleep 100 & sleep 100"}, argv="sh\tjob.sh")
    assert survivors()
    m.proc.stdin.close()
    assert m.proc.wait(5) == 4 and gone()
    m.proc.stdin = open(os.devnull, "wb")


def test_unread_pipe_kills_the_job(machine):
    m = machine(pid=False)
    m.start({"job.sh": "sleep 100"}, argv="sh\tjob.sh")
    m.proc.stdout.close()
    assert m.proc.wait(5) == 4 and gone()


def test_invariant_3_lease(machine):
    m = machine()
    m.start({"job.sh": "sleep 100"}, argv="sh\tjob.sh", lease_ms=400)
    for _ in range(6):
        time.sleep(0.15)
        m.send("B")
    assert survivors()
    _, final = m.output()
    assert final["outcome"] == "lease_lost" and not survivors()
    assert m.proc.wait(5) == 4


def test_lease_ends_a_machine_that_waits_for_go(machine):
    m = machine()
    m.load({"Makefile": "all:\n"}, lease_ms=200)
    m.expect("L")
    assert m.output()[1]["outcome"] == "lease_lost" and m.proc.wait(5) == 4


def test_warm_machine_has_no_lease_and_ends_with_its_pipe(machine):
    m = machine()
    m.expect("R")
    m.proc.stdin.close()
    assert m.proc.wait(5) == 0
    m.proc.stdin = open(os.devnull, "wb")


def test_told_to_end(machine):
    m = machine(pid=False)
    m.start({"job.sh": "sleep 100"}, argv="sh\tjob.sh")
    m.proc.send_signal(signal.SIGTERM)  # unshare and sh have become the autodriver by exec
    out, final = m.output()
    assert final["outcome"] == "lease_lost" and "told to end" in final["reason"] and gone()


@pytest.mark.parametrize("send", [("G", b""), ("T", b"x"), ("E", b""), ("H", b"umask=9\n"), ("H", b"argv=\n"),
                                  ("H", b"dir=../x\n"), ("H", b"timeout_ms=-1\n"), ("H", b"uid=0\nuser=nobody_here\n"),
                                  ("H", b"env=x\n")])
def test_nonsense_is_refused(machine, send):
    m = machine()
    m.expect("R")
    m.send(*send)
    assert m.expect("Q")
    assert m.proc.wait(5) == 3


# ---- The tar ----

def test_deep_and_long_names(machine):
    long_name = "d" * 90 + "/" + "e" * 120 + "/" + "f" * 130
    for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        files = {long_name: "long", "Makefile": f"all:\n\t@cat {long_name}\n", "./sub/./x": "x",
                 "caf\u00e9": "y", "empty": "", "exact": "z" * 1024}
        m = machine()
        m.start(tar_of(files, fmt))
        out, final = m.finish()
        assert out == b"long" and final["status"] == "0"


def entry(name, kind=tarfile.REGTYPE, link=""):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = link
        tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("tar", [
    entry("/etc/x"), entry("../x"), entry("a/../../x"), entry("a\nb"), entry("l", tarfile.SYMTYPE, "/etc/passwd"),
    entry("h", tarfile.LNKTYPE, "x"), entry("d", tarfile.CHRTYPE), entry("p", tarfile.FIFOTYPE), b"junk" * 200,
    entry("a")[:300], entry("a")[:512] + b"x" * 512, tar_of({"a": "1", "b": "2"})[:1024] + tar_of({"a": "3"})],
    ids=["absolute", "dotdot", "dotdot_inside", "control", "symlink", "hardlink", "device", "fifo", "junk", "cut",
         "junk_after", "twice"])
def test_tar_that_is_refused(machine, tar):
    m = machine()
    m.load(tar)
    assert m.expect("Q")
    assert m.proc.wait(5) == 3


def test_modes(machine):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode, kind in (("d", 0o500, tarfile.DIRTYPE), ("d/x", 0o4755, tarfile.REGTYPE), ("y", 0o640, tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.mode, info.type = mode, kind
            tar.addfile(info)
    m = machine()
    m.start(out.getvalue(), argv="stat\t-c\t%U %a\td\td/x\ty")
    assert m.finish()[0].decode().splitlines() == ["autograde 700", "autograde 755", "autograde 640"]


def test_old_directory_is_replaced(machine):
    trap = "mkdir -p /home/autograde/autolab/old; ln -s /etc /home/autograde/autolab/link\n"
    out, _ = run_sh(machine(setup=HOMES + trap), "ls")
    assert out == b"job.sh\n"


# ---- Tango's command line ----

SETUID = "cp {binary} /home/autodriver\nchmod 4755 /home/autodriver\n"
AS_CALLER = "cd /home; exec setpriv --reuid 61302 --regid 61302 --clear-groups"


def tango(etc, args="autolab", files=None, before="", after="", user=AS_CALLER, timeout=30, env=None):
    """Runs Tango's front as its caller. (exit code, stdout, stderr); `after` is shell text run as root behind it."""
    work = etc / "input"
    work.mkdir(exist_ok=True)
    for name, content in (files or {}).items():
        (work / name).write_text(content)
    setup = HOMES + SETUID.format(binary=BINARY) + f"cp -r {work}/. /home/autolab/\n"
    script = (f"cd /home\n{before}\n"
              f"set +e\n({user} /home/autodriver {args})\ncode=$?\n{after}\nexit $code")
    proc = subprocess.run(sandbox(etc, script, setup), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                          env={**os.environ, **(env or {})})
    return proc.returncode, proc.stdout, proc.stderr


def test_tango_plain(etc):
    code, out, err = tango(etc, "-u 100 -f 104857600 -t 20 -o 1024000 autolab",
                           {"Makefile": "all:\n\t@echo hello; pwd; id -un; echo err >&2\n"},
                           after="ls -A /home /home/autograde; stat -c '%U %a' /home/autograde")
    assert (code, err) == (0, b"")
    assert out == (b"Autodriver: Job exited with status 0\nhello\n/home/autograde/autolab\nautograde\nerr\n"
                   b"/home:\nautodriver\nautograde\noutput\n\n/home/autograde:\nautograde 755\n")


@pytest.mark.parametrize("recipe,status", [("exit 1", 2), ("kill -KILL $$PPID; sleep 5", 137)])
def test_tango_status(etc, recipe, status):
    code, out, _ = tango(etc, "autolab", {"Makefile": f"all:\n\t@{recipe}\n"})
    assert code == 0 and out.startswith(b"Autodriver: Job exited with status %d\n" % status)


@pytest.mark.parametrize("recipe", ["sleep 100", "while :; do kill -STOP $$PPID; kill -CONT $$PPID; done",
                                    "setsid sleep 100 & trap '' INT TERM; kill -STOP $$PPID; sleep 100"])
def test_tango_timeout(etc, recipe):
    begun = time.monotonic()
    code, out, _ = tango(etc, "--timeout=1 autolab", {"Makefile": f"all:\n\t@echo up; {recipe}\n"})
    assert code == 2 and out == b"Autodriver: Job timed out after 1 seconds\nup\n"
    assert time.monotonic() - begun < 3 and gone()


def test_tango_background_is_killed_before_the_dump(etc):
    begun = time.monotonic()
    code, out, _ = tango(etc, "-t 9 autolab", {"Makefile": "all:\n\t@(while :; do echo x; done) & echo up\n"})
    assert code == 0 and out.startswith(b"Autodriver: Job exited with status 0\n")
    assert time.monotonic() - begun < 4 and gone()


def test_tango_elision(etc):
    code, out, _ = tango(etc, "-o 0x65 autolab", {"Makefile": "all:\n\t@seq 1000\n"})
    whole = "".join(f"{i}\n" for i in range(1, 1001)).encode()
    assert out == (b"Autodriver: Job exited with status 0\n" + whole[:50] +
                   b"\n...[excess bytes elided]...\n" + whole[-50:])


SECRET = "echo secret > /root/secret; chmod 600 /root/secret\n"


@pytest.mark.parametrize("trick", [
    "rm -f ../output.log; ln -s /root/secret ../output.log",
    "mv -f ../output.log ../other; ln -sf /root/secret ../output.log",
    "cd ..; mv ../autograde /tmp/x; ln -s /root ../autograde",
    "rm -rf ../output.log; mkdir -p ../output.log"])
def test_tango_output_is_not_replaced(etc, trick):
    code, out, _ = tango(etc, "autolab", {"Makefile": f"all:\n\t@echo mine\n\t-@{trick} 2>/dev/null\n"
                                          "\t@ls -l /home/autograde/output.log | cut -c1\n"},
                         before="mount -t tmpfs none /root\n" + SECRET)
    assert code == 0 and b"secret" not in out and b"mine\n" in out and out.endswith(b"\n-\n")


def test_tango_cleanup_follows_nothing(etc):
    recipe = ("mkdir -p /tmp/mine/deep; ln -s /home/keep /tmp/mine/link; ln -s /home/keep ../link; touch /tmp/mine/f; "
              "chmod 0 /tmp/mine/deep; touch /dev/stdout; "
              "/usr/bin/python3 -c 'import os; [(os.mkdir(\"d\"), os.chdir(\"d\")) for _ in range(1000)]'")
    code, out, _ = tango(etc, "autolab", {"Makefile": f"all:\n\t@{recipe}; echo ok\n"},
                         before="mkdir /home/keep; touch /home/keep/file /tmp/roots; chown 61301 /home/keep/file",
                         after="ls -A /tmp /home/autograde /home/keep")
    assert code == 0
    assert out == (b"Autodriver: Job exited with status 0\nok\n"
                   b"/home/autograde:\n\n/home/keep:\nfile\n\n/tmp:\nroots\n")


def test_tango_moves_across_file_systems(etc):
    code, out, _ = tango(etc, "autolab", {"Makefile": "all:\n\t@cat sub/x; readlink l; stat -c %U . sub sub/x\n"},
                         before="cp -a /home/autolab /tmp/a; mount -t tmpfs none /home/autolab; cp -a /tmp/a/. /home/autolab\n"
                                "mkdir /home/w; mkdir /home/w/autolab; mount -t tmpfs none /home/w; mkdir /home/w/autolab\n"
                                "cp /tmp/a/Makefile /home/w/autolab; mkdir /home/w/autolab/sub; echo x > /home/w/autolab/sub/x\n"
                                "ln -s t /home/w/autolab/l; chown -h 61302 /home/w /home/w/autolab",
                         user=AS_CALLER.replace("cd /home", "cd /home/w"), after="ls -A /home/w")
    assert code == 0
    assert out == b"Autodriver: Job exited with status 0\nx\nt\n" + b"autograde\n" * 3


def test_tango_environment(etc):
    _, out, _ = tango(etc, "autolab", {"Makefile": "all:\n\t@env\n"}, env={"LEAK": "1", "LANG": "C", "TZ": "Asia/Tokyo"})
    assert b"LEAK" not in out and b"\nLANG=C\n" in out and b"\nTZ=Asia/Tokyo\n" in out
    assert b"\nHOME=/home/autograde\n" in out


@pytest.mark.parametrize("args,message", [
    ("", "Too few arguments"), ("a b", "Too many arguments"), ("-t x autolab", "The argument to timeout must be a nonnegative integer"),
    ("-u -1 autolab", "The argument to nproc must be a nonnegative integer"),
    ("--fsize=4294967296 autolab", "The argument to fsize must be a nonnegative integer"),
    ("-z autolab", "invalid option -- 'z'"), ("--nope autolab", "unrecognized option '--nope'"),
    ("autolab -o", "option requires an argument -- 'o'")])
def test_tango_usage(etc, args, message):
    code, out, err = tango(etc, args)
    assert code == 1 and out == b"" and err.decode().startswith(f"autodriver: {message}\n")


@pytest.mark.parametrize("args", ["--help", "-?", "--usage", "--he"])
def test_tango_help(etc, args):
    code, out, err = tango(etc, args)
    assert code == 0 and out.startswith(b"Usage: autodriver ") and err == b""


def test_tango_callers(etc):
    assert tango(etc, user="exec")[:2] == (1, b"Autodriver: Autodriver should not be run as root.\n")
    code, out, _ = tango(etc, user=AS_CALLER.replace("61302", "61301"))
    assert code == 1 and out.startswith(b"Autodriver: This should not be run as the grading user autograde at line ")
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    code, out, _ = tango(etc, before="")
    assert code == 3 and out.startswith(b"Autodriver: Invalid grading user at line ")


@pytest.mark.parametrize("args,before", [("nothing", ""), ("/etc", ""), ("..", ""), ("keep", "mkdir /home/keep"),
                                         ("autolab", "ln /etc/shells /home/autolab/x || { touch /home/y; ln /home/y /home/autolab/x; }")])
def test_tango_directory_of_others(etc, args, before):
    code, out, _ = tango(etc, args, before=before, after="ls -d /etc")
    assert code == 3 and out.startswith(b"Autodriver: Error ") and out.endswith(b"/etc\n")


def test_pipe_mode_is_roots(etc):
    code, out, _ = tango(etc, "--pipe")
    assert code == 3 and b"not root" in out
