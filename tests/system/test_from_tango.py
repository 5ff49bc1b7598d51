"""tools/milonga-from-tango: a Tango's settings and files taken over, and the same jobs run by both.

The Tango here is one that answers as the real one was recorded to (shapes and texts of autolab/Tango 92ae12f)."""

import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.parse

import pytest

from harness.process import plain_env
from harness.stack import BUILD, ROOT

pytestmark = pytest.mark.fast
TOOL = ROOT / "tools/milonga-from-tango"

# The settings of Tango's config.template.py, with what an installation changes.
CONFIG_PY = '''
import logging, os

class Config:
    PREFIX = os.getenv("DOCKER_DEPLOYMENT", "local").lower()
    PORT = 3000
    LOGFILE = None
    LOGLEVEL = logging.DEBUG
    COURSELABS = "courselabs"
    OUTPUT_FOLDER = "output"
    VMMS_NAME = "localDocker"
    DOCKER_VOLUME_PATH = os.getenv("DOCKER_VOLUME_PATH", "/opt/TangoService/Tango/volumes/")
    KEYS = [os.getenv("RESTFUL_KEY", "test"), "second"]
    DISPATCH_PERIOD = 0.2
    TIMER_POLL_INTERVAL = 1
    NUM_THREADS = 20
    REUSE_VMS = True
    INITIALIZEVM_TIMEOUT = 180
    WAITVM_TIMEOUT = 60
    COPYIN_TIMEOUT = 30
    RUNJOB_TIMEOUT = 2 * 60 * 60
    COPYOUT_TIMEOUT = 30
    DOCKER_RM_TIMEOUT = 5
    DOCKER_HOST_USER = ""
    DOCKER_CORES_LIMIT = 1.5
    DOCKER_MEMORY_LIMIT = None
    MAX_INPUT_FILE_SIZE = 10 * 1024 * 1024 * 1024
    MAX_OUTPUT_FILE_SIZE = 1000 * 1024
    VM_ULIMIT_FILE_SIZE = 100 * 1024 * 1024
    VM_ULIMIT_USER_PROC = 100
    JOB_RETRIES = 2
    DESTROY_SECS = 5
    POOL_SIZE = 4
    MAX_JOBID = 1000
    USE_REDIS = True
    REDIS_HOSTNAME = os.getenv("DOCKER_REDIS_HOSTNAME", "127.0.0.1").lower()
    REDIS_PORT = 6379
    EC2_REGION = ""
    DEFAULT_AMI = "ami-1"
    TANGO_RESERVATION_ID = open("/tmp/milonga-from-tango-was-run", "w").name
'''


def tool(*args, **env):
    done = subprocess.run([sys.executable, TOOL, *map(str, args)], env=plain_env(**env), capture_output=True, text=True,
                          timeout=120)
    done.all = done.stdout + done.stderr
    return done


# ---- config


@pytest.fixture
def config_py(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG_PY)
    return path


def settings(text):
    return dict(re.findall(r"^(\w+) = (.*)$", text, re.M))


