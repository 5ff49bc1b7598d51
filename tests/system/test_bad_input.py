"""What no frontend should send: each gets an answer, none gets a job, and the service goes on."""

import json
import socket

import pytest

from harness.tango import Tango

pytestmark = pytest.mark.fast

LONG = "x" * 5000


@pytest.fixture(scope="module")
def stack(make_stack):
    s = make_stack(driver="null", max_body_bytes="1M")
    s.tango.open("lab")
    s.tango.upload("lab", "Makefile", "autograde:\n\t@true\n")
    return s


@pytest.fixture(autouse=True)
def goes_on(stack):
    yield
    assert stack.tango.up() and stack.api.running()


JOBS = {
    "no body": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"jobName": "\xff"}',
    "NUL": b'{"jobName": "a\\u0000b", "output_file": "o", "timeout": 1, "files": [], "image": "i"}',
    "a scalar": b"7",
    "an array": b"[]",
    "deep": b"[" * 100000,
    "twice": b"{}{}",
}
FIELDS = {
    "output with a slash": {"output_file": "a/b"},
    "output of two dots": {"output_file": ".."},
    "output with a dash first": {"output_file": "-rf"},
    "output with a newline": {"output_file": "a\nb"},
    "output too long": {"output_file": LONG},
    "no output": {"output_file": ""},
    "no name": {"jobName": ""},
    "name of a number": {"jobName": 7},
    "no image": {"image": ""},
    "unknown image": {"image": "nosuch"},
    "image with blanks": {"image": "a b"},
    "image of an option": {"image": "--privileged"},
    "image too long": {"image": LONG},
    "files null": {"files": None},
    "files a string": {"files": "Makefile"},
    "files of strings": {"files": ["Makefile"]},
    "no Makefile": {"files": []},
    "dest upwards": {"files": [{"localFile": "Makefile", "destFile": "Makefile"},
                               {"localFile": "Makefile", "destFile": "../../etc/passwd"}]},
    "dest absolute": {"files": [{"localFile": "Makefile", "destFile": "Makefile"},
                                {"localFile": "Makefile", "destFile": "/etc/passwd"}]},
    "local upwards": {"files": [{"localFile": "../x", "destFile": "Makefile"}]},
    "local not uploaded": {"files": [{"localFile": "nofile", "destFile": "Makefile"}]},
    "too many files": {"files": [{"localFile": "Makefile", "destFile": "Makefile"}] * 20000},
    "time-out of a string": {"timeout": "5"},
    "time-out too long": {"timeout": 1e9},
    "callback to a file": {"callback_url": "file:///etc/passwd"},
    "callback without a host": {"callback_url": "http://"},
    "callback with a newline": {"callback_url": "http://h/\r\nX: y"},
    "memory too much": {"limits": {"memory": 1e9}},
}


def no_job(stack, body):
    before = len(stack.tango.jobs(dead=False))
    status, headers, data = stack.tango.raw("POST", "/addJob/test/lab/", body)
    if status == 200:
        value = json.loads(data)
        assert value["statusId"] == -1, value
        assert value["statusMsg"], value
        assert "jobId" not in value
    else:
        assert status in (400, 413), (status, data)
    assert len(stack.tango.jobs(dead=False)) == before


@pytest.mark.parametrize("body", JOBS.values(), ids=JOBS)
def test_bad_body(stack, body):
    no_job(stack, body)


@pytest.mark.parametrize("change", FIELDS.values(), ids=FIELDS)
def test_bad_field(stack, change):
    no_job(stack, json.dumps({**stack.tango.body("out"), **change}).encode())


PATHS = [
    ("GET", "/open/test/..%2f..%2fescape/"), ("GET", "/open/test/%00/"), ("GET", "/open/test/-x/"),
    ("GET", "/open/test/%2e%2e/"), ("GET", f"/open/test/{LONG}/"), ("GET", "/open/test/a%0ab/"),
    ("GET", "/open/test/%ff/"), ("GET", "/open/test//"), ("GET", "/open//lab/"),
    ("GET", "/poll/test/lab/..%2FMakefile/"), ("GET", "/poll/test/lab/%2e%2e%2fMakefile/"),
    ("GET", "/poll/test/lab/..%252FMakefile/"), ("GET", "/getPartialOutput/test/99999999999999999999999/"),
    ("GET", "/getPartialOutput/test/-1/"), ("GET", "/jobs/test/99999999999999999999/"),
    ("POST", "/prealloc/test/null/99999999999999/"), ("POST", "/prealloc/test/--x/1/"),
    ("GET", "/" + "a/" * 3000), ("BREW", "/"), ("PUT", "/open/test/lab/"), ("GET", "/store/" + "0" * 64),
    ("PUT", "/store/" + "0" * 64),
]


