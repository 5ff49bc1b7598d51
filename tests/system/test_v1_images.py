"""An image from its upload to its removal, through the native API and real machines."""

import contextlib
import json
import os
import threading

import pytest

from harness import image, v1 as api
from harness.process import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
NAME = "course/grader:1"
MAKEFILE = "autograde:\n\t@echo made in the upload; test -f /etc/debian_version && echo Debian\n"


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="oci", keys="test, main/admin:root, main/read:looker, main/write:writer")


@pytest.fixture(scope="module")
def v1(stack):
    return api.V1(stack.ports[0])


@pytest.fixture(scope="module")
def root(stack):
    return api.V1(stack.ports[0], "root")


def names(v1):
    return [i["name"] for i in v1.get("/v1/images").json["images"]]


def test_an_image_is_uploaded_used_and_removed(v1, root, stack):
    events = v1.stream("/v1/events", timeout=60)
    said = []

    def listen():
        with contextlib.suppress(AttributeError):  # closed meanwhile: http.client stumbles
            for name, data in events:
                if name == "image":
                    said.append(json.loads(data))
    threading.Thread(target=listen, daemon=True).start()
    tar = image.tarball().read_bytes()
    assert v1.get(f"/v1/images/{NAME}", want=404)
    looker = api.V1(v1.port, "looker")
    assert looker.call("PUT", f"/v1/images/{NAME}", b"x", want=403)
    done = v1.call("PUT", f"/v1/images/{NAME}?wait_s=25", tar, want=(200, 202), timeout=90).json
    assert done["size"] == len(tar)
    wait_for("the image", lambda: v1.raw("GET", f"/v1/images/{NAME}").status == 200 and v1.get(f"/v1/images/{NAME}").json["vmms"], 60)
    assert NAME in names(v1) and v1.get(f"/v1/images/{NAME}").json["vmms"] == [f"{stack.name}v0"]
    # the same upload again is the same image
    assert v1.call("PUT", f"/v1/images/{NAME}?wait_s=25", tar, want=200, timeout=90).json["sha256"] == done["sha256"]
    ident = v1.submit(MAKEFILE, "uploaded", NAME)
    assert v1.wait_finished(ident)["verdict"] == "success"
    assert v1.get(f"/v1/jobs/{ident}/output").body == b"made in the upload\nDebian\n"

    # in use: by a job that waits, by a pool that is wished
    waits = v1.submit(MAKEFILE, "uploaded", NAME, labels=["nosuch"])
    conflict = root.call("DELETE", f"/v1/images/{NAME}", want=409)
    assert conflict.code == "in-use" and str(waits) in conflict.json["detail"]
    v1.call("POST", f"/v1/jobs/{waits}/cancel", want=200)
    v1.call("PUT", f"/v1/pools/{NAME}", {"machines": 0}, want=(200, 202))
    assert root.call("DELETE", f"/v1/images/{NAME}", want=409).code == "in-use"
    v1.call("DELETE", f"/v1/pools/{NAME}", want=204)

    assert api.V1(v1.port, "writer").call("DELETE", f"/v1/images/{NAME}", want=403), "of all tenants: who may only write does not remove it"
    assert NAME in names(v1)
    root.call("DELETE", f"/v1/images/{NAME}", want=202)
    wait_for("its end", lambda: NAME not in names(v1), 60)
    assert root.call("DELETE", f"/v1/images/{NAME}", want=404)
    refused = v1.call("POST", "/v1/jobs", v1.submission("uploaded", NAME), want=422)
    assert "image" in json.dumps(refused.json["errors"])
    assert stack.image in names(v1), "another is as it was"
    wait_for("its events", lambda: {"wanted", "removed"} <= {e["what"] for e in said if e["name"] == NAME})
    events.close()


def test_what_is_no_image_is_refused_by_name(v1):
    refused = v1.call("PUT", "/v1/images/broken?wait_s=25", b"this is no archive" * 100, want=422)
    assert refused.code == "image-refused" and refused.json["detail"]
    assert v1.call("PUT", "/v1/images/-x", b"x", want=422)
    wait_for("its end", lambda: "broken" not in names(v1) or not v1.get("/v1/images/broken").json["vmms"])
