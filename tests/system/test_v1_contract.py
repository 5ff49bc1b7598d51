"""Requests made from the description: each member of a submission wrong in each way that its schema knows, and answers that
name it. What the description allows is accepted, what it does not is refused."""

import copy
import json
import os

import jsonschema
import pytest

from harness import v1 as api

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(keys="main/admin:test")


@pytest.fixture(scope="module")
def v1(stack):
    v = api.V1(stack.ports[0])
    v.call("PUT", "/v1/labs/c", want=201)
    v.put_file("c", "Makefile", "# null: output=1")
    v.put_file("c", "other", "x")
    return v


def good(stack):
    return {"lab": "c", "name": "n", "image": stack.image, "output_file": "o", "network": False, "labels": ["nosuch"], "class": 3,
            "files": [{"name": "Makefile"}, {"name": "other", "dest": "second"}],
            "limits": {"timeout_s": 5, "cores": 0.5, "memory_mb": 64, "pids": 10, "file_bytes": 1000, "disk_bytes": 1000,
                       "output_bytes": 1000},
            "callback": {"url": "http://127.0.0.1:1/x", "secret": "whsec_" + "QUJD" * 10}}


WRONG = {"string": [5, None, [], {}, True], "integer": ["5", 1.5, None, [], True], "number": ["5", None, {}],
         "boolean": ["true", 1, None], "array": ["x", {}, 5, None], "object": ["x", [], 5, None]}


def breakages(schema, value, at=""):
    """(pointer, function that breaks a document there)"""
    schema = api.deref(schema)
    kind = schema.get("type")
    for bad in WRONG.get(kind, []):
        yield at, bad
    if kind == "string":
        if "maxLength" in schema:
            yield at, "a" * (schema["maxLength"] + 1)
        if schema.get("minLength"):
            yield at, ""
        if "pattern" in schema:
            for bad in ("a\x01b", "a/b\x7f", "-", "\u0000", " "):
                try:
                    jsonschema.validate(bad, {"pattern": schema["pattern"]})
                except jsonschema.ValidationError:
                    yield at, bad
    if kind in ("integer", "number"):
        yield at, -1
        yield at, 1e18
        if "minimum" in schema and schema["minimum"] > 0:
            yield at, 0
    if kind == "array":
        yield at, [copy.deepcopy(value[0])] * (schema["maxItems"] + 1)
        if schema.get("minItems"):
            yield at, []
        yield from breakages(schema["items"], value[0], f"{at}/0")
    if kind == "object":
        for key, sub in schema["properties"].items():
            yield from breakages(sub, value.get(key), f"{at}/{key}") if key in value else ()
        if schema.get("additionalProperties") is False:
            yield f"{at}/a~1strange~0one", 1
        for key in schema.get("required", []):
            yield f"{at}/{key}", "REMOVE"


def broken(document, pointer, bad):
    document = copy.deepcopy(document)
    if pointer == "":
        return bad
    *path, last = [p.replace("~1", "/").replace("~0", "~") for p in pointer.split("/")[1:]]
    node = document
    for step in path:
        node = node[int(step)] if isinstance(node, list) else node[step]
    if isinstance(node, list):
        node[int(last)] = bad
    elif bad == "REMOVE":
        node.pop(last, None)
    else:
        node[last] = bad
    return document


def test_each_member_wrong_in_each_way(v1, stack):
    document = good(stack)
    api.check(api.schema("Submit"), document)
    tried = 0
    for pointer, bad in breakages(api.schema("Submit"), document):
        body = broken(document, pointer, bad)
        a = v1.call("POST", "/v1/jobs", json.dumps(body), want=422)
        assert a.code == "invalid", (pointer, bad, a.json)
        pointers = [e["pointer"] for e in a.json["errors"]]
        assert any(p == pointer or p.startswith(pointer + "/") or pointer.startswith(p + "/") or p == ""
                   for p in pointers), (pointer, bad, pointers)
        if not (bad == "REMOVE" or pointer in ("", "/files")):
            assert pointer in pointers or bad in ([], {}), (pointer, bad, pointers)
        tried += 1
    assert tried > 120


def test_what_is_allowed_is_accepted(v1, stack):
    ident = v1.call("POST", "/v1/jobs", good(stack), want=201).json["id"]
    job = v1.job(ident)
    assert job["labels"] == ["nosuch"] and job["class"] == 3 and job["limits"]["cores"] == 0.5
    assert [(f["name"], f["dest"]) for f in job["files"]] == [("Makefile", "Makefile"), ("other", "second")]
    assert job["callback"]["state"] == "waiting"
    v1.call("POST", f"/v1/jobs/{ident}/cancel", want=200)
    v1.call("POST", "/v1/jobs", {"lab": "c", "name": "n", "image": stack.image, "files": [{"name": "Makefile"}]}, want=201)


def test_what_a_schema_cannot_say(v1, stack):
    def pointers(**more):
        return [e["pointer"] for e in v1.call("POST", "/v1/jobs", {**good(stack), **more}, want=422).json["errors"]]
    assert pointers(lab="nolab") == ["/lab"]
    assert pointers(image="nosuch:1") == ["/image"]
    assert pointers(files=[{"name": "Makefile"}, {"name": "missing"}]) == ["/files/1/name"]
    assert pointers(files=[{"name": "other"}]) == ["/files"]
    assert pointers(files=[{"name": "Makefile"}, {"name": "other", "dest": "Makefile"}]) == ["/files/1/dest"]
    assert pointers(labels=["a", "a"]) == ["/labels/1"]
    assert pointers(callback={"url": "http://x/", "secret": "whsec_QUJD"}) == ["/callback/secret"]
    # several at once, all told
    assert sorted(pointers(lab=1, name=2, **{"class": 99})) == ["/class", "/lab", "/name"]


@pytest.mark.parametrize("text,code", [("", "invalid"), ("{", "bad-json"), ("[]", "invalid"), ("1", "invalid"), ("nul", "bad-json"),
                                       ('{"lab": 1, "lab": 2}', "bad-json"), ("{} x", "bad-json"), ('{"lab": "\\ud800"}', "bad-json"),
                                       ("\xff", "bad-json"), ("[" * 3000, "bad-json")])
def test_bodies_that_are_none(v1, text, code):
    a = v1.call("POST", "/v1/jobs", text.encode("latin-1"))
    assert a.code == code and a.status == (400 if code == "bad-json" else 422)


def test_pool_wishes(v1, stack):
    for body, pointer in (({}, "/machines"), ({"machines": -1}, "/machines"), ({"machines": 1.5}, "/machines"),
                          ({"machines": 1, "x": 1}, "/x"), ({"machines": 1, "cores": 0, "memory_mb": 5}, "/cores")):
        a = v1.call("PUT", f"/v1/pools/{stack.image}", body, want=422)
        assert a.json["errors"][0]["pointer"] == pointer


def test_every_path_needs_a_key(v1):
    """But those whose description says that it needs none."""
    nobody = api.V1(v1.port, None)
    for path, item in api.SPEC["paths"].items():
        for method, said in item.items():
            if method == "parameters":
                continue
            concrete = path.replace("{id}", "1").replace("{lab}", "c").replace("{file}", "f").replace("{vmm}", "v").replace("{image}", "i")
            a = nobody.raw(method.upper(), concrete)
            if said.get("security") == []:
                assert a.status in (200, 503), (method, path)
            else:
                assert a.status == 401 and a.code == "unauthorized", (method, path, a.status)
