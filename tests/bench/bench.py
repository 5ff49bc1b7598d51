"""How fast Milonga is beside what it is built on: ratios within one run, so that another machine or a busy one says the same.

    make bench                       all that this machine can do
    make bench BENCH_ARGS="oci add"  some of: oci, docker, ssh, add, live, watchers, cancel

A figure is a median. A line ends in "ok" or "MISSED" by the goal that it names; the exit status counts the missed ones.
"""

import base64
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "system"))

MAKEFILE = "all:\n\t@echo hello\n"
missed = 0


def report(what, value, unit, goal=None, most=True):
    global missed
    ok = goal is None or (value <= goal if most else value >= goal)
    missed += not ok
    sign = "<=" if most else ">="
    print(f"{what:52} {value:9.2f} {unit:6}" + (f" goal {sign} {goal:g}  {'ok' if ok else 'MISSED'}" if goal else ""), flush=True)


def median_ms(times, *runs):
    """One median each: taken in turn, so that what else the machine does meets all alike."""
    took = [[] for _ in runs]
    for run in runs:
        run()  # caches, pages
    for _ in range(times):
        for run, list_ in zip(runs, took):
            begun = time.perf_counter()
            run()
            list_.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(t) for t in took]


# ---- jobs through the whole system


class Client:
    """One kept-alive connection, so that what is measured is the server."""

    def __init__(self, stack):
        self.stack = stack
        self.conn = http.client.HTTPConnection("127.0.0.1", stack.ports[0], timeout=60)
        self.conn.connect()
        self.conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.tango.open("bench")
        stack.tango.upload("bench", "Makefile", MAKEFILE)
        self.count = 0
        self.used = set()  # warm machines that were there for an earlier job

    def ask(self, method, path, body=None):
        self.conn.request(method, path, body)
        answer = self.conn.getresponse()
        return answer.getheader("Content-Type"), answer.read()

    def add(self, **more):
        self.count += 1
        output = f"out{id(self)}.{self.count}"
        _, answer = self.ask("POST", "/addJob/test/bench/", json.dumps(self.stack.tango.body(output, disable_network=False, **more)))
        assert b"Job added" in answer, answer
        return output

    def feedback(self, output):
        kind, text = self.ask("GET", f"/poll/test/bench/{output}/")
        if kind != "application/octet-stream":
            return False
        assert b"\nhello\n" in text, text
        return True

    def wait(self, output, pause=0.001):
        until = time.monotonic() + 120
        while not self.feedback(output):
            assert time.monotonic() < until, self.stack.report()
            time.sleep(pause)

    def job(self):
        self.wait(self.add())

    def warm(self):
        """Until a new warm machine waits: what /pool tells may be 100 ms old, from before the last job took its own."""
        until = time.monotonic() + 60
        while True:
            free = {m for p in self.stack.tango.ok("GET", "/pool/test/")["pools"].values() for m in p["free"]}
            if free - self.used:
                self.used |= free
                return
            assert time.monotonic() < until, self.stack.report()
            time.sleep(0.02)

    def warm_job_ms(self, times):
        took = []
        self.job()
        for _ in range(times):
            self.warm()
            begun = time.perf_counter()
            self.job()
            took.append((time.perf_counter() - begun) * 1000)
        return statistics.median(took)


class Installation:
    def __init__(self, **settings):
        from harness.stack import Stack
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="mb", dir="/tmp"))
        self.stack = Stack(self.dir, log_level="warn", **settings)

    def __enter__(self):
        self.stack.start()
        self.stack.redis.client.config_set("appendfsync", "everysec")  # as an operator has it
        return self.stack

    def __exit__(self, *_):
        self.stack.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


# ---- oci: beside a bare `crun run` of the same bundle


def take_bundle(stack, to):
    """A copy of a warm machine's bundle, whose program is the job itself."""
    pid = str(stack.vmm.pid)
    own = next(stack.data.glob("oci/*/*/*/config.json"), None)
    find = ["nsenter", "-t", pid, "-m", "find", str(stack.data / "oci"), "-name", "config.json"]
    path = pathlib.Path(own or subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()[0])
    subprocess.run(["nsenter", "-t", pid, "-m", "cp", "-a", str(path.parent), str(to)], check=False, stderr=subprocess.DEVNULL)
    config = json.loads((to / "config.json").read_text().replace(str(path.parent), str(to)))
    config["process"]["args"] = ["/usr/bin/make"]
    config["process"]["cwd"] = "/tmp"
    (to / "config.json").write_text(json.dumps(config))
    (to / "rw" / "tmp" / "Makefile").write_text(MAKEFILE)


