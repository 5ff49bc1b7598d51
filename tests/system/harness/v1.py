"""The native API, every answer of which is held against docs/openapi.yaml."""

import base64
import http.client
import json
import pathlib
import re
import urllib.parse

import jsonschema
import yaml

from .process import wait_for

SPEC = yaml.safe_load((pathlib.Path(__file__).resolve().parents[3] / "docs/openapi.yaml").read_text())
_resolver = jsonschema.RefResolver("", SPEC)


def deref(node):
    while "$ref" in node:
        node = _resolver.resolve(node["$ref"])[1]
    return node


def check(schema, value):
    jsonschema.Draft202012Validator(schema, resolver=_resolver).validate(value)


def schema(name):
    return {"$ref": f"#/components/schemas/{name}"}


def operation(method, path):
    """What the description says of a request; None when it knows of no such path or method."""
    path = path.split("?")[0].rstrip("/") or "/"
    best = None
    for template, item in SPEC["paths"].items():
        pattern = re.sub(r"\{image\}", ".+", template)
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", pattern)
        if re.fullmatch(pattern, path) and (best is None or template.count("{") < best[0].count("{")):
            best = template, item
    return best and best[1].get("get" if method == "HEAD" else method.lower())


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["code"]


class V1:
    def __init__(self, port, key="test"):
        self.port, self.key = port, key

    def raw(self, method, path, body=None, headers=None, timeout=30):
        headers = dict(headers or {})
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            conn.request(method, path, body=body, headers=headers)
            answer = conn.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            conn.close()

    def call(self, method, path, body=None, want=None, **more):
        """One request; its answer is what the description says of it."""
        a = self.raw(method, path, body, **more)
        conform(method, path, a)
        if want is not None:
            wanted = want if isinstance(want, (tuple, list)) else (want,)
            assert a.status in wanted, (method, path, a.status, a.body[:600])
        return a

    def get(self, path, want=200, **more):
        return self.call("GET", path, want=want, **more)

    def put_file(self, lab, name, data, want=(200, 201)):
        data = data.encode() if isinstance(data, str) else data
        return self.call("PUT", f"/v1/labs/{quote(lab)}/files/{quote(name)}", data, want=want)

    def submission(self, lab, image, files=("Makefile",), **more):
        return {"lab": lab, "name": f"job of {lab}", "image": image, "files": [{"name": f} for f in files], **more}

    def submit(self, makefile, lab, image, want=201, headers=None, **more):
        self.call("PUT", f"/v1/labs/{lab}", want=(200, 201))
        self.put_file(lab, "Makefile", makefile)
        a = self.call("POST", "/v1/jobs", self.submission(lab, image, **more), want=want, headers=headers)
        return a.json["id"]

    def job(self, ident):
        return self.get(f"/v1/jobs/{ident}").json

    def wait_state(self, ident, *states, timeout=40):
        def there():
            job = self.job(ident)
            return job if job["state"] in states else None
        return wait_for(f"job {ident} {'/'.join(states)}", there, timeout)

    def wait_finished(self, ident, timeout=40):
        return self.wait_state(ident, "finished", timeout=timeout)

    def stream(self, path, last=None, timeout=30):
        return Stream(self, path, last, timeout)


def quote(name):
    return urllib.parse.quote(name, safe="")


def conform(method, path, a):
    assert not any(h.startswith("access-control") for h in a.headers), a.headers
    said = operation(method, path)
    if said is None:
        assert a.status in (401, 404, 405), (method, path, a.status)
        check(schema("Problem"), a.json)
        return
    responses = said["responses"]
    assert str(a.status) in responses, (method, path, a.status, a.body[:600])
    response = deref(responses[str(a.status)])
    if method == "HEAD":
        return
    content = response.get("content")
    if not content:
        assert a.body == b"", (method, path, a.body[:100])
        return
    kind = a.headers["content-type"].split(";")[0]
    assert kind in content, (method, path, a.status, kind)
    if kind.endswith("json"):
        check(content[kind].get("schema", {}), a.json)
        if kind == "application/problem+json":
            problem = a.json
            assert problem["status"] == a.status and problem["type"] == f"urn:milonga:{problem['code']}"


class Stream:
    """Server-Sent Events as a client reads them."""

    def __init__(self, api, path, last=None, timeout=30):
        headers = {"Authorization": f"Bearer {api.key}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        self.conn = http.client.HTTPConnection("127.0.0.1", api.port, timeout=timeout)
        self.conn.request("GET", path, headers=headers)
        self.answer = self.conn.getresponse()
        self.status, self.last = self.answer.status, last
        if self.status != 200:
            self.problem = json.loads(self.answer.read())
            check(schema("Problem"), self.problem)
        else:
            assert self.answer.headers["Content-Type"] == "text/event-stream"

    def __iter__(self):
        """(event, data) until the stream ends, in whichever way."""
        name, data = "message", []
        while True:
            try:
                line = self.answer.readline()
            except (http.client.HTTPException, ConnectionError):
                return
            if not line:
                return
            line = line.decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line == "":
                if data:
                    yield name, "\n".join(data)
                name, data = "message", []
                continue
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                self.last = value

    def close(self):
        self.conn.close()


def follow_output(stream, collected=b""):
    """The bytes that a stream brought and its end, or None for the end when it was cut."""
    for name, data in stream:
        if name == "output":
            collected += base64.b64decode(data, validate=True)
        elif name == "reset":
            collected = b""
        elif name == "end":
            end = json.loads(data)
            check(schema("StreamEnd"), end)
            return collected, end
    return collected, None
