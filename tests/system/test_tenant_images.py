"""Whose an image is: names of tenants beside names that all share; and what becomes of jobs that wait for an image when its name
gets another content. On each driver that takes images in."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading

import pytest

from harness import image, v1 as api
from harness.process import wait_for
from harness.tango import Tango

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
SAY = "autograde:\n\t@cat /which\n"
KEYS = "cs/write:cskey, cs_2/write:otherkey, main/admin:root, cs/read:looker"


@pytest.fixture(scope="module")
def archives(work_dir):
    """archives("a"): what `docker save` writes of the grading image with that word in its file /which."""
    base = image.tarball()
    layer = hashlib.sha256(base.read_bytes()).hexdigest()

    def make(word):
        path = work_dir / f"{word}.tar"
        if path.exists():
            return path.read_bytes()
        extra = io.BytesIO()
        with tarfile.open(fileobj=extra, mode="w") as t:
            info = tarfile.TarInfo("which")
            info.size = len(word) + 1
            t.addfile(info, io.BytesIO(f"{word}\n".encode()))
        extra = extra.getvalue()
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}", f"sha256:{hashlib.sha256(extra).hexdigest()}"]},
        }).encode()
        name = hashlib.sha256(config).hexdigest() + ".json"
        manifest = json.dumps([{"Config": name, "RepoTags": ["sent:1"], "Layers": ["base.tar", "extra.tar"]}]).encode()
        with tarfile.open(path, "w") as t:
            t.add(base, "base.tar")
            for member, data in (("extra.tar", extra), (name, config), ("manifest.json", manifest)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
        return path.read_bytes()
    return make


@pytest.fixture(scope="module", params=["oci", "docker", "podman"])
def stack(request):
    make_stack = request.getfixturevalue("make_stack")
    settings = {"keys": KEYS, "job_memory_mb": "128"}
    if request.param == "oci":
        s = make_stack(start=False, **{**settings, "driver": "oci"})
    else:
        engine = request.getfixturevalue(request.param)
        s = make_stack(start=False, docker_url=engine.url, **{**settings, "driver": "docker"})
        s.engine = engine
        sweep(engine)
    s.start()
    yield s
    s.wait_clean()


def sweep(engine):
    """The engine's store outlives the test run: what one that failed has left there."""
    for name in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if "milonga.invalid" in name or "sent" in name:
            engine.docker("rmi", "-f", name)


class Keys:
    def __init__(self, stack):
        self.stack = stack
        self.cs, self.other, self.root, self.looker = (
            api.V1(stack.ports[0], k) for k in ("cskey", "otherkey", "root", "looker"))


@pytest.fixture
def keys(stack):
    k = Keys(stack)
    yield k
    for who in (k.cs, k.other, k.root):  # the next test begins without
        for i in who.get("/v1/images").json["images"]:
            if i["build"] and not (i["shared"] and who is not k.root):
                who.raw("DELETE", f"/v1/images/{i['name']}?shared={str(i['shared']).lower()}")
    wait_for("images to be gone", lambda: not [n for n in known(stack) if "sent" in n or "invalid" in n], 60)
    wait_for("removals to be over", lambda: left(stack) == [], 60)


def known(stack):
    return [n.decode() for n in stack.redis.client.hkeys("{milonga}:img")]


def left(stack):
    """Names below milonga.invalid that the backend itself has."""
    if stack.driver == "oci":
        records = (stack.data / "images/names").iterdir()
        names = [json.loads(r.read_text())["name"] for r in records]
    else:
        names = stack.engine.docker("images", "--format", "{{.Repository}}").split()
    return [n for n in names if "milonga.invalid" in n]


def send(who, name, data, want_shared, query=""):
    done = who.call("PUT", f"/v1/images/{name}?wait_s=25{query}", data, want=(200, 202), timeout=90)
    assert done.json["shared"] is want_shared, done.json
    sha = done.json["sha256"]

    def there():
        i = who.raw("GET", f"/v1/images/{name}")
        return i.status == 200 and i.json["vmms"] and i.json["build"] and i.json["build"]["state"] == "done" and i.json["build"]["sha256"] == sha
    if want_shared or not query:
        wait_for(f"image {name}", there, 90)
    return done.json


