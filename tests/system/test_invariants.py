"""The invariants of docs/architecture.md, each by a test with its number in its name; more of that form are elsewhere."""

import http.client
import json
import os
import re
import shutil
import signal
import threading
import urllib.parse

import pytest

from harness.process import wait_for
from harness.stack import ROOT
from harness.tango import Tango, messages
from harness.v1 import V1

pytestmark = pytest.mark.fast

MAKEFILE = "autograde:\n\t@echo hello\n"


def test_each_invariant_has_a_test():
    text = (ROOT / "docs/architecture.md").read_text().partition("\n## Invariants\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^(\d+)\. ", text, re.M))
    tests = "\n".join(p.read_text() for d in ("system", "unit") for p in (ROOT / "tests" / d).glob("test_*"))
    assert listed == set(map(str, range(1, 11))) == set(re.findall(r"\btest_invariant_(\d+)_\w+\(", tests))


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="null", callback_delay_ms="0")


def test_invariant_1_an_accepted_job_survives_redis_killed_after_the_answer(make_stack):
    stack = make_stack(driver="null")
    stack.vmm.stop()  # so that the jobs are still to be done when they are looked for
    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", MAKEFILE)
    accepted = []
    for n in range(10):
        accepted.append(stack.tango.add("lab", f"out{n}"))
        stack.redis.process.kill()
        stack.redis.start()
        wait_for("redis seen again", lambda: stack.tango.json("GET", "/jobs/test/0/")["statusId"] == 0)
    stack.vmm.start()
    for n, ident in enumerate(accepted):
        assert messages(stack.tango.wait_dead(ident))[-1] == "Success: Autodriver returned normally"
        assert b"Hello from null" in stack.tango.poll("lab", f"out{n}")
    assert accepted == sorted(set(accepted))


def test_invariant_2_feedback_then_state_then_callback(stack, receiver):
    """What a frontend finds that asks the moment it is called back; and never a final state without feedback."""
    ids, seen, early = {}, {}, []
    take = receiver.take

    def look(request):
        output = request.path.rpartition("/")[2]
        ident = wait_for(f"the answer for {output}", lambda: ids.get(output))
        seen[output] = (stack.tango.job(ident)[1], stack.tango.poll("order", output))
        take(request)

    stop = threading.Event()

    def watch():
        while not stop.is_set():
            early.extend(j["id"] for j in stack.tango.jobs(dead=True) if stack.tango.poll("order", j["name"]) is None)

    watcher = threading.Thread(target=watch)
    watcher.start()
    receiver.take = look
    try:
        for n in range(20):
            output = f"order{n}.out"
            ids[output], _, _ = stack.tango.submit(MAKEFILE, lab="order", output=output,
                                                   callback_url=f"{receiver.url}/order/{output}")
        for output in ids:
            call = receiver.wait(f"/order/{output}")[0]
            assert seen[output] == (True, call.content), output
    finally:
        stop.set()
        watcher.join()
        receiver.take = take
    assert not early


def job_in_redis(stack, ident):
    """All that Redis has of a job, but when it was looked at."""
    client = stack.redis.client
    return {k: client.dump(k) for k in client.keys() if re.search(rf":{ident}$|:res:|:dead|:outbox|:ob:|:stats$".encode(), k)}


def test_invariant_3_a_worker_that_wakes_up_late_changes_nothing(make_stack):
    stack = make_stack(driver="null", vmms=2, callback_delay_ms="0")
    ident, lab, output = stack.tango.submit("# null: echo=1 sleep_ms=1500\n")

    def runs():
        return next((v for v in stack.vmms if stack.redis.client.hlen(f"{{milonga}}:vmm:{v.env['MILONGA_VMM_NAME']}:run")), None)
    late = wait_for("a worker with the job", runs)
    wait_for("the job to run", lambda: stack.redis.client.hget(f"{{milonga}}:j:{ident}", "s") == b"r")
    late.signal(signal.SIGSTOP)
    try:
        stack.tango.wait_dead(ident)
        feedback, before = stack.tango.poll(lab, output), job_in_redis(stack, ident)
    finally:
        late.signal(signal.SIGCONT)
    assert re.search(rb"\njob %d token \d+\.2\n" % ident, feedback), feedback
    wait_for("the late one to have given it up", lambda: late.text().count("event=vmm.registered") >= 2, 20)
    another, _, _ = stack.tango.submit(MAKEFILE)  # and it works again
    stack.tango.wait_dead(another)
    after = job_in_redis(stack, ident)
    mine = [k for k in before if k.endswith(b":%d" % ident)]
    assert mine and {k: after.get(k) for k in mine} == {k: before[k] for k in mine}
    assert stack.tango.poll(lab, output) == feedback
    assert stack.redis.client.hget("{milonga}:stats", "v_success") == b"2"


