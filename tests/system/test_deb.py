"""The Debian package: built from a clean clone, judged by lintian, and its whole life in a fresh Debian."""

import pathlib
import shutil
import subprocess
import tempfile

import pytest

from harness import image
from harness.process import plain_env
from harness.stack import ROOT

pytestmark = [pytest.mark.packages, pytest.mark.slow, pytest.mark.timeout(1800)]


def run(*argv, **more):
    done = subprocess.run(list(map(str, argv)), env=plain_env(DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8",
                                                              DEB_BUILD_OPTIONS="nocheck parallel=2"),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=1200, **more)
    return done.returncode, done.stdout


def ok(*argv, **more):
    code, text = run(*argv, **more)
    assert code == 0, f"{argv}: {text[-3000:]}"
    return text


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    for program in ("dh", "dpkg-buildpackage", "lintian", "git"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    path = tmp_path_factory.mktemp("clone") / "milonga"
    ok("git", "clone", "-q", ROOT, path)
    return path


@pytest.fixture(scope="module")
def package(clone):
    # no network: a namespace with nothing in it
    ok("unshare", "--net", "make", "-s", "deb", "BUILD=build", cwd=clone)
    found = list((clone / "build/debian").glob("milonga_*.deb"))
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def chroot():
    """A Debian of its own; inside(...) runs a command in it, outside of which nothing is mounted."""
    tar = image.tarball()
    path = pathlib.Path(tempfile.mkdtemp(prefix="milonga-deb."))
    ok("tar", "-xf", tar, "-C", path)
    for name in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (path / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")

    def inside(*argv):
        return run("unshare", "--mount", "--pid", "--fork", "sh", "-c",
                   'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"', path, *argv)
    inside.path = path
    yield inside
    shutil.rmtree(path)


def test_lintian_finds_nothing(package, clone):
    changes = next((clone / "build/debian").glob("milonga_*.changes"))
    code, text = run("lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", changes)
    assert code == 0 and text.strip() == "", text


def test_from_installed_to_purged(package, chroot):
    root = chroot.path

    def has_user():
        return [f for f in ("passwd", "group") if "\nmilonga:" in (root / "etc" / f).read_text()]

    def traces():
        skip = ("proc", "sys", "dev", "var/lib/dpkg", "var/cache", "var/log", "tmp")
        return [str(p.relative_to(root)) for p in root.rglob("*milonga*")
                if not str(p.relative_to(root)).startswith(skip)]
    assert traces() == [] and has_user() == []
    shutil.copy(package, root / "tmp/milonga.deb")
    code, text = chroot("apt-get", "update", "-qq")
    if code or "Failed to fetch" in text:
        pytest.skip(f"Debian's archive is out of reach: {text[-300:]}")
    code, text = chroot("apt-get", "install", "-qq", "-y", "--no-install-recommends", "/tmp/milonga.deb")
    assert code == 0, text[-3000:]

    assert has_user() == ["passwd", "group"]
    conf = root / "etc/milonga/milonga.conf"
    ids = dict(line.split(":")[0:3:2] for line in (root / "etc/group").read_text().splitlines())
    assert conf.stat().st_mode & 0o777 == 0o640 and conf.stat().st_gid == int(ids["milonga"])
    assert "milonga.conf" in chroot("dpkg-query", "-W", "-f", "${Conffiles}", "milonga")[1]
    for service in ("api", "dispatcher", "vmm"):
        code, text = chroot(f"/usr/libexec/milonga/milonga-{service}", "--config", "/etc/milonga/milonga.conf",
                            "--check-config")
        assert (code, text) == (0, "/etc/milonga/milonga.conf: ok\n")
    assert chroot("/usr/bin/milonga", "--version")[0] == 0
    units = sorted(p.name for p in (root / "lib/systemd/system").glob("milonga*"))
    assert len(units) == 6
    assert list((root / "etc/systemd/system").rglob("milonga*")) == [], "enabled before it is configured"

    # A conffile that was changed outlives the package, and not the purge.
    conf.write_text(conf.read_text() + "keys = main:mine\n")
    assert chroot("apt-get", "remove", "-qq", "-y", "milonga")[0] == 0
    assert conf.exists() and not (root / "usr/libexec/milonga").exists()
    assert chroot("apt-get", "install", "-qq", "-y", "--no-install-recommends", "/tmp/milonga.deb")[0] == 0
    assert "keys = main:mine" in conf.read_text()
    (root / "var/lib/milonga/store").mkdir()
    code, text = chroot("apt-get", "purge", "-qq", "-y", "milonga")
    assert code == 0, text
    assert traces() == [] and has_user() == []