def names(who):
    return {i["name"]: i["shared"] for i in who.get("/v1/images").json["images"]}


def which(who, name, **more):
    ident = who.submit(SAY, "lab", name, **more)
    job = who.wait_finished(ident, 60)
    assert job["verdict"] == "success" and job["image"] == name, job
    return who.get(f"/v1/jobs/{ident}/output").body.decode().strip()


def test_invariant_9_an_image_of_a_tenant_is_no_other_s(stack, keys, archives):
    cs, other, name = keys.cs, keys.other, "course/sent:1"
    said = []
    events = other.stream("/v1/events", timeout=60)

    def listen():
        with contextlib.suppress(AttributeError):  # closed meanwhile: http.client stumbles
            for kind, data in events:
                if kind == "image":
                    said.append(json.loads(data)["name"])
    threading.Thread(target=listen, daemon=True).start()
    assert keys.looker.call("PUT", f"/v1/images/{name}", b"x", want=403)
    send(cs, name, archives("cs"), False)
    assert names(cs)[name] is False and which(cs, name) == "cs"
    for who in (other, keys.root):  # neither another tenant nor an operator has it
        assert name not in names(who)
        assert who.get(f"/v1/images/{name}", want=404)
        assert who.call("DELETE", f"/v1/images/{name}", want=404)
        assert who.call("PUT", f"/v1/pools/{name}", {"machines": 1}, want=404)
    other.call("PUT", "/v1/labs/lab", want=(200, 201))
    other.put_file("lab", "Makefile", SAY)
    for guess in (name, f"cs.tenant.milonga.invalid/{name}", "kept.milonga.invalid/sha256-0"):
        refused = other.call("POST", "/v1/jobs", other.submission("lab", guess), want=422)
        assert [e["pointer"] for e in refused.json["errors"]] == ["/image"]
    assert other.call("PUT", "/v1/images/cs.tenant.milonga.invalid/x", b"x", want=422)
    # what is to be seen of it when it has warm machines and runs
    cs.call("PUT", f"/v1/pools/{name}?wait_s=25", {"machines": 1}, want=(200, 202))
    wait_for("a warm machine", lambda: [p for p in cs.get("/v1/pools").json["pools"] if p["image"] == name and p["idle"] == 1], 60)
    runs = cs.submit("autograde:\n\t@sleep 60\n", "lab", name, limits={"timeout_s": 60})
    cs.wait_state(runs, "running")
    assert name in cs.get("/v1/vmms").body.decode() and name in cs.get("/v1/machines").body.decode()
    for path in ("/v1/images", "/v1/pools", "/v1/vmms", "/v1/machines", "/v1/jobs", f"/v1/vmms/{stack.name}v0"):
        for who in (other, keys.root):
            assert "sent" not in who.get(path).body.decode(), path
    tango = Tango(stack.ports[0])
    assert "sent" not in json.dumps(tango.ok("GET", "/pool/otherkey/")) and name in tango.ok("GET", "/pool/cskey/")["pools"]
    assert cs.get(f"/v1/jobs/{runs}/why").json["needs"]["image"] == name
    assert [j["id"] for j in cs.get(f"/v1/jobs?state=live&image={name}").json["jobs"]] == [runs]
    cs.call("POST", f"/v1/jobs/{runs}/cancel", want=(200, 202))
    cs.wait_finished(runs)
    cs.call("DELETE", f"/v1/pools/{name}", want=204)
    # the same name is another image of the other
    send(other, name, archives("cs2"), False)
    assert which(other, name) == "cs2" and which(cs, name) == "cs"
    again = cs.call("POST", f"/v1/jobs/{runs}/requeue", want=201).json["id"]
    assert cs.wait_state(again, "running")["image"] == name
    cs.call("POST", f"/v1/jobs/{again}/cancel", want=(200, 202))
    cs.wait_finished(again)
    cs.call("DELETE", f"/v1/images/{name}", want=202)
    wait_for("its end", lambda: name not in names(cs), 60)
    assert which(other, name) == "cs2"
    events.close()
    assert set(said) == {name}, "its own, told by its own name"