def bare_crun(bundle, times):
    """In a mount namespace of its own: crun 1.8 refuses a hybrid tree, so its v2 part is hidden as the driver does."""
    if "/sys/fs/cgroup/unified" in pathlib.Path("/proc/mounts").read_text():
        subprocess.run(["umount", "-l", "/sys/fs/cgroup/unified"], check=True)
    count = iter(range(times + 1))

    def run():
        done = subprocess.run(["crun", "--root", f"{bundle}.state", "--cgroup-manager=disabled", "run", "-b", bundle,
                               f"bench{next(count)}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.stdout == "hello\n", done
    print(*median_ms(times, run))


def bench_oci(times=15):
    if not shutil.which("crun"):
        print("oci: no crun here, left out")
        return
    with Installation(driver="oci", pool_size=1) as stack:
        client = Client(stack)
        client.job()
        client.warm()
        bundle = stack.data.parent / "bundle"
        take_bundle(stack, bundle)
        bare = float(subprocess.run(["unshare", "-m", sys.executable, str(HERE), "--bare-crun", str(bundle), str(times)],
                                    check=True, capture_output=True, text=True).stdout)
        warm = client.warm_job_ms(times)
    with Installation(driver="oci", pool_size=0) as stack:
        [cold] = median_ms(times, Client(stack).job)
    report("oci: bare crun run", bare, "ms")
    report("oci: cold job, addJob to feedback", cold, "ms")
    report("oci: cold job / bare crun run", cold / bare, "x", 2)
    report("oci: warm job, addJob to feedback", warm, "ms", 30)


# ---- docker: beside the same container by bare calls of the Engine API


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("engine", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def bare_container(path, image):
    conn = UnixConnection(path)

    def ask(method, url, body=None):
        conn.request(method, url, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = conn.getresponse()
        data = answer.read()
        assert answer.status < 300, (url, data)
        return json.loads(data) if data else None

    spec = {"Image": image, "Cmd": ["sh", "-c", "cat >/dev/null; echo hello"], "OpenStdin": True, "StdinOnce": True, "AttachStdin": True,
            "AttachStdout": True, "NetworkDisabled": True, "HostConfig": {"NetworkMode": "none", "Memory": 1 << 30, "PidsLimit": 100}}
    ident = ask("POST", "/containers/create", spec)["Id"]
    pipe = socket.socket(socket.AF_UNIX)
    pipe.connect(path)
    pipe.sendall(f"POST /containers/{ident}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: e\r\n"
                 "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
    pipe.recv(4096)
    ask("POST", f"/containers/{ident}/start")
    pipe.shutdown(socket.SHUT_WR)
    while pipe.recv(4096):
        pass
    ask("POST", f"/containers/{ident}/wait")
    ask("DELETE", f"/containers/{ident}?force=1")
    pipe.close()


def rate(run, count, parallel):
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda _: run(), range(count)))
        return count / (time.perf_counter() - begun)


def bench_docker(times=7, batch=24):
    from harness import image
    from harness.engine import Dockerd
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mbe", dir="/tmp"))
    try:
        engine = Dockerd(directory).start()
    except BaseException as e:  # pytest's skip is not an Exception
        if type(e).__name__ != "Skipped":
            raise
        print(f"docker: {e}, left out")
        return
    try:
        engine.load(image.tarball())
        path = engine.url.removeprefix("unix://")
        best = max(rate(lambda: bare_container(path, image.NAME), batch, n) for n in (2, 4))
        with Installation(driver="docker", pool_size=0, docker_url=engine.url) as stack:
            client = Client(stack)
            bare, cold = median_ms(times, lambda: bare_container(path, image.NAME), client.job)
            begun = time.perf_counter()
            for output in [client.add() for _ in range(batch)]:
                client.wait(output, 0.02)
            jobs = batch / (time.perf_counter() - begun)
        with Installation(driver="docker", pool_size=1, docker_url=engine.url) as stack:
            warm = Client(stack).warm_job_ms(times)
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)
    report("docker: bare create+attach+start+wait+delete", bare, "ms")
    report("docker: cold job, addJob to feedback", cold, "ms")
    report("docker: cold job / bare calls", cold / bare, "x", 1.15)
    report("docker: warm job, addJob to feedback", warm, "ms", 80)
    report("docker: best rate of bare calls", best, "1/s")
    report("docker: rate of a batch", jobs, "1/s")
    report("docker: rate of a batch / bare calls", jobs / best, "x", 0.85, most=False)


# ---- ssh: beside `ssh host true` over a master of the same host


def bench_ssh(times=15):
    from harness import hosts, image
    if not hosts.usable():
        print("ssh: needs root, unshare, ip, ssh and sshd, left out")
        return
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mbs", dir="/tmp"))
    directory.chmod(0o755)
    farm = hosts.Farm(directory / "farm", 1)
    try:
        host = farm.hosts[0]
        ssh = ["ssh", "-F", "none", "-i", farm.key, "-o", f"UserKnownHostsFile={farm.known_hosts}", "-o", "BatchMode=yes",
               "-o", f"ControlPath={directory}/c", f"root@{host.address}"]
        master = subprocess.Popen([*ssh[:-1], "-o", "ControlMaster=yes", ssh[-1], "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        master.stdin.write(b"up\n")
        master.stdin.flush()
        master.stdout.readline()

        def true():
            subprocess.run([*ssh, "true"], check=True, stdin=subprocess.DEVNULL)
        settings = {"driver": "ssh", "slots": "2", **farm.settings(f"slots=4 images={image.NAME}")}
        with Installation(pool_size=1, **settings) as stack:
            client = Client(stack)
            warm = client.warm_job_ms(times)
            [bare] = median_ms(times, true)
        with Installation(pool_size=0, **settings) as stack:
            [cold] = median_ms(times, Client(stack).job)
        master.stdin.close()
        master.wait(10)
    finally:
        farm.down()
        shutil.rmtree(directory, ignore_errors=True)
    report("ssh: bare ssh host true, over a master", bare, "ms")
    report("ssh: cold job, addJob to feedback", cold, "ms")
    report("ssh: warm job, addJob to feedback", warm, "ms")
    report("ssh: warm job / bare ssh host true", warm / bare, "x", 1.3)


# ---- addJob


def bench_add(seconds=5, connections=64):
    if not shutil.which("wrk"):
        print("add: no wrk here, left out")
        return
    with Installation(driver="null", max_live_jobs=1000000) as stack:
        client = Client(stack)
        for v in stack.vmms:
            v.stop()  # accepted jobs wait; the image stays known
        body = json.dumps(stack.tango.body("out"))
        script = stack.data.parent / "add.lua"
        script.write_text(f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n")
        before = int(stack.redis.client.zcard("{milonga}:alive"))
        begun = time.perf_counter()
        out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script,
                              f"{stack.tango.base}/addJob/test/bench/"], capture_output=True, text=True, check=True).stdout
        took = time.perf_counter() - begun
        accepted = int(stack.redis.client.zcard("{milonga}:alive")) - before
        answered = int(re.search(r"(\d+) requests in", out)[1])
        assert "Non-2xx" not in out and accepted >= answered, (out, accepted)
        del client
    report(f"addJob, {connections} connections, everysec", accepted / took, "1/s", 4000, most=False)


# ---- live output


def bench_live(lines=60):
    """A job says when it wrote a line; a watcher of the stream says when it had it. One clock."""
    from harness import v1 as api
    makefile = f"autograde:\n\t@i=0; while [ $$i -lt {lines} ]; do date +%s%N; i=$$((i+1)); sleep 0.1; done\n"
    with Installation(driver="oci", pool_size=0) as stack:
        v1 = api.V1(stack.ports[0])
        stream = v1.stream(f"/v1/jobs/{v1.submit(makefile, 'live', stack.image)}/output/stream", timeout=60)
        took, rest = [], b""
        for name, data in stream:
            now = time.time_ns()
            if name != "output":
                break
            *whole, rest = (rest + base64.b64decode(data)).split(b"\n")
            took += [(now - int(line)) / 1e6 for line in whole]
    took.sort()
    report("live: write in the job to byte at a watcher, p50", took[len(took) // 2], "ms")
    report("live: write in the job to byte at a watcher, p99", took[len(took) * 99 // 100], "ms")


def bench_watchers(count=1000, lines=100):
    """The same job watched by one and by many. All of them are one process here, whose own turn through them is in the latency."""
    from harness import v1 as api
    makefile = f"autograde:\n\t@i=0; while [ $$i -lt {lines} ]; do date +%s%N; i=$$((i+1)); sleep 0.05; done\n"

    def watch(stack, v1, number):
        before = rss_kb(stack.api.pid)
        ident = v1.submit(makefile, "watchers", stack.image)
        v1.wait_state(ident, "preparing", "running")
        ask = f"GET /v1/jobs/{ident}/output/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test\r\n\r\n".encode()
        poll, socks, took, ended, most = select.epoll(), {}, [], 0, before
        for _ in range(number):
            s = socket.create_connection(("127.0.0.1", v1.port), timeout=30)
            s.sendall(ask)
            socks[s.fileno()] = [s, b""]
            poll.register(s, select.EPOLLIN)
        connected = time.time_ns()  # what was written before comes late to some
        until = time.monotonic() + 120
        while ended < number:
            assert time.monotonic() < until, f"{ended} of {number} streams ended"
            for fd, _ in poll.poll(1):
                s, data = socks[fd]
                piece = s.recv(1 << 16)
                now = time.time_ns()
                data += piece
                *events, socks[fd][1] = data.split(b"\n\n")
                for event in events:
                    found = re.search(rb"event: (\w+)\n.*data: (\S+)", event, re.S)
                    if found and found[1] == b"output":
                        text = base64.b64decode(found[2]).split()
                        took += [(now - int(line)) / 1e6 for line in text if len(line) == 19 and int(line) > connected]
                if b"event: end" in data or not piece:
                    assert piece, "a stream that was cut"
                    poll.unregister(fd)
                    ended += 1
            most = max(most, rss_kb(stack.api.pid))
        for s, _ in socks.values():
            s.close()
        usage = v1.wait_finished(ident)["usage"]
        took.sort()
        assert len(took) > number * lines // 4, "most lines came while all watched"
        return took, usage["wall_ms"], (most - before) / number
    with Installation(driver="oci", pool_size=0) as stack:
        v1 = api.V1(stack.ports[0])
        alone, alone_ms, _ = watch(stack, v1, 1)
        many, many_ms, each_kb = watch(stack, v1, count)
    report("watchers: write to byte, one watcher, p50", alone[len(alone) // 2], "ms")
    report(f"watchers: write to byte, {count} of one job, p50", many[len(many) // 2], "ms")
    report(f"watchers: write to byte, {count} of one job, p99", many[len(many) * 99 // 100], "ms")
    report("watchers: memory of the api for each", each_kb, "KB", 64)
    report(f"watchers: the job with {count} / with one", many_ms / alone_ms, "x", 1.1)


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


# ---- cancel


def wait_for_sleep(seconds):
    """A descriptor of the job's own process; it becomes readable when that is dead."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cmdline").read_bytes() == b"sleep\0%d\0" % seconds:
                    return os.pidfd_open(int(entry.name))
            except OSError:
                pass
        time.sleep(0.01)
    raise AssertionError("the job's process is not seen")


def cancel_ms(stack, times):
    from harness import v1 as api
    v1, dead, told = api.V1(stack.ports[0]), [], []
    for n in range(times):
        if stack.driver == "null":
            ident = v1.submit("# null: sleep_ms=600000", "cancel", stack.image)
            v1.wait_state(ident, "running", timeout=90)
            pid = None
        else:
            ident = v1.submit(f"autograde:\n\t@sleep {71000 + n}\n", "cancel", stack.image)
            pid = wait_for_sleep(71000 + n)
        stream = v1.stream(f"/v1/jobs/{ident}/output/stream", timeout=60)
        conn = http.client.HTTPConnection("127.0.0.1", v1.port, timeout=60)
        conn.connect()
        begun = time.perf_counter()
        conn.request("POST", f"/v1/jobs/{ident}/cancel", headers={"Authorization": "Bearer test"})
        if pid is not None:
            assert select.select([pid], [], [], 30)[0], "it lives on"
            dead.append((time.perf_counter() - begun) * 1000)
            os.close(pid)
        for name, _ in stream:
            if name == "end":
                told.append((time.perf_counter() - begun) * 1000)
        assert conn.getresponse().status in (200, 202)
        conn.close()
        v1.wait_finished(ident)
    return dead, told


def bench_cancel(times=20):
    from harness import image
    from harness.engine import Dockerd

    def say(driver, dead, told):
        if dead:
            report(f"cancel: {driver}, request to dead, p50", statistics.median(dead), "ms", 100)
            report(f"cancel: {driver}, request to dead, worst of {times}", max(dead), "ms")
        report(f"cancel: {driver}, request to the end at a watcher, p50", statistics.median(told), "ms")
    for driver in ("null", "oci"):
        with Installation(driver=driver, pool_size=0) as stack:
            say(driver, *cancel_ms(stack, times))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mbe", dir="/tmp"))
    try:
        engine = Dockerd(directory).start()
    except BaseException as e:  # pytest's skip is not an Exception
        if type(e).__name__ != "Skipped":
            raise
        print(f"cancel: docker: {e}, left out")
        return
    try:
        engine.load(image.tarball())
        with Installation(driver="docker", pool_size=0, docker_url=engine.url) as stack:
            say("docker", *cancel_ms(stack, times))
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    if sys.argv[1:2] == ["--bare-crun"]:
        bare_crun(sys.argv[2], int(sys.argv[3]))
        return 0
    parts = {"oci": bench_oci, "docker": bench_docker, "ssh": bench_ssh, "add": bench_add,
             "live": bench_live, "watchers": bench_watchers, "cancel": bench_cancel}
    for name in sys.argv[1:] or parts:
        parts[name]()
    return missed


if __name__ == "__main__":
    sys.exit(main())