def test_invariant_4_all_killed_at_once_costs_no_job(make_stack):
    """Each job ends once; docs/reliability.md tells of the tests that go through every point."""
    stack = make_stack(driver="null", vmms=2, job_retries="5")
    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", "# null: echo=1 sleep_ms=300\n")
    jobs = [stack.tango.add("lab", f"out{n}") for n in range(12)]
    for _ in range(2):
        wait_for("work", lambda: any(j["trace"][-1:] != j["trace"][:1] for j in stack.tango.jobs(dead=False)) or not
                 stack.tango.jobs(dead=False))
        for p in [*stack.processes, stack.redis.process]:
            p.kill()
        stack.redis.start()
        for p in stack.processes:
            p.start()
        stack.wait_api()
    for n, ident in enumerate(jobs):
        trace = messages(stack.tango.wait_dead(ident))
        assert trace.count("Success: Autodriver returned normally") == 1 and trace[-1].startswith("Success"), trace
        assert b"job %d token" % ident in stack.tango.poll("lab", f"out{n}")
    assert stack.redis.client.hget("{milonga}:stats", "v_success") == b"12"
    stack.stop()
    stack.wait_clean()


def test_invariant_5_a_failure_of_the_infrastructure_is_retried_up_to_a_bound(make_stack, receiver):
    """Each machine of it dies without a word: after some tries, none of them at once, there is a verdict of that name, feedback and a callback."""
    base = 300
    stack = make_stack(driver="null", job_retries="3", retry_base_ms=f"{base}ms", retry_cap_ms="30s", callback_delay_ms="0")
    ident, lab, output = stack.tango.submit("# null: die=running\n", callback_url=f"{receiver.url}/five")
    entry = stack.tango.wait_dead(ident)
    job = stack.redis.client.hgetall(f"{{milonga}}:j:{ident}")
    assert (job[b"x"], job[b"c"]) == (b"infrastructure", b"3"), job
    lines = [line.decode().split(" ", 2) for line in stack.redis.client.lrange(f"{{milonga}}:t:{ident}", 0, -1)]
    failed = [int(at) for code, at, *_ in lines if code in ("failed", "lost")]
    begun = [int(at) for code, at, *_ in lines if code == "dispatched"]
    assert len(begun) == int(job[b"n"]) and 3 <= len(begun) <= 4
    waits = [again - end for end, again in zip(failed, begun[1:])]
    assert len(waits) == len(begun) - 1 and min(waits) >= base / 2 - 20, waits  # jitter; two processes tell the times
    feedback = receiver.wait("/five")[0].content
    assert stack.tango.poll(lab, output) == feedback
    assert b": Internal error: " in feedback, feedback
    assert not re.search(rb"autodriver: job exited", feedback, re.I) and "Success" not in messages(entry)[-1]
    assert stack.redis.client.hget("{milonga}:stats", "v_infrastructure") == b"1"
    assert not stack.redis.client.hexists("{milonga}:stats", "v_failed")
    again, _, _ = stack.tango.submit(MAKEFILE)  # and the worker is still in service
    assert messages(stack.tango.wait_dead(again))[-1] == "Success: Autodriver returned normally"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("crun"), reason="needs root and crun")
def test_invariant_6_the_host_follows_nothing_that_a_job_laid_out(make_stack, work_dir):
    """The job fills all that it may write with links to a place of the host, as names that a cleaner would walk."""
    canary = work_dir / "canary"
    (canary / "sub").mkdir(parents=True)
    (canary / "sub/file").write_text("as it was")
    (canary / "sub/file").chmod(0o640)

    def seen():
        return sorted((str(p), p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_gid, p.lstat().st_mtime_ns)
                      for p in (canary, *canary.rglob("*")))
    before = seen()
    stack = make_stack(driver="oci")
    entry, feedback = stack.tango.run(
        "autograde:\n\t@for d in $$HOME /tmp /var/tmp /dev/shm .; do (cd $$d && mkdir -p deep/er && ln -sfn " + str(canary) +
        " link && ln -sfn ../../../../../../.." + str(canary) + " deep/er/up && ln -sfn / deep/root) || true; done\n"
        "\t@mv $$HOME/autolab $$HOME/was 2>/dev/null; ln -sfn " + str(canary) + " $$HOME/autolab; ls -la $$HOME | grep -c canary\n")
    assert messages(entry)[-1] == "Success: Autodriver returned normally", feedback
    assert int(feedback.rstrip().rpartition(b"\n")[2]) >= 1, feedback  # the links were there
    stack.wait_clean()
    stack.stop()
    assert seen() == before and (canary / "sub/file").read_text() == "as it was"


