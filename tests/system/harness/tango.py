"""A frontend's view: Tango's HTTP interface, read as strictly as a frontend might."""

import http.client
import itertools
import json
import re
import time

import requests

from .process import wait_for

STAMP = r"Autograder \[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\]: "
JSON_TYPE = "application/json; charset=UTF-8"
_numbers = itertools.count(1)


def unique(prefix):
    return f"{prefix}{next(_numbers)}"


class Tango:
    def __init__(self, port, key="test", image="autograding_image"):
        self.port, self.key, self.image = port, key, image
        self.base = f"http://127.0.0.1:{port}"
        self.http = requests.Session()
        self.http.trust_env = False

    def raw(self, method, path, body=None, headers=None, timeout=30):
        """One request on a connection of its own, path as it stands: (status, headers, body)."""
        headers = dict(headers or {})
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        chunked = headers.get("Transfer-Encoding") == "chunked"
        try:
            conn.request(method, path, body=iter([body]) if chunked and body else body,
                         headers=headers, encode_chunked=chunked)
            answer = conn.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            conn.close()

    def json(self, method, path, **more):
        answer = self.http.request(method, self.base + path, timeout=30, **more)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
        assert answer.headers["Content-Type"] == JSON_TYPE, path
        value = answer.json()
        assert value["statusId"] in (0, -1), value
        return value

    def ok(self, method, path, **more):
        value = self.json(method, path, **more)
        assert value["statusId"] == 0, (path, value)
        return value

    def up(self):
        try:
            return self.http.get(self.base + "/healthz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def open(self, lab):
        return self.ok("GET", f"/open/{self.key}/{lab}/")

    def upload(self, lab, name, data):
        data = data.encode() if isinstance(data, str) else data
        return self.ok("POST", f"/upload/{self.key}/{lab}/", data=data, headers={"Filename": name})

    def body(self, output, files=("Makefile",), image=None, timeout=30, name=None, **more):
        pairs = [(f, f) if isinstance(f, str) else f for f in files]
        return {"image": image or self.image, "files": [{"localFile": a, "destFile": b} for a, b in pairs],
                "timeout": timeout, "max_kb": 0, "output_file": output, "jobName": name or output,
                "accessKeyId": "", "accessKey": "", "disable_network": True, **more}

    def add(self, lab, output, **more):
        value = self.ok("POST", f"/addJob/{self.key}/{lab}/",
                        data=json.dumps(self.body(output, **more)))
        assert value["statusMsg"] == "Job added" and value["jobId"].isdigit(), value
        return int(value["jobId"])

    def submit(self, makefile, lab=None, files=None, **more):
        """A job from its Makefile; (id, lab, output file)."""
        lab = lab or unique("lab")
        output = more.pop("output", f"{lab}.out")
        self.open(lab)
        self.upload(lab, "Makefile", makefile)
        for name, data in (files or {}).items():
            self.upload(lab, name, data)
        return self.add(lab, output, files=["Makefile", *(files or {})], **more), lab, output

    def poll(self, lab, output):
        """The feedback as bytes, or None while there is none."""
        answer = self.http.get(f"{self.base}/poll/{self.key}/{lab}/{output}/", timeout=30)
        assert answer.status_code == 200, answer.text[:300]
        if answer.headers["Content-Type"] == "application/octet-stream":
            return answer.content
        assert answer.json() == {"statusId": -1, "statusMsg": "Output file not found"}, answer.text
        return None

    def jobs(self, dead):
        return self.ok("GET", f"/jobs/{self.key}/{int(dead)}/")["jobs"]

    def job(self, ident):
        """The job's entry and whether it is dead; None when it is in neither list."""
        for dead in (0, 1):  # a job moves from live to dead, so looked for in that order it is not missed
            for job in self.jobs(dead):
                if job["id"] == ident:
                    return job, bool(dead)
        return None

    def wait_dead(self, ident, timeout=40):
        def dead():
            found = self.job(ident)
            return found[0] if found and found[1] else None
        try:
            return wait_for(f"job {ident}", dead, timeout, 0.05)
        except AssertionError as e:
            raise AssertionError(f"{e}; it is {self.job(ident)}") from None

    def partial(self, ident):
        return self.json("GET", f"/getPartialOutput/{self.key}/{ident}/")

    def wait_output(self, ident, text, timeout=30):
        return wait_for(f"{text!r} in the output of job {ident}",
                        lambda: text in self.partial(ident).get("output", ""), timeout, 0.05)

    def run(self, makefile, wait=60, **more):
        """Submits and waits; (entry in the dead list, feedback)."""
        ident, lab, output = self.submit(makefile, **more)
        entry = self.wait_dead(ident, wait)
        feedback = self.poll(lab, output)
        assert feedback is not None, f"job {ident} is dead without feedback: {entry}"
        return entry, feedback


def messages(entry):
    """The trace without its times."""
    for line in entry["trace"]:
        stamp, _, message = line.partition("|")
        time.strptime(stamp, "%a %b %d %H:%M:%S %Y")
        assert "|" not in message, line
    return [line.partition("|")[2] for line in entry["trace"]]


def parts(feedback):
    """(message, Autodriver line, output) of a feedback that has Tango's form, as bytes."""
    match = re.fullmatch((STAMP + r"Received job (\S+):(\d+)\n" + STAMP + r"(.+)\n" + STAMP
                          + r"Here is the output from the autograder:\n---\n").encode()
                         + rb"(?:(Autodriver: [^\n]+)\n)?(.*)", feedback, re.S)
    assert match, feedback[:600]
    return match[3].decode(), (match[4] or b"").decode(), match[5]
