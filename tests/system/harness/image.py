"""The grading image: a small Debian with the users and folders that Tango's own has, as one tar."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess

import pytest

from . import notice

NAME = "autograding_image"
CACHE = pathlib.Path(os.environ.get("MILONGA_TEST_CACHE", "/var/tmp/milonga-test-cache"))

PASSWD = "autolab:x:1000:1000::/home/autolab:/bin/bash\nautograde:x:1001:1001::/home/autograde:/bin/bash\n"
GROUP = "autolab:x:1000:\nautograde:x:1001:\n"
SHADOW = "autolab:!:19000:0:99999:7:::\nautograde:!:19000:0:99999:7:::\n"


def lock(name):
    """Test runs at the same time share the cache, one after the other; who waits says for whom. Held until closed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    f = open(CACHE / f"{name}.lock", "a+")
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        f.seek(0)
        notice.tell(f"waiting for {f.name}, held by {f.read().strip() or 'somebody'}; another run may have a cache of "
                    "its own: MILONGA_TEST_CACHE=")
        fcntl.flock(f, fcntl.LOCK_EX)
    f.truncate(0)
    f.write(f"pid {os.getpid()}\n")
    f.flush()
    return f


@contextlib.contextmanager
def locked(name):
    with lock(name):
        yield


def _make(tar):
    root = CACHE / "root"
    if root.exists():
        shutil.rmtree(root)
    done = subprocess.run(["debootstrap", "--variant=minbase", "--include=make", "bookworm", root],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(f"debootstrap failed: {done.stdout[-300:]}{done.stderr[-300:]}")
    for name, lines in (("passwd", PASSWD), ("group", GROUP), ("shadow", SHADOW)):
        with open(root / "etc" / name, "a") as f:
            f.write(lines)
    for name, owner in (("autolab", 1000), ("output", 1000), ("autograde", 1001), ("mount", 0)):
        path = root / "home" / name
        path.mkdir()
        os.chown(path, owner, owner)
    for name in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / name, ignore_errors=True)
    part = tar.with_suffix(".part")
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", part, "."], check=True)
    part.rename(tar)
    shutil.rmtree(root)


def tarball():
    """The image's root file system, made once and kept."""
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        pytest.skip("needs root and debootstrap for the grading image")
    tar = CACHE / f"{NAME}.tar"
    with locked("image"):
        if not tar.exists():
            _make(tar)
    return tar