def test_invariant_6_no_shell_is_given_what_came_from_outside():
    """The one shell is that of a remote host, whose command line ssh makes of argv; its text is a constant there."""
    shell = re.compile(r"\b(system|popen|wordexp|execlp?|execle)\s*\(|\"-c\"")
    assert not [f"{p}: {m[0]}" for p in sources() for m in shell.finditer(p.read_text())]
    by_path = re.compile(r"[^\w>.](chown|lchown|chmod|rename)\s*\(")
    found = {p.name for p in sources() if "services/vmm" in str(p) and by_path.search(p.read_text())}
    assert found <= {"docker_layout.c", "docker_tls.c"}  # in the vmm's own directories, where no job writes


def test_invariant_7_what_a_limit_cannot_hold_is_refused_with_the_reason(stack):
    stack.tango.open("seven")
    stack.tango.upload("seven", "Makefile", MAKEFILE)
    for limits, word in (({"cores": 1000}, "cores"), ({"memory": 1 << 40}, "memory"), ({"pids": 1 << 30}, "pids"),
                         ({"file_size": 1 << 60}, "file_size"), ({"unheard_of": 1}, "unheard_of")):
        answer = stack.tango.json("POST", "/addJob/test/seven/", data=json.dumps(stack.tango.body("out", limits=limits)))
        assert answer["statusId"] == -1 and word in str(answer["statusMsg"]), (limits, answer)


def sources():
    found = [p for d in ("services", "libshared", "client", "autodriver", "hostdriver") for p in (ROOT / d).rglob("*.c")]
    assert len(found) > 50
    return found


# Where there is no event: the file, and why. A wait that is not here, or is here and gone, is to be told.
TIMED = {
    "libshared/base/cgroup.c": "a group whose last process is going is busy for a moment, and v1 tells nobody when it is not",
    "hostdriver/host.c": "a file lock with a deadline",
    "hostdriver/engine.c": "somebody else is removing a container, and the engine's client has no word that waits for the end of that",
    "client/rest.c": "a server that is not there", "client/submit.c": "a server that is full",
    "client/doctor_redis.c": "two looks at a beat",
}


def test_invariant_8_nothing_waits_by_sleeping():
    sleeps = re.compile(r"\b(u?sleep|(clock_)?nanosleep|pthread_delay_np)\s*\(")
    assert not [f"{p}: {m[0]}" for p in sources() for m in sleeps.finditer(p.read_text())]
    bare = re.compile(r"\bp?poll\(NULL|\bselect\(0,")
    assert {str(p.relative_to(ROOT)) for p in sources() if bare.search(p.read_text())} == set(TIMED)


BAD_NAMES = {"upwards": b"..", "slash": b"a/b", "absolute": b"/etc/x", "NUL": b"a\0b", "newline": b"a\nb", "escape": b"a\x1bb",
             "delete": b"a\x7fb", "hyphen": b"-x", "Latin-1": b"caf\xe9", "long": b"x" * 256, "empty": b""}


