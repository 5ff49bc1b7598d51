"""What a test run started ends with it, also when pytest itself is killed by SIGKILL.

A process apart, which knows no test: it reads lines until its pipe ends, and the pipe ends when pytest does. Then it
ends every process that carries the run's mark in its environment or sits in one of the run's control groups, unmounts
and removes the directories it was told of, and removes the groups. After an orderly end there is nothing left for it
to do, and what it does find it names on stderr.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

MARK = "MILONGATESTS"  # in the environment of all that a run starts; not MILONGA_*, which are keys of the configuration
CGROUPS = pathlib.Path("/sys/fs/cgroup")


def mark():
    """Pids come round again, start times do not."""
    started = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.getpid()}.{started}"


class Guard:
    """The test run's side of it."""

    def __init__(self):
        self.pipe = None

    def start(self):
        if self.pipe is None:
            child = subprocess.Popen([sys.executable, __file__, mark(), str(os.getpid())], stdin=subprocess.PIPE,
                                     start_new_session=True, cwd="/", text=True)
            self.pipe = child.stdin
        return self

    def directory(self, path):
        """It holds nothing but this run's, and goes with it. Its mounts too."""
        self._tell("directory", path)

    def mounts(self, path):
        """A cache: it stays, without its mounts."""
        self._tell("mounts", path)

    def command(self, env, *argv):
        """Run before anything else, for what only its owner knows how to end."""
        self._tell("command", json.dumps([env, [str(a) for a in argv]]))

    def _tell(self, verb, what):
        self.start().pipe.write(f"{verb} {what}\n")
        self.pipe.flush()


guard = Guard()


# ---- the process apart

def cgroups(prefix):
    """Groups whose first part begins so, in every hierarchy; innermost first."""
    for top in (CGROUPS, *(p for p in CGROUPS.iterdir() if p.is_dir())):
        for base in top.glob(f"{prefix}*"):
            for d, _, _ in os.walk(base, topdown=False):
                yield pathlib.Path(d)


def processes(value, prefix):
    found = set()
    wanted = f"{MARK}={value}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if wanted in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(int(pid))
    for group in cgroups(prefix):
        with contextlib.suppress(OSError):
            found.update(map(int, (group / "cgroup.procs").read_text().split()))
    found.discard(os.getpid())
    return found


def name(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    return ""


def kill_all(value, prefix):
    """Again and again: what is killed may just have started something, and a restarter is among them."""
    end = time.monotonic() + 30
    told = set()
    while (rest := processes(value, prefix)) and time.monotonic() < end:
        for pid in rest:
            if pid not in told:
                print(f"guard: the test run ended without ending {pid} {name(pid)}", file=sys.stderr)
                told.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)  # for the kernel; who is no child of ours tells us nothing when it ends


def mounts(path):
    with open("/proc/self/mountinfo") as f:
        points = [line.split(" ")[4].encode().decode("unicode_escape") for line in f]
    return [p for p in points if p == str(path) or p.startswith(f"{path}/")]


def unmount(path):
    """Innermost first, lazily: whoever still holds it was killed. True when nothing is mounted there any more."""
    for point in reversed(mounts(path)):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)
    return not mounts(path)


def main():
    value, pid = sys.argv[1:]
    told = [line.rstrip("\n").split(" ", 1) for line in sys.stdin]
    for env, argv in (json.loads(what) for verb, what in told if verb == "command"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    # harness/stack.py and harness/engine.py name their groups mt<pid>x<n> and mt<pid>engine<n>
    kill_all(value, f"mt{pid}x")
    kill_all(value, f"mt{pid}engine")
    for path in (what for verb, what in told if verb != "command"):
        # never into a mount: it may be the machine's own /usr
        if unmount(path) and ["directory", path] in told:
            shutil.rmtree(path, ignore_errors=True)
    for prefix in (f"mt{pid}x", f"mt{pid}engine"):
        for group in cgroups(prefix):
            with contextlib.suppress(OSError):
                group.rmdir()


if __name__ == "__main__":
    main()
