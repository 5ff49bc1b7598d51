"""What Tango itself answered, asked of us: golden/tango.json, recorded from the real one.

A step of it has Tango's `answer`; where ours is another one on purpose, it is under `ours` with the reason in `why`
(docs/tango.md tells them to people). Times, ids and ETags are masked on both sides.
"""

import json
import os
import pathlib
import re

import pytest

from harness.process import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

STEPS = json.loads((pathlib.Path(__file__).parent / "golden" / "tango.json").read_text())
TIME = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d \d{4}")


def mask_text(text):
    text = TIME.sub("<time>", text)
    text = re.sub(r"courselabs/main-", "<labs>-", text)
    text = re.sub(r"\b(hello_job|slow_job|j):\d+", r"\1:<id>", text)
    text = re.sub(r"local-\d{4,}-", "local-<vm>-", text)
    text = re.sub(r"\bJob \d+ ", "Job <id> ", text)
    return re.sub(r"http://127\.0\.0\.1:\d+", "<frontend>", text)


def mask(value, key=None):
    if isinstance(value, dict):
        return {k: mask(v, k) for k, v in value.items()}
    if isinstance(value, list):
        if key in ("total", "free"):
            return len(value)
        return [mask(v) for v in value]
    if key in ("id", "jobId", "elapsed_secs", "num_threads", "vmms", "reason"):
        return value if value is None else f"<{type(value).__name__}>"
    return mask_text(value) if isinstance(value, str) else value


def normal(answer):
    answer = dict(answer)
    if "json" in answer:
        answer["json"] = mask(answer["json"])
        answer["keys"] = list(answer["json"])
        if "jobs" in answer["json"]:
            answer["json"]["jobs"] = sorted(answer["json"]["jobs"], key=lambda j: (j["name"], str(j["trace"])))
    if "text" in answer:
        answer["text"] = mask_text(answer["text"])
    return answer


class Replay:
    def __init__(self, stack, receiver):
        self.stack, self.tango, self.receiver = stack, stack.tango, receiver
        self.ids = {}

    def live(self):
        return self.tango.jobs(dead=False)

    def before(self, name):
        """What the one who recorded had waited for."""
        if name == "05-poll-ok":
            self.tango.wait_dead(self.ids["04-addjob-ok"])
            wait_for("an end of all jobs", lambda: not self.live())
        elif name == "08-pool-all":
            self.tango.ok("GET", "/prealloc/test/autograding_image/2/")
        elif name == "10-partial-running":
            self.tango.wait_output(self.ids["10-addjob-slow"], "first line")
        elif name == "10-partial-finished":
            self.tango.wait_dead(self.ids["10-addjob-slow"])

    # An engine's image has a name with its tag, which Tango did not know and a job may say here (docs/tango.md); asked of
    # an engine is therefore a tag that it has not.
    TAG, OTHER_TAG = "autograding_image:latest", "autograding_image:nosuch"

    def translate(self, text, there=True):
        if self.stack.driver == "oci":
            return text
        return text.replace(self.TAG, self.OTHER_TAG) if there else text.replace(self.OTHER_TAG, self.TAG)

    def ask(self, step):
        name, path, headers = step["name"], step["path"], dict(step.get("headers", {}))
        self.before(name)
        if path == "/getPartialOutput/test/9/":
            path = f"/getPartialOutput/test/{self.ids['10-addjob-slow']}/"
        body = step.get("body")
        if body is not None:
            body = self.translate(body).replace("http://127.0.0.1:3999", self.receiver.url).replace("sleep 6", "sleep 2").encode()
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        status, got, data = self.tango.raw(step["method"], path, body, headers)
        answer = {"status": status}
        data = self.translate(data.decode("latin-1"), there=False).encode("latin-1")
        if "content-type" in got:
            answer["type"] = got["content-type"]
        answer["etag"] = "etag" in got
        if "json" in answer.get("type", ""):
            text = data.decode()
            answer["json"] = json.loads(text)
            if answer["json"].get("jobId"):
                self.ids[name] = int(answer["json"]["jobId"])
            # not only the same values: the same bytes as Python's json and Tornado make
            if "elapsed_secs" not in text:
                assert text == json.dumps(answer["json"]).replace("</", "<\\/"), name
        elif data:
            answer["text"] = data.decode("latin-1")
        return answer


@pytest.fixture(scope="module", params=[
    pytest.param("oci", marks=pytest.mark.fast), pytest.param("docker", marks=pytest.mark.slow),
    pytest.param("podman", marks=pytest.mark.slow)])
def replay(request, make_stack, receiver):
    """Tango's own answers came from Docker; what a client sees does not depend on it."""
    if request.param == "oci":
        return Replay(make_stack(driver="oci", dup_window_ms="0"), receiver)
    engine = request.getfixturevalue(request.param)
    stack = make_stack(start=False, driver="docker", dup_window_ms="0", wish_wait_ms="25s", docker_url=engine.url)
    stack.engine_url = engine.url
    return Replay(stack.start(), receiver)


@pytest.mark.parametrize("step", STEPS, ids=[s["name"] for s in STEPS])
def test_same_answer(replay, step):
    answer = replay.ask(step)
    if "ours" in step:
        assert step["why"]
    assert normal(answer) == normal({k: v for k, v in (step.get("ours") or step["answer"]).items()})


def test_callback_of_the_replay(replay):
    feedback = replay.tango.poll("gold", "hello.out")
    # the receiver is the other backends' too
    call = wait_for("the feedback in a callback", lambda: next(
        (c for c in replay.receiver.wait("/cb/path?x=1") if c.content == feedback), None))
    assert call.name == "hello.out"