@pytest.mark.parametrize("method,path", PATHS, ids=[f"{m} {p[:40]}" for m, p in PATHS])
def test_bad_path(stack, method, path):
    status, _, data = stack.tango.raw(method, path, b"{}" if method in ("POST", "PUT") else None)
    assert b"autograde:" not in data and b"root:" not in data
    if status == 200:
        assert json.loads(data)["statusId"] == -1 or "/jobs/" in path, data
    else:
        assert status in (400, 401, 403, 404, 405, 411, 413, 414, 500, 501), status
        assert status != 500 or "/jobs/" in path


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "-x", "a\tb", "x" * 300, ""])
def test_invariant_9_bad_file_name(stack, name):
    status, _, data = stack.tango.raw("POST", "/upload/test/lab/", b"x", {"Filename": name})
    assert status in (400, 500) or json.loads(data)["statusId"] == -1, data
    assert list(stack.tango.open("lab")["files"]) == ["Makefile"]


def test_name_in_utf_8_is_kept(stack):
    stack.tango.open("utf8")
    status, _, data = stack.tango.raw("POST", "/upload/test/utf8/", b"x",
                                      {"Filename": "caf\u00e9".encode().decode("latin-1")})
    assert status == 200 and json.loads(data)["statusId"] == 0
    assert list(stack.tango.open("utf8")["files"]) == ["caf\u00e9"]


@pytest.mark.parametrize("key", ["", "Test", "test%00", "testx", "tes", "%74est%20", LONG])
def test_no_other_key(stack, key):
    status, _, data = stack.tango.raw("GET", f"/info/{key}/")
    assert status in (400, 404, 414) or json.loads(data)["statusMsg"] == "Key not recognized"


def test_too_large_a_body(stack):
    """The answer may be cut off by the server, who does not read what it will not take."""
    try:
        status, _, data = stack.tango.raw("POST", "/upload/test/lab/", b"x" * (2 << 20), {"Filename": "big"})
        assert status in (400, 413) or json.loads(data)["statusId"] == -1
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert list(stack.tango.open("lab")["files"]) == ["Makefile"]


@pytest.mark.parametrize("text", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n" + b"A" * 100000,
    b"POST /upload/test/lab/ HTTP/1.1\r\nHost: x\r\nFilename: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /upload/test/lab/ HTTP/1.1\r\nHost: x\r\nFilename: cut\r\nContent-Length: 10\r\n\r\nabc",
    b"POST /upload/test/lab/ HTTP/1.1\r\nHost: x\r\nFilename: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
], ids=["empty", "half", "version", "TLS", "long header", "negative", "cut off", "bad chunk"])
def test_not_http(stack, text):
    with socket.create_connection(("127.0.0.1", stack.ports[0]), timeout=5) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        try:
            while s.recv(65536):
                pass
        except ConnectionError:
            pass
    assert list(stack.tango.open("lab")["files"]) == ["Makefile"]


def test_invariant_9_tenants_do_not_see_each_other(make_stack):
    stack = make_stack(driver="null", keys="one:k1,two:k2,two:k2new")
    one, two, new = (Tango(stack.ports[0], key, stack.image) for key in ("k1", "k2", "k2new"))
    ident, lab, output = two.submit("autograde:\n\t@true\n")
    two.wait_dead(ident)
    assert new.poll(lab, output) == two.poll(lab, output) is not None
    assert one.poll(lab, output) is None
    assert one.job(ident) is None and new.job(ident)
    assert one.open(lab)["statusMsg"] == "Created directory"
    assert stack.tango.json("GET", "/info/test/")["statusMsg"] == "Key not recognized"
    for p in stack.processes:
        assert "k2new" not in p.text() and "/k1/" not in p.text()