def test_settings_become_ours(config_py, tmp_path):
    conf = tmp_path / "milonga.conf"
    done = tool("config", config_py, "-o", conf, "--env", "RESTFUL_KEY=s3cret")
    assert done.returncode == 0, done.all
    assert conf.stat().st_mode & 0o077 == 0
    assert settings(conf.read_text()) == {
        "keys": "main:s3cret, main:second", "driver": "docker", "log_level": "debug",
        "redis_url": "redis://127.0.0.1:6379", "prefix": "milonga-local", "port": "3001",
        "docker_volume_path": "/opt/TangoService/Tango/volumes/", "init_timeout_ms": "180s", "wait_timeout_ms": "60s",
        "copyin_timeout_ms": "30s", "copyout_timeout_ms": "30s", "job_timeout_s": "7200", "job_timeout_max_s": "7200",
        "job_cores_milli": "1500", "max_body_bytes": "10737418240", "max_body_total_bytes": "10737418240",
        "job_output_bytes": "1024000", "job_fsize_bytes": "104857600", "job_pids": "100", "job_retries": "2",
        "pool_size": "4"}
    check = subprocess.run([BUILD / "milonga-api", "--config", conf, "--check-config"], env=plain_env(),
                           capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_what_is_not_carried_over_is_told(config_py):
    notes = tool("config", config_py).stderr
    for told in ("REUSE_VMS has no equal", "DOCKER_MEMORY_LIMIT is None", "DEFAULT_AMI is not carried over",
                 "cannot be known without running it", "variable RESTFUL_KEY was taken as unset", 'the key is "test"',
                 "7.0 or later", "port and prefix are not Tango's"):
        assert told in notes, told
    assert re.search(r"line \d+: DISPATCH_PERIOD", notes)


@pytest.mark.parametrize("backend, more, becomes, note", [
    ("distDocker", "HOST_ALIAS = 'graders.example.org'\n  DOCKER_HOST_USER = 'ops'", {"driver": "docker-hosts"},
     "each address of HOST_ALIAS (graders.example.org) becomes a line docker_host = NAME ssh://ops@ADDRESS slots=N"),
    ("ec2SSH", "EC2_REGION = 'us-east-2'\n  EC2_USER_NAME = 'ubuntu'\n  DEFAULT_INST_TYPE = 't3.small'\n  SECURITY_KEY_NAME = 'k'\n"
     "  SECURITY_KEY_PATH = '/keys/k'\n  DEFAULT_SECURITY_GROUP = 'autolab'",
     {"driver": "ec2", "ec2_region": "us-east-2", "ec2_user": "ubuntu", "ec2_types": "t3.small", "ec2_key_name": "k", "ssh_key": "/keys/k"},
     "ec2_security_groups takes ids, not the name autolab")])
def test_machines_elsewhere(tmp_path, backend, more, becomes, note):
    path = tmp_path / "c.py"
    path.write_text(f"class Config:\n  VMMS_NAME = {backend!r}\n  {more}\n")
    done = tool("config", path)
    assert done.returncode == 0 and settings(done.stdout) == becomes and note in done.stderr, done.all


def test_a_config_is_never_run(config_py):
    flag = ROOT.__class__("/tmp/milonga-from-tango-was-run")
    assert tool("config", config_py).returncode == 0 and not flag.exists()


@pytest.mark.parametrize("text, says", [
    ("class Config:\n  PORT = (", "is not Python"), ("PORT = 3\n", "no class Config"), ("\0", "is not Python"),
    ("class Config:\n  PREFIX = 'a\\nb'\n", "cannot be written")])
def test_a_bad_config_is_named(tmp_path, text, says):
    path = tmp_path / "c.py"
    path.write_text(text)
    done = tool("config", path)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_bombs_and_conditions_are_left_to_a_person(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("class Config:\n  PORT = 9**9**9\n  POOL_SIZE = 1\n  if open:\n    POOL_SIZE = 9\n"
                    "  KEYS = ['k'] * 10**9\n  VMMS_NAME = 'tashiSSH'\n")
    done = tool("config", path)
    assert done.returncode == 0 and settings(done.stdout) == {}
    for name in ("PORT is 9 **", "POOL_SIZE is set under a condition", "KEYS is", "VMMS_NAME = tashiSSH has no driver"):
        assert name in done.stderr, name


def test_an_output_that_is_there_is_not_overwritten(config_py, tmp_path):
    (tmp_path / "x").write_text("mine")
    done = tool("config", config_py, "-o", tmp_path / "x")
    assert done.returncode == 1 and "exists" in done.stderr and (tmp_path / "x").read_text() == "mine"


# ---- copy


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(log_level="info")


def ask(stack, *args):
    return tool(*args, MILONGA_URL=stack.tango.base, MILONGA_KEY=stack.tango.key)


def test_courselabs_are_copied_once(stack, tmp_path):
    root = tmp_path / "courselabs"
    lab = root / "tangokey-course-lab1"
    (lab / "output").mkdir(parents=True)
    (lab / "output/old.txt").write_text("feedback")
    (lab / "Makefile").write_text("all:\n")
    (lab / "a@b.org_1_héllo.c").write_bytes(b"\0\xff" * 1000)
    (lab / "link").symlink_to("/etc/passwd")
    (root / "other-course").mkdir()
    done = ask(stack, "copy", root, "--tango-key", "tangokey")
    assert done.returncode == 1 and "1 labs: 2 files copied, 0 there already, 1 left out" in done.stdout, done.all
    assert "left out: course-lab1/'link': a symbolic link\n" in done.stderr
    assert set(stack.tango.open("course-lab1")["files"]) == {"Makefile", "a@b.org_1_héllo.c"}
    (lab / "link").unlink()
    done = ask(stack, "copy", root, "--tango-key", "tangokey")
    assert done.returncode == 0 and "0 files copied, 2 there already" in done.stdout, done.all
    assert "KEY-LAB" in ask(stack, "copy", root, "--tango-key", "nobody").stderr


# ---- shadow


class FakeTango:
    """Tango's interface over labs in memory. What a job "does" is given by its name; each takes a few polls."""

    def __init__(self):
        self.files, self.jobs, self.does, self.key = {}, [], {}, "tk"
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, data = fake.answer(self.path, self.headers, body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            do_GET = do_POST = do

            def log_message(self, *args):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, headers, body):
        def reply(code, message, **more):
            return 200, "application/json; charset=UTF-8", json.dumps(
                {"statusId": code, "statusMsg": message, **more}).encode()
        verb, key, *rest = [urllib.parse.unquote(p) for p in path.strip("/").split("/")]
        if not path.endswith("/"):
            return 404, "text/html; charset=UTF-8", b"<html><title>404: Not Found</title></html>"
        if key != self.key:
            return reply(-1, "Key not recognized")
        if verb == "open":
            found = rest[0] in self.files
            self.files.setdefault(rest[0], {})
            return reply(0, "Found directory" if found else "Created directory", files={})
        if verb == "upload":
            if rest[0] not in self.files:
                return reply(-1, "Courselab not found")
            self.files[rest[0]][headers["Filename"]] = body
            return reply(0, "Uploaded file")
        if verb == "addJob":
            job = dict(json.loads(body), lab=rest[0], id=len(self.jobs) + 1, polls=0)
            self.jobs.append(job)
            return reply(0, "Job added", jobId=str(job["id"]))
        if verb == "poll":
            job = next((j for j in self.jobs if j["output_file"] == rest[1]), None)
            if job:
                job["polls"] += 1
            if job is None or job["polls"] < 3:
                return reply(-1, "Output file not found")
            return 200, "application/octet-stream", self.feedback(job)[job["polls"] == 3 and 200:]
        return reply(0, "Found list of jobs", jobs=[self.entry(j) for j in self.jobs])

    def entry(self, job):
        folder = f"courselabs/{self.key}-{job['lab']}"
        return {"retries": 0, "outputFile": f"{folder}/output/{job['output_file']}", "name": job["jobName"],
                "notifyURL": None, "maxOutputFileSize": 1024000, "assigned": False, "timeout": job["timeout"],
                "id": job["id"], "trace": [f"Tue Nov 24 07:09:11 2026|Added job {job['jobName']}:{job['id']} to queue"],
                "vm": {"image": job["image"], "name": job["image"], "id": 1000},
                "input": [{"destFile": f["destFile"], "localFile": f"{folder}/{f['localFile']}"} for f in job["files"]]}

    def feedback(self, job):
        verdict, end, output = self.does[job["jobName"]]
        at = "Autograder [Tue Nov 24 07:10:00 2026]:"
        if verdict.startswith("Internal Error"):
            return f"{at} {verdict}\n".encode()
        return (f"{at} Received job {job['jobName']}:{job['id']}\n{at} {verdict}\n{at} Here is the output from the "
                f"autograder:\n---\nAutodriver: {end}\n{output}").encode()


FINE = "Success: Autodriver returned normally"
SCORES = '{"scores": {"p": 7}}\n'


@pytest.fixture
def tango():
    fake = FakeTango()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def folder(tmp_path):
    def make(name, line):
        path = tmp_path / name
        path.mkdir()
        (path / "autograde-Makefile").write_text(f"# null: {line}\n")
        (path / "handin.c").write_text("int main;\n")
        return path
    return make


def shadow(stack, tango, *args):
    done = ask(stack, "shadow", "--tango", tango.url, "--tango-key", tango.key, "--image", "null", "--json", *args)
    return done, {e["job"]: e for e in json.loads(done.stdout)} if done.stdout else {}


def test_jobs_that_agree(stack, tango, folder):
    tango.does = {"fine": (FINE, "Job exited with status 0", "Hello from null\n"),
                  "two": (FINE, "Job exited with status 2", "Hello from null\n"),
                  # what Tango's docker backend says of a time-out, as recorded
                  "slow": (FINE, "Job timed out after 1 seconds", "Hello from null\n")}
    done, report = shadow(stack, tango, "--timeout", 1, folder("fine", "status=0"), folder("two", "status=2"),
                          folder("slow", "sleep_ms=60000"))
    assert done.returncode == 0, done.all
    assert report["fine"]["same"] and report["two"]["same"] and not report["slow"]["differences"]
    assert "header: 'Success" in report["slow"]["known_differences"][0]
    assert set(tango.files["shadow-fine"]) == {"autograde-Makefile", "handin.c"}
    assert {f["destFile"] for f in tango.jobs[0]["files"]} == {"Makefile", "handin.c"}


def test_jobs_that_do_not(stack, tango, folder):
    tango.does = {"status": (FINE, "Job exited with status 1", "Hello from null\n"),
                  "scores": (FINE, "Job exited with status 0", "Hello from null\n" + SCORES),
                  "output": (FINE, "Job exited with status 0", "Hello from Tango\n"),
                  "broken": ("Internal Error: [Errno 2] No such file or directory: 'feedback'", "", "")}
    done, report = shadow(stack, tango, *(folder(n, "status=0") for n in tango.does))
    assert done.returncode == 1, done.all
    told = {n: " ".join(e["differences"]) for n, e in report.items()}
    assert "outcome: 'Job exited with status 1' and 'Job exited with status 0'" in told["status"]
    assert 'scores: {"p": 7} and null' in told["scores"]
    assert "line 1: 'Hello from Tango' and 'Hello from null'" in told["output"]
    assert "Internal Error" in told["broken"]


def test_what_tango_has_graded_is_graded_again(stack, tango, folder):
    tango.does = {"old": (FINE, "Job exited with status 0", "Hello from null\n")}
    for side in (lambda: tango.answer("/open/tk/c-l/", {}, b""), lambda: stack.tango.open("c-l")):
        side()
    tango.files["c-l"]["mk"] = b"# null: status=0\n"
    stack.tango.upload("c-l", "mk", "# null: status=0\n")
    tango.jobs.append({"jobName": "old", "output_file": "was.txt", "image": "null", "timeout": 9, "lab": "c-l", "id": 1,
                       "files": [{"localFile": "mk", "destFile": "Makefile"}], "polls": 0})
    done, report = shadow(stack, tango, "--recent", 5)
    assert done.returncode == 0 and report["old"]["same"] and report["old"]["lab"] == "c-l", done.all
    # its own jobs are not taken for Tango's the next time
    assert len(shadow(stack, tango, "--recent", 5)[1]) == 1


def test_a_lab_that_was_not_copied_is_named(stack, tango, folder):
    tango.files["only-there"] = {"mk": b"# null: status=0\n"}
    tango.does = {"alone": (FINE, "Job exited with status 0", "Hello from null\n")}
    tango.jobs.append({"jobName": "alone", "output_file": "was.txt", "image": "null", "timeout": 9, "lab": "only-there", "id": 1,
                       "files": [{"localFile": "mk", "destFile": "Makefile"}], "polls": 0})
    done, report = shadow(stack, tango, "--recent", 1)
    said = report["alone"]["differences"]
    assert done.returncode == 1 and len(said) == 1 and said[0].count("Bad output path") == 1, done.all
    assert said[0].endswith("(it has no such lab; `copy` brings them)")


def test_a_side_that_is_wrong_is_named(stack, tango, folder):
    one = folder("fine", "status=0")
    tango.does = {"fine": (FINE, "Job exited with status 0", "")}
    done = ask(stack, "shadow", one, "--tango", tango.url, "--tango-key", "wrong", "--image", "null")
    assert done.returncode == 1 and "Tango: open: Key not recognized" in done.stdout, done.all
    done = ask(stack, "shadow", one, "--tango", "http://127.0.0.1:1", "--image", "null")
    assert done.returncode == 1 and "Tango at 127.0.0.1:1 does not answer" in done.stdout
    assert "no http(s) URL" in ask(stack, "shadow", one, "--tango", "ftp://x").stderr
    assert "no job" in ask(stack, "shadow", "--tango", tango.url).stderr
    assert tool("shadow", one, "--tango", tango.url).returncode == 2