def test_own_images_go_before_shared_ones(stack, keys, archives):
    cs, other, root, name = keys.cs, keys.other, keys.root, "sent"
    assert cs.call("PUT", f"/v1/images/{name}?shared=true", b"x", want=403)
    assert cs.call("PUT", f"/v1/images/{name}?shared=maybe", b"x", want=400)
    send(root, name, archives("all"), True)
    assert names(cs)[name] is True and which(cs, name) == "all" == which(other, name)
    assert cs.call("DELETE", f"/v1/images/{name}", want=403)
    # by Tango's way, with a key that is no operator's
    sent = Tango(stack.ports[0]).json("POST", "/build/cskey/", headers={"imageName": name}, data=archives("own"))
    assert sent["statusId"] == 0 or "not built yet" in sent["reason"], sent
    wait_for("it", lambda: names(cs)[name] is False and cs.get(f"/v1/images/{name}").json["vmms"], 60)
    assert which(cs, name) == "own" and which(other, name) == "all" == which(root, name)
    assert [i["name"] for i in cs.get("/v1/images").json["images"]].count(name) == 1
    send(root, name, archives("its"), False, "&shared=false")
    wait_for("it", lambda: names(root)[name] is False, 60)
    wait_for("it", lambda: which(root, name) == "its", 60)
    root.call("DELETE", f"/v1/images/{name}", want=202)  # what it means to its tenant: its own
    wait_for("its end", lambda: names(root)[name] is True, 60)
    assert which(root, name) == "all"
    cs.call("DELETE", f"/v1/images/{name}", want=202)
    wait_for("its end", lambda: names(cs)[name] is True, 60)
    assert which(cs, name) == "all"


def test_a_waiting_job_runs_with_the_image_that_it_was_accepted_with(stack, keys, archives):
    cs, name, vmm = keys.cs, "sent:2", f"/v1/vmms/{stack.name}v0"
    send(cs, name, archives("old"), False)
    old = cs.get(f"/v1/images/{name}").json["digests"]
    keys.root.call("POST", f"{vmm}/drain", {"reason": "test"}, want=200)
    waits = cs.submit(SAY, "lab", name)
    send(cs, name, archives("new"), False)
    assert cs.get(f"/v1/images/{name}").json["digests"] != old, "by the time that the upload was said to be done"
    later = cs.submit(SAY, "lab", name)
    # an upload of the same while the first is kept; and what nobody waits for goes at once
    send(cs, name, archives("newest"), False)
    newest = cs.submit(SAY, "lab", name)
    keys.root.call("POST", f"{vmm}/resume", want=200)
    for ident, word in ((waits, "old"), (later, "new"), (newest, "newest")):
        assert cs.wait_finished(ident, 60)["verdict"] == "success"
        assert cs.get(f"/v1/jobs/{ident}/output").body.decode().strip() == word
    wait_for("what is not needed to be gone", lambda: [n for n in left(stack) if n.startswith("kept")] == [], 60)
    assert not [n for n in known(stack) if n.startswith("kept")]
    assert which(cs, name) == "newest"


def test_a_tenant_has_so_many_images(make_stack):
    s = make_stack(driver="null", keys=KEYS, tenant_images_max="2")
    cs, other = api.V1(s.ports[0], "cskey"), api.V1(s.ports[0], "otherkey")
    for n in ("a", "b"):
        cs.call("PUT", f"/v1/images/{n}", b"x", want=202)
    full = cs.call("PUT", "/v1/images/c", b"x", want=409)
    assert full.code == "images-full" and "tenant_images_max" in full.json["detail"]
    cs.call("PUT", "/v1/images/b", b"y", want=202)
    other.call("PUT", "/v1/images/c", b"x", want=202)
    cs.call("DELETE", "/v1/images/b", want=202)
    cs.call("PUT", "/v1/images/c", b"x", want=202)