def refused(status, data, name):
    """Is that a no of either API? Never an error of the server."""
    assert status < 500, (name, status, data)
    return status >= 400 or json.loads(data).get("statusId") == -1


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_invariant_9_names_from_outside_are_names(stack, name):
    tango, v1 = stack.tango, V1(stack.ports[0])
    tango.open("nine")
    tango.upload("nine", "Makefile", MAKEFILE)
    client, quoted = stack.redis.client, urllib.parse.quote(name, safe="")
    before = {k: client.dump(k) for k in client.keys() if b":lab" in k or b":j:" in k}
    files = sorted(p for p in stack.data.rglob("*") if "blobs" not in p.parts and "tmp" not in p.parts)
    text = name.decode("latin-1")
    asked = [("GET", f"/open/test/{quoted}/", None, {}), ("POST", f"/upload/test/{quoted}/", b"x", {"Filename": "f"}),
             ("PUT", f"/v1/labs/{quoted}", None, {}), ("PUT", f"/v1/labs/nine/files/{quoted}", b"x", {})]
    if not set(name) & set(b"\n\0"):  # which end a header
        asked.append(("POST", "/upload/test/nine/", b"x", {"Filename": text}))
    if name != b"caf\xe9":  # which is no JSON
        body = tango.body("out")
        for change in ({"output_file": text}, {"files": [{"localFile": "Makefile", "destFile": text}]},
                       {"files": [{"localFile": text, "destFile": "Makefile"}]}):
            asked.append(("POST", "/addJob/test/nine/", json.dumps({**body, **change}).encode(), {}))
        if b"/" not in name:  # an image may have one
            asked.append(("POST", "/addJob/test/nine/", json.dumps({**body, "image": text}).encode(), {}))
        asked.append(("POST", "/v1/jobs", json.dumps(v1.submission("nine", stack.image, files=(text,))).encode(), {}))
        asked.append(("POST", "/v1/jobs", json.dumps(v1.submission(text, stack.image)).encode(), {}))
    for method, path, data, headers in asked:
        answer = v1.raw(method, path, data, headers)
        assert refused(answer.status, answer.body, name), (method, path, data, headers, answer.status, answer.body)
    # a refused addJob may have its record, as Tango's have; no lab and no live job has come of any
    after = {k: client.dump(k) for k in client.keys() if b":lab" in k or b":j:" in k}
    assert {k for k in after if b":lab" in k} == {k for k in before if b":lab" in k}
    assert all(client.hget(k, "x") == b"rejected" for k in set(after) - set(before))
    assert sorted(p for p in stack.data.rglob("*") if "blobs" not in p.parts and "tmp" not in p.parts) == files


def test_invariant_9_a_key_sees_its_own_tenant_and_is_never_logged(make_stack):
    secrets = ["k1-of-one", "k2-of-two", "nobodys-k3"]
    stack = make_stack(driver="null", keys=f"one:{secrets[0]},two/admin:{secrets[1]}", callback_delay_ms="0", log_level="debug")
    own = Tango(stack.ports[0], secrets[1], stack.image)
    ident, lab, output = own.submit(MAKEFILE)
    own.wait_dead(ident)
    other, none = V1(stack.ports[0], secrets[0]), V1(stack.ports[0], secrets[2])
    for method, path in (("GET", ""), ("GET", "/feedback"), ("GET", "/output"), ("GET", "/why"), ("GET", "/events"),
                         ("GET", "/output/stream"), ("POST", "/cancel"), ("POST", "/requeue"), ("POST", "/callback/retry")):
        assert V1(stack.ports[0], secrets[1]).raw("GET", f"/v1/jobs/{ident}").status == 200
        assert other.raw(method, f"/v1/jobs/{ident}{path}").status == 404, path
        assert none.raw(method, f"/v1/jobs/{ident}{path}").status == 401, path
    assert other.get("/v1/jobs").json["jobs"] == [] and other.get("/v1/labs").json["labs"] == []
    assert other.raw("GET", f"/v1/labs/{lab}").status == 404
    stranger = Tango(stack.ports[0], secrets[0], stack.image)
    assert stranger.poll(lab, output) is None and stranger.jobs(dead=True) == []
    assert Tango(stack.ports[0], secrets[2]).json("GET", f"/jobs/{secrets[2]}/1/")["statusMsg"] == "Key not recognized"
    # also when it stands where no key belongs
    for raw in (f"/open/{secrets[1]}", f"/nosuch/{secrets[1]}/", f"/v1/jobs?key={secrets[1]}"):
        conn = http.client.HTTPConnection("127.0.0.1", stack.ports[0], timeout=10)
        conn.request("GET", raw)
        conn.getresponse().read()
        conn.close()
    for p in stack.processes:
        assert not [s for s in secrets if s in p.text()], p.name
    stored = stack.redis.client
    stored.config_set("rdbcompression", "no")
    whole = b"\n".join(k + b" " + (stored.dump(k) or b"") for k in stored.keys())
    assert lab.encode() in whole and not [s for s in secrets if s.encode() in whole]


def test_invariant_10_the_queue_is_bounded_and_says_so(make_stack):
    stack = make_stack(driver="null", max_live_jobs="5")
    stack.vmm.stop()
    stack.tango.open("lab")
    stack.tango.upload("lab", "Makefile", MAKEFILE)
    for n in range(5):
        stack.tango.add("lab", f"out{n}")
    answer = stack.tango.json("POST", "/addJob/test/lab/", data=json.dumps(stack.tango.body("one-more")))
    assert answer == {"statusId": -1, "statusMsg": "JobQueue is full"}
    stack.vmm.start()
    wait_for("room", lambda: not stack.tango.jobs(dead=False))
    stack.tango.add("lab", "room-again")
