"""The command `milonga`, on a terminal and in a pipe, against a real installation."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import termios
import time

import pytest

from harness.process import plain_env, wait_for
from harness.stack import BUILD, ROOT

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="oci")


@pytest.fixture(scope="module")
def env(stack):
    return plain_env(MILONGA_URL=stack.tango.base, MILONGA_KEY="test", TERM="xterm")


class Answer:
    def __init__(self, status, text, err=""):
        self.status, self.text, self.err = status, text, err


@pytest.fixture(scope="module")
def piped(env):
    def run(*args):
        done = subprocess.run([BUILD / "milonga", *map(str, args)], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60)
        return Answer(done.returncode, done.stdout, done.stderr)
    return run


class Terminal:
    """A program on a terminal of 120 columns."""

    def __init__(self, env, *args):
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, 120))
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        self.child = subprocess.Popen([BUILD / "milonga", *map(str, args)], env=env, stdin=self.slave, stdout=self.slave,
                                      stderr=self.slave, start_new_session=True)

    def read(self, until, timeout=30):
        end = time.monotonic() + timeout
        while not until(self):
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 0.05)[0]:
                self.text += os.read(self.master, 65536).decode()
        return self

    def over(self):
        """It has ended, and what it wrote is read."""
        return self.child.poll() is not None and not select.select([self.master], [], [], 0)[0]

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture(scope="module")
def shown(env):
    def run(*args):
        with contextlib.closing(Terminal(env, *args)) as t:
            t.read(Terminal.over)
            text = t.text.replace("\r\n", "\n")
            assert not re.search(r"[ \t]+$", text, re.M), f"blanks at the end of a line: {text!r}"
            return Answer(t.child.returncode, text)
    return run


@pytest.fixture(scope="module")
def lab(work_dir):
    """lab(makefile): a directory of its own with that Makefile."""
    made = []

    def make(text, **files):
        path = work_dir / f"lab{len(made)}"
        made.append(path)
        path.mkdir()
        (path / "Makefile").write_text(text)
        for name, content in files.items():
            (path / name).write_bytes(content)
        return path
    return make


@pytest.fixture(scope="module")
def finished(piped, lab):
    """A job that said something and failed."""
    done = piped("submit", lab("all:\n\t@echo said; exit 3\n"), "--image", "autograding_image", "--follow", "--timeout", 20)
    assert (done.status, done.text.splitlines()[0]) == (2, "said")
    assert "its make ended with status 2" in done.err
    return int(re.search(r"^job (\d+)$", done.err, re.M)[1])


def waiting(piped, lab):
    """A job that no vmm takes."""
    done = piped("submit", lab("all:\n\t@true\n"), "--image", "autograding_image", "--label", "nobody-has-it")
    assert done.status == 0, done.err
    return json.loads(done.text)["id"]


# ---- what there is

def commands():
    text = subprocess.run([BUILD / "milonga", "help"], env=plain_env(), capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+)", text, re.M), set(re.findall(r"--[a-z-]+", text))


def test_manual_and_completion_know_every_command_and_option():
    names, options = commands()
    assert len(names) >= 20 and len(options) >= 20
    man = (ROOT / "docs/man/milonga.1").read_text()
    told = {w for line in re.findall(r"^\.It Cm (.*)$", man, re.M) for w in re.findall(r"\b[a-z]+\b", line)}
    assert [n for n in names if n not in told] == []
    man_options = {f"--{o}" for o in re.findall(r"\bFl -([a-z-]+)", man)} | {"--help", "--version"}
    assert sorted(options - man_options) == []
    completion = (ROOT / "contrib/completion/milonga.bash").read_text()
    assert [n for n in names if not re.search(rf"\b{n}\b", completion)] == []
    assert [o for o in sorted(options) if o not in completion] == []
    sources = "".join(p.read_text() for p in (ROOT / "client").glob("*.c"))
    taken = set(re.findall(r'\{"(--[a-z-]+)", ', sources))
    assert sorted(taken - options) == [], "milonga help"


def test_completion_asks_the_service(env, finished):
    script = f"""
        source {ROOT}/contrib/completion/milonga.bash
        complete() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _milonga; echo "${{COMPREPLY[*]}}"; }}
        complete milonga can
        complete milonga logs ''
        complete milonga drain ''
        complete milonga submit --im
        complete milonga submit x --image auto
        complete milonga images remove auto
    """
    done = subprocess.run(["bash", "-euc", script], env={**env, "PATH": f"{BUILD}:{env['PATH']}"}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "cancel" and str(finished) in lines[1].split() and lines[3] == "--image", (done.stdout, done.stderr)
    assert lines[4:] == ["autograding_image"] * 2, lines
    assert re.fullmatch(r"mt\d+x\d+v0 --reason", lines[2])


# ---- looking

LOOKS = ("jobs", "vmms", "machines", "pools", "images", "stats", "callbacks", "labs", "job {}", "why {}")


@pytest.mark.parametrize("look", LOOKS)
def test_a_pipe_gets_json_and_a_terminal_a_table(piped, shown, finished, look):
    words = look.format(finished).split()
    value = json.loads(piped(*words).text)
    assert isinstance(value, dict)
    table = shown(*words)
    assert table.status == 0 and not table.text.startswith("{"), table.text
    assert json.loads(shown("--json", *words).text).keys() == value.keys()
    assert piped("--table", *words).text[:1] != "{"


def test_numbers_are_as_they_were_sent(piped, stack, finished):
    rate = piped("why", finished).text
    assert not re.search(r"\d\.\d{10,}", rate), rate


def test_a_job_for_people(shown, finished):
    text = shown("job", finished).text
    facts = dict(re.findall(r"^([a-z][a-z ]*?)  +(.*)$", text, re.M))
    assert facts["state"] == "success" and facts["exit"] == "status 2" and facts["tries"] == "1"
    assert facts["limits"] == "timeout 20 s" and facts["files"] == "Makefile as Makefile, 25 B"
    used = r"[\d.]+ m?s, [\d.]+ m?s of processor time, [\d.]+ [kM]B of memory, \d+ B of output"
    assert re.fullmatch(used, facts["used"]), facts["used"]
    assert re.search(r"finished +\w+ \w+ .*, after [\d.]+ m?s\n", text)
    steps = re.findall(r"\+[\d.]+ s +(\w+) *(.*)$", text, re.M)
    assert [s for s, _ in steps][:3] == ["accepted", "dispatched", "machine"] and ("dispatched", "try 1") in steps
    assert ("copied", "ok") in steps and steps[-1] == ("final", "Success: Autodriver returned normally")


def test_logs_and_feedback_are_bytes(piped, shown, finished):
    assert piped("logs", finished).text == shown("logs", finished).text
    assert piped("logs", finished).text.startswith("said\n")
    assert piped("feedback", finished).text.endswith(piped("logs", finished).text)
    again = piped("logs", finished, "-f")
    assert again.text == piped("logs", finished).text and again.status == 2


def test_top_lives_until_q(env, piped, lab):
    ident = waiting(piped, lab)
    try:
        with contextlib.closing(Terminal(env, "top")) as t:
            t.read(lambda t: re.search(rf"{ident} +queued", t.text) and t.text.count("\033[H") >= 2)
            assert termios.tcgetattr(t.slave) != t.before
            os.write(t.master, b"q")
            t.read(Terminal.over)
            assert t.child.returncode == 0 and termios.tcgetattr(t.slave) == t.before
            assert t.text.startswith("\033[?1049h") and t.text.endswith("\033[?1049l")
        once = piped("top", "--once").text
        assert "1 live, 1 queued" in once and f"{ident}  queued" in once
    finally:
        piped("cancel", ident)
    assert "no live jobs" in piped("top", "--once").text


def test_why_names_what_is_missing(shown, piped, lab):
    ident = waiting(piped, lab)
    text = shown("why", ident).text
    assert "No vmm with the image has all the labels" in text and "labels nobody-has-it" in text
    assert "0 jobs, 0 of the same kind" in text
    piped("cancel", ident)


# ---- acting

def test_cancel_of_several(shown, piped, lab, finished):
    first, second = waiting(piped, lab), waiting(piped, lab)
    done = shown("cancel", first, finished, second)
    assert done.status == 1
    assert done.text == (f"job {first} is cancelled\nmilonga: Job {finished} is finished; there is nothing to cancel\n"
                         f"job {second} is cancelled\n")
    for wrong in ((), ("x",), ("--all",)):
        assert piped("cancel", *wrong).status == 2


def test_a_running_job_is_cancelled(env, piped, lab):
    done = piped("submit", lab("all:\n\t@echo begun; sleep 100\n"), "--image", "autograding_image")
    ident = json.loads(done.text)["id"]
    with contextlib.closing(Terminal(env, "logs", "-f", ident)) as t:
        t.read(lambda t: "begun" in t.text)
        assert piped("cancel", ident).status == 0
        t.read(Terminal.over)
        assert t.child.returncode == 130 and f"job {ident}: cancelled, status 130" in t.text


def test_requeue(shown, piped, finished):
    again = json.loads(piped("requeue", finished).text)["id"]
    assert again > finished
    assert piped("logs", "-f", again).status == 2
    assert re.fullmatch(r"job \d+\n", shown("requeue", again).text)
    assert "There is no job 99999" in piped("requeue", 99999).err


def test_drain_and_resume(shown, piped, stack):
    vmm = json.loads(piped("vmms").text)["vmms"][0]["name"]
    assert re.search(r"up, drains .*operator: new disk\n", shown("drain", vmm, "--reason", "new disk").text)
    assert json.loads(piped("vmms").text)["vmms"][0]["drain"] is True
    assert "drains" not in shown("resume", vmm).text
    assert piped("drain", "nobody").err == "milonga: There is no vmm nobody\n"


def test_prealloc(shown, piped):
    assert shown("prealloc", "autograding_image", 2).text == "2 warm of autograding_image, as wished\n"
    assert re.search(r"autograding_image +2 +2 +2 +2\n", shown("pools").text)
    done = piped("prealloc", "autograding_image", "default")
    assert (done.status, done.text) == (0, "")
    wait_for("no warm machines", lambda: all(p["total"] == 0 for p in json.loads(piped("pools").text)["pools"]))
    assert piped("prealloc", "nope", 1).err == "milonga: There is no image nope\n"


def test_bench(shown, piped):
    done = json.loads(piped("bench", "--image", "autograding_image", "--jobs", 4, "--parallel", 2).text)
    assert done["jobs"] == 4 and done["failed"] == 0
    assert shown("bench", "--image", "autograding_image", "--jobs", 2).text.startswith("2 jobs, 0 failed, ")


def test_a_small_upload_says_nothing_of_itself(shown, lab):
    done = shown("submit", lab("all:\n\t@true\n", other=b"x" * 100), "--image", "autograding_image")
    assert done.status == 0 and re.fullmatch(r"job \d+\n", done.text), done.text


# ---- what is wrong

def test_what_is_wrong_is_a_sentence(piped, env, work_dir, lab):
    for args, status, sentence in (
            (("frob",), 2, 'there is no command "frob"'), (("jobs", "--frob"), 2, "there is no option --frob here"),
            (("job",), 2, "one job id is needed"), (("job", "x"), 2, 'job id "x" is not a number'),
            (("jobs", "--state", "nope"), 1, 'state is "nope"'),
            (("submit", work_dir / "none", "--image", "i"), 1, "cannot read the directory"),
            (("submit", lab("all:\n"), "--image", "nope"), 1, "nope is on no worker"),
            (("--key", "wrong", "jobs"), 1, "does not know this key; give one by MILONGA_KEY"),
            (("--url", "http://127.0.0.1:1", "jobs"), 1, "no Milonga answers at http://127.0.0.1:1")):
        done = piped(*args)
        assert done.status == status and sentence in done.err and done.text == "", (args, done.status, done.err)
