"""A real redis-server, the scripts of all services, real dispatchers, and an api and vmms of a few lines, for the tests of
the dispatcher. Everything lies in a private directory and ends with it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

import msgpack
import redis

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFIX = "{t}"
DIGEST = "sha256:" + "ab" * 32


def script_text(service, name):
    """As the Makefile puts it together: an optional shebang, the prelude, the script."""
    with open(f"{ROOT}/services/{service}/lua/{name}.lua", encoding="utf-8") as f:
        text = f.read()
    with open(f"{ROOT}/libshared/lua/prelude.lua", encoding="utf-8") as f:
        prelude = f.read()
    first, rest = "", text
    if text.startswith("#!lua"):
        first, rest = text.split("\n", 1)
        first += "\n"
    return first + prelude + rest


def wait_for(what, seconds=5.0, step=0.01):
    """What it returns, once that is true; fails after so long."""
    end = time.monotonic() + seconds
    while True:
        got = what()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not true within {seconds} s: {what}")
        time.sleep(step)


class Rig:
    def __init__(self, **config):
        self.dir = tempfile.mkdtemp(prefix="milonga-rig-")
        self.sock = self.dir + "/redis.sock"
        self.config = config
        self.redis = self.server = None
        self.dispatchers = []
        self.texts = {}
        self.start_redis()

    def start_redis(self, *options):
        self.server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.sock, "--dir", self.dir, "--save", "",
             "--appendonly", "yes", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.redis = redis.Redis(unix_socket_path=self.sock, decode_responses=False)

        def up():
            try:
                return self.redis.ping()
            except redis.exceptions.RedisError:
                return False
        wait_for(up)

    def stop_redis(self, sig=signal.SIGKILL):
        self.server.send_signal(sig)
        self.server.wait()

    def close(self):
        for p in self.dispatchers:
            if p.poll() is None:
                p.kill()
                p.wait()
        self.stop_redis()
        shutil.rmtree(self.dir, ignore_errors=True)

    def dispatcher(self, env_more=(), **config):
        env = dict(os.environ, MILONGA_REDIS_URL="unix://" + self.sock, MILONGA_REDIS_PREFIX=PREFIX,
                   MILONGA_DATA_DIR=self.dir + "/data", MILONGA_KEYS="main:secret",
                   MILONGA_LOG_LEVEL=os.environ.get("RIG_LOG", "info"))
        for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            env.pop(key, None)
        for key, value in {"beat_ms": 100, "lease_ms": 600, "leader_lease_ms": 500, **self.config,
                           **config}.items():
            env["MILONGA_" + key.upper()] = str(value)
        env.update(env_more)
        os.makedirs(self.dir + "/data", exist_ok=True)
        build = os.environ.get("BUILD", "build")
        binary = os.path.join(ROOT, build, "milonga-dispatcher")
        log = open(f"{self.dir}/dispatcher{len(self.dispatchers)}.log", "wb")
        p = subprocess.Popen([binary], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        p.log = log.name
        log.close()
        self.dispatchers.append(p)
        return p

    def log(self, p):
        with open(p.log, encoding="utf-8") as f:
            return f.read()

    # ---- Redis ----

    def eval(self, service, name, *argv):
        key = (service, name)
        if key not in self.texts:
            self.texts[key] = script_text(service, name)
        return self.redis.eval(self.texts[key], 1, PREFIX, *argv)

    def key(self, name):
        return f"{PREFIX}:{name}"

    def get(self, name, field):
        value = self.redis.hget(self.key(name), field)
        return None if value is None else value.decode()

    def run_id(self):
        return self.redis.info("server")["run_id"]

    def fence(self):
        return f"{self.get('lead', 'epoch')}@{self.get('lead', 'holder')}"

    def led(self):
        return self.get("lead", "holder") and self.get("meta", "run_id") == self.run_id()

    # ---- an api ----

    def body(self, name="job", image="img", digests=(DIGEST,), callback=None, accepted=None, files=()):
        body = {0: 1, 1: "main", 2: "lab", 3: name, 4: "out.txt", 5: image, 6: list(digests),
                7: [list(f) for f in files], 8: 60, 10: False, 12: [], 13: 4,
                14: accepted or int(time.time() * 1000)}
        if callback:
            body[9] = callback
        return msgpack.packb(body)

    def accept(self, name="job", image="img", digests=(DIGEST,), labels=(), callback=None, cls=4, age_ms=0,
               files=(), output="out.txt", lab="lab", most=1000000, most_bytes=10**9):
        now = int(time.time() * 1000) - age_ms
        place = f"{image}\n{','.join(digests)}\n{','.join(labels)}"
        reply = self.eval("api", "accept", self.run_id(), now, "main", lab, output, cls, place,
                          1 if callback else 0, "", 0, most,
                          self.body(name, image, digests, callback, now, files), most_bytes)
        if reply[0] == b"full":
            return reply
        assert reply[0] == b"ok", reply
        return int(reply[1])

    def reject(self, most=1000, age_ms=0):
        reply = self.eval("api", "reject", self.run_id(), int(time.time() * 1000) - age_ms, self.body(), "main", "lab",
                          most, "a line", "another")
        assert reply[0] == b"ok", reply
        return int(reply[1])

    def state(self, job):
        return self.get(f"j:{job}", "s")


class Vmm:
    """One without machines: it takes what is published to it and does as the test says."""

    def __init__(self, rig, name="v1", slots=2, images=None, labels=""):
        self.rig, self.name, self.slots, self.beat_ct = rig, name, slots, 0
        self.images, self.labels = ({"img": DIGEST} if images is None else images), labels
        self.sub = rig.redis.pubsub(ignore_subscribe_messages=True)
        self.sub.subscribe(rig.key("v:" + name))
        self.sub.get_message(timeout=1)
        self.held = {}
        self.register()

    def register(self):
        reply = self.rig.eval("vmm", "register", self.name, self.slots, "null", self.labels, "test", 1, self.now())
        assert reply[0] == b"ok"
        self.epoch = reply[1].decode()
        self.show_images()

    def show_images(self):
        flat = [x for pair in self.images.items() for x in pair]
        assert self.rig.eval("vmm", "images", self.name, self.epoch, *flat)[0] == b"ok"

    @staticmethod
    def now():
        return int(time.time() * 1000)

    def beat(self):
        self.beat_ct += 1
        return self.rig.eval("vmm", "renew", self.name, self.epoch, self.beat_ct, self.now(),
                             *[f"{i} {t}" for i, t in self.held.items()])

    def take(self, seconds=2.0):
        """The next assignment: (id, token, n, c, body), or None."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            m = self.sub.get_message(timeout=0.01)
            if m and m["data"][:1] == b"a":
                job, token, n, c, body, _epoch = msgpack.unpackb(m["data"][1:], raw=True)
                self.held[int(job)] = token.decode()
                return int(job), token.decode(), n, c, body
        return None

    def step(self, job, state):
        return self.rig.eval("vmm", "step", job, self.held[job], state)[0]

    def commit(self, job, sha="0" * 64, size=1, verdict="success"):
        reply = self.rig.eval("vmm", "commit", job, self.held.pop(job), self.now(), verdict, sha, size, "done")
        return reply[0]

    def giveback(self, job, due=0, charge=1):
        return self.rig.eval("vmm", "giveback", job, self.held.pop(job), self.now(), due, charge, "failed",
                             "no machine")[0]
