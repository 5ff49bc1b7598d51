"""`make run ONCE=1 DRIVER=docker` as a teacher types it, with an engine of each kind."""

import os
import shutil
import subprocess

import pytest

from harness import image
from harness.process import free_port, plain_env
from harness.stack import BUILD, ROOT, need

NAME = "milonga-test-c"
PACKAGES = ("tcc", "libc6-dev", "linux-libc-dev", "libcrypt-dev")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def with_compiler():
    """The grading image with a small C compiler, as one tar; made once and kept."""
    base, tar = image.tarball(), image.CACHE / f"{NAME}.tar"
    with image.locked(NAME):
        if tar.exists() and tar.stat().st_mtime >= base.stat().st_mtime:
            return tar
        work = image.CACHE / f"{NAME}.tmp"
        shutil.rmtree(work, ignore_errors=True)
        (work / "root").mkdir(parents=True)
        done = subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=work, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no {', '.join(PACKAGES)}: {done.stderr[-300:]}")
        subprocess.run(["tar", "-C", work / "root", "--numeric-owner", "-xpf", base], check=True)
        for deb in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, work / "root"], check=True)
        (work / "root/usr/bin/cc").symlink_to("tcc")
        part = tar.with_suffix(".part")
        subprocess.run(["tar", "-C", work / "root", "--numeric-owner", "-cf", part, "."], check=True)
        part.rename(tar)
        shutil.rmtree(work)
    return tar


@pytest.fixture
def compiler(engine):
    engine.docker("import", "-c", "WORKDIR /home", with_compiler(), NAME, timeout=300)
    yield NAME
    engine.docker("rmi", "-f", NAME)


def test_once_with_an_engine(engine, compiler, work_dir):
    need("milonga-api", "milonga-dispatcher", "milonga-vmm", "autodriver")
    data = work_dir / f"run-{engine.name}"
    for driver in ("oci", "docker", "docker"):  # what one keeps is in nobody's way, also not of another driver
        env = plain_env(ONCE=1, PORT=free_port(), DRIVER=driver, IMAGE=compiler, MILONGA_DOCKER_URL=engine.url,
                        DATA_DIR=data, BUILD=BUILD)
        done = subprocess.run([ROOT / "tools/run"], env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (ROOT / "examples/c-lab/expected").read_text().strip() in done.stdout
        assert "nothing is left behind" in done.stdout
    told = subprocess.run([BUILD / "milonga-vmm", "--config", data / "milonga.conf", "--check-config"], env=plain_env(),
                          capture_output=True, text=True)
    assert told.stdout == f"{data}/milonga.conf: ok\n" and f"docker_url = {engine.url}\n" in (data / "milonga.conf").read_text()
    assert engine.docker("ps", "-aq") == ""
    assert [p.name for p in (data / "docker").glob("*/*")] == ["autodriver"]


def test_what_is_left_behind_is_told(engine, compiler, work_dir):
    """A check that finds nothing must be able to find something."""
    data = work_dir / f"left-{engine.name}"
    (data / "docker").mkdir(parents=True)
    (data / "docker" / "stray").write_text("x")
    env = plain_env(ONCE=1, PORT=free_port(), DRIVER="docker", IMAGE=compiler, MILONGA_DOCKER_URL=engine.url,
                    DATA_DIR=data, BUILD=BUILD)
    done = subprocess.run([ROOT / "tools/run"], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "left behind:" in done.stderr and f"{data}/docker/stray" in done.stderr


def test_no_engine_is_a_sentence(work_dir):
    env = plain_env(ONCE=1, PORT=free_port(), DRIVER="docker", MILONGA_DOCKER_URL=f"unix://{work_dir}/none.sock",
                    DATA_DIR=work_dir / "none", BUILD=BUILD)
    done = subprocess.run([ROOT / "tools/run"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"make run: no container engine answers at unix://{work_dir}/none.sock; start one")
