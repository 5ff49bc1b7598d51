"""What `make install` puts where, and the systemd units in it."""

import pathlib
import re
import shutil
import subprocess

import pytest

from harness.process import plain_env
from harness.stack import BUILD, ROOT, need

UNITS = ["milonga-api.service", "milonga-api.socket", "milonga-dispatcher.service", "milonga-vmm.service",
         "milonga-vmm-oci.service", "milonga.target"]
pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    need("milonga", "milonga-api", "milonga-dispatcher", "milonga-vmm", "autodriver")
    path = tmp_path_factory.mktemp("root")
    # what is built is installed as it is (-o all would build anew with the test's own flags)
    done = subprocess.run(["make", "-s", "-C", ROOT, f"BUILD={BUILD}", "-o", "all", "install", f"DESTDIR={path}",
                           "PREFIX=/usr"], env=plain_env(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def systemd(root):
    """systemd-analyze on an installed tree, beside systemd's own units."""
    units = pathlib.Path("/lib/systemd/system")
    if not shutil.which("systemd-analyze") or not (units / "sysinit.target").exists():
        pytest.skip("needs systemd-analyze and systemd's units")
    shutil.copytree(units, root / "usr/lib/systemd/system", symlinks=True, dirs_exist_ok=True,
                    ignore=lambda _, names: [n for n in names if n.startswith("milonga")])

    def analyze(*args):
        done = subprocess.run(["systemd-analyze", f"--root={root}", "--no-pager", *args], env=plain_env(),
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr
    return analyze


def test_all_is_below_destdir(root):
    files = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
    for name in ("usr/bin/milonga", "usr/libexec/milonga/milonga-api", "usr/libexec/milonga/autodriver",
                 "usr/share/doc/milonga/operations.md", "usr/lib/sysusers.d/milonga.conf", "etc/milonga/milonga.conf",
                 *(f"usr/lib/systemd/system/{u}" for u in UNITS)):
        assert name in files, name
    assert files["etc/milonga/milonga.conf"].stat().st_mode & 0o077 == 0, "keys will be in it"
    assert not any("@LIBEXECDIR@" in p.read_text() for n, p in files.items() if n.startswith("usr/lib/systemd/system/milonga"))
    done = subprocess.run([files["usr/libexec/milonga/milonga-api"], "--config", files["etc/milonga/milonga.conf"],
                           "--check-config"], env=plain_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_second_install_leaves_the_configuration_alone(root):
    conf = root / "etc/milonga/milonga.conf"
    conf.write_text("keys = a:b\n")
    subprocess.run(["make", "-s", "-C", ROOT, f"BUILD={BUILD}", "-o", "all", "install", f"DESTDIR={root}",
                    "PREFIX=/usr"], env=plain_env(), check=True, timeout=120)
    assert conf.read_text() == "keys = a:b\n"


def test_units_are_right(systemd):
    assert systemd("verify", *UNITS) == (0, "")


def test_a_wrong_unit_would_be_noticed(systemd, root):
    unit = root / "usr/lib/systemd/system/milonga-wrong.service"
    text = (unit.parent / "milonga-api.service").read_text()
    unit.write_text(text.replace("libexec/milonga/milonga-api", "libexec/milonga/milonga-ape"))
    try:
        assert systemd("verify", unit.name)[0] != 0
    finally:
        unit.unlink()


def test_exposure_is_as_the_manual_says(systemd):
    manual = (ROOT / "docs/operations.md").read_text()
    told = dict(re.findall(r"^\| `(milonga[\w-]+)` \|.*\| ([\d.]+) \|$", manual, re.M))
    services = [u.removesuffix(".service") for u in UNITS if u.endswith(".service")]
    assert sorted(told) == sorted(services)
    for name in services:
        code, text = systemd("security", "--offline=true", f"{name}.service")
        found = re.search(r"exposure level for \S+: ([\d.]+)", text)
        assert code == 0 and found, text
        assert found[1] == told[name], f"{name}: {found[1]}, and docs/operations.md says {told[name]}"


def test_users_are_as_the_units_name_them(root):
    users = (root / "usr/lib/sysusers.d/milonga.conf").read_text()
    for unit in UNITS:
        for name in re.findall(r"^(?:User|Group)=(\S+)", (root / "usr/lib/systemd/system" / unit).read_text(), re.M):
            assert f"u {name} " in users, unit


def test_the_image_builds_from_what_it_is_given(tmp_path):
    """The stage of the Dockerfile that compiles copies some of the tree, and .dockerignore lets that through: make finds all it needs."""
    stage = (ROOT / "Dockerfile").read_text().partition(" AS build\n")[2].partition("\nFROM ")[0]
    passed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    copied = re.findall(r"^COPY (\S+) (\S+)$", stage, re.M)
    assert copied
    for name, to in copied:
        assert any(name.rstrip("/") == p or name.startswith(f"{p}/") for p in passed), name
        there = tmp_path / to / pathlib.Path(name).name if to.endswith("/") else tmp_path / to
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, there)
    done = subprocess.run(["make", "-n", "all"], cwd=tmp_path, env=plain_env(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
