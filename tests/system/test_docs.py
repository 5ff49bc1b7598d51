"""What README and docs show is what the programs do.

An HTML comment in front of an example, which no reader sees, says how it is run:

    <!-- runnable: stack -->    shell, against a running installation: port 3000 and the key `test` become its own; the last
                                command's output is what the next line, <!-- says: TEXT -->, names, as soon as it does
    <!-- runnable: config -->   lines of milonga.conf, through --check-config
    <!-- runnable: backup -->, <!-- runnable: restore -->    shell of test_backup.py, with the folders of its installation
    <!-- runnable: shell -->    shell that needs no services
    <!-- runnable: driver -->   a driver in C, compiled as the others are

Shell runs in a directory that has what examples name of the repository.
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from harness.process import plain_env, wait_for
from harness.stack import BUILD, ROOT, need

pytestmark = [pytest.mark.fast]

PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]
INDENTED = r"(?:(?:    [^\n]*)?\n)+"
FENCED = r"```(?P<lang>\w*)\n(?P<fenced>.*?)^```"
EXAMPLE = re.compile(rf"^<!-- runnable: (?P<how>\w+) -->\n(?:<!-- says: (?P<says>.*?) -->\n)?\n?(?:{FENCED}|(?P<indented>{INDENTED}))", re.M | re.S)


def examples(page):
    text = page.read_text(encoding="utf-8")
    for m in EXAMPLE.finditer(text):
        code = m["fenced"] if m["fenced"] is not None else re.sub(r"^    ", "", m["indented"], flags=re.M)
        yield m["how"], m["says"], code, f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, m.start()) + 1}"


ALL = [e for page in PAGES for e in examples(page)]


def of(how):
    return [pytest.param(says, code, id=where) for kind, says, code, where in ALL if kind == how]


def test_every_mark_is_understood():
    marks = sum(len(re.findall("^<!-- runnable:", page.read_text(encoding="utf-8"), re.M)) for page in PAGES)
    assert marks == len(ALL) > 0
    assert {how for how, *_ in ALL} == {"stack", "config", "shell", "driver", "backup", "restore"}
    assert all(code.strip() for _, _, code, _ in ALL)


def shell(code, cwd, **env):
    return subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=cwd, env=plain_env(**env), capture_output=True, text=True,
                          timeout=60)


@pytest.fixture(scope="module")
def root(work_dir):
    """What examples name by a relative path, without what they leave behind."""
    copy = work_dir / "root"
    copy.mkdir()
    for name in ("examples", "milonga.conf", "README.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def stack(make_stack):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return make_stack(driver="oci")


@pytest.mark.parametrize("says, code", of("stack"))
def test_against_a_stack(stack, root, says, code):
    port = stack.ports[0]
    code = code.replace("localhost:3000", f"localhost:{port}")
    env = {"PATH": f"{BUILD}:{os.environ['PATH']}", "MILONGA_URL": f"http://localhost:{port}", "MILONGA_KEY": "test", "LANG": "C.UTF-8"}
    done = shell(code, root, **env)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    if not says:
        return
    last = code.strip().split("\n")[-1]
    wait_for(f"{says!r} in the output of {last}", lambda: says in done.stdout or says in shell(last, root, **env).stdout, 30)


@pytest.mark.parametrize("says, code", of("shell"))
def test_in_a_shell(root, says, code):
    need("milonga")
    done = shell(code, root, PATH=f"{BUILD}:{os.environ['PATH']}", HOME=str(root), LANG="C.UTF-8")
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    assert not says or says in done.stdout, done.stdout


@pytest.mark.parametrize("says, code", of("config"))
def test_configuration(tmp_path, says, code):
    """Also says no to the same lines with a key that is none, so that the check is one."""
    need("milonga-vmm")
    conf = tmp_path / "milonga.conf"
    for wrong in ("", "no_such_key = 1\n"):
        conf.write_text(code + wrong, encoding="utf-8")
        conf.chmod(0o600)
        done = subprocess.run([BUILD / "milonga-vmm", "--config", conf, "--check-config"], env=plain_env(), capture_output=True,
                              text=True, timeout=20)
        assert (done.returncode == 0) == (not wrong), done.stderr


@pytest.mark.parametrize("says, code", of("driver"))
def test_driver_compiles(tmp_path, says, code):
    """As strictly as the services are, as a file among the drivers."""
    source = tmp_path / "example.c"
    source.write_text(code, encoding="utf-8")
    flags = subprocess.run(["make", "-s", "-C", ROOT, "flags"], capture_output=True, text=True, check=True).stdout.split()
    flags = [f for f in flags if not f.startswith("-fsanitize")]
    done = subprocess.run([os.environ.get("CC", "gcc").split()[-1], *flags, "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/services/vmm/drivers",
                           "-c", "-o", tmp_path / "example.o", source], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
