"""Is the machine clean? Asked of the operating system and the engine, not of our own services."""

import contextlib
import os
import pathlib
import subprocess


def tops(parent):
    """The installation's own cgroup in every hierarchy that has it."""
    for top in ("/sys/fs/cgroup", *map(str, pathlib.Path("/sys/fs/cgroup").iterdir())):
        base = pathlib.Path(top) / parent
        if base.is_dir():
            yield base


def _groups(stack):
    """Cgroups of machines. A vmm that runs has one of its own above them, and takes it along when it ends."""
    keep = any(v.running() for v in stack.vmms)
    for base in tops(stack.name):
        for group in filter(pathlib.Path.is_dir, base.iterdir()):
            if not keep:
                yield f"cgroup {group}"
            for d, subdirs, _ in os.walk(group):
                yield from (f"cgroup {d}/{s}" for s in subdirs)


def remove_groups(stack):
    """What is empty goes, so that a killed installation leaves nothing of the test's; the rest is told by leftovers()."""
    for base in tops(stack.name):
        for d, _, _ in os.walk(base, topdown=False):
            try:
                os.rmdir(d)
            except OSError:
                pass


def _mounts(path):
    with open("/proc/self/mountinfo") as f:
        for line in f:
            target = line.split(" ")[4]
            if target.startswith(f"{path}/"):
                yield f"mount {target}"


def _processes(stack):
    """Processes in the installation's cgroups, or that run its autodriver, beside the services."""
    ours = {p.pid for p in stack.processes if p.child}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            group = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
            args = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(pid) not in ours and (f"/{stack.name}/" in group or f"{stack.data}/oci" in args):
            yield f"process {pid} {args}"


def machine(stack):
    """The first process of a machine on this host: our autodriver, as its control group tells; None when there is none."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            group = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
            args = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if f"/{stack.name}/" in group and b"--pipe" in args:
                return int(pid)
    return None


def _files(data):
    """Bundles, bind-mounted folders and temporary files."""
    for name in ("oci", "docker", "tmp"):
        base = data / name
        if base.is_dir():
            for d, subdirs, files in os.walk(base):
                depth = len(pathlib.Path(d).relative_to(base).parts)
                if name == "oci" and depth == 2:  # <deployment>/<vmm>/<machine>
                    yield from (f"bundle {d}/{s}" for s in subdirs if not s.startswith(("host", ".")))
                    subdirs.clear()
                elif name != "oci" and not d.startswith(f"{base}/autodriver-"):  # mounted into all, kept
                    yield from (f"file {d}/{f}" for f in files)
    store = data / "store" / "tmp"
    if store.is_dir():
        yield from (f"file {p}" for p in store.iterdir())


def _containers(stack):
    socket = getattr(stack, "engine_url", None)
    if socket:
        done = subprocess.run(["docker", "-H", socket, "ps", "-aq", "--format", "{{.Names}} {{.Status}}"],
                              capture_output=True, text=True, timeout=30)
        if done.returncode:
            yield f"engine: {done.stderr.strip()}"
        yield from (f"container {line}" for line in done.stdout.splitlines())


def _hosts(stack):
    farm = getattr(stack, "farm", None)
    return farm.leftovers(any(v.running() for v in stack.vmms)) if farm else []


def leftovers(stack):
    return [*_groups(stack), *_mounts(stack.data), *_processes(stack), *_files(stack.data),
            *_containers(stack), *_hosts(stack)]
