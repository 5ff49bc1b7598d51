#!/usr/bin/env python3
"""Every crash point: one job is recorded, then at each point that it passed something befalls the process; each time the job
must come to its one end, and check.py must have nothing to say.

    die    it is killed, and started again
    pause  it stands still until another has done its work, then goes on
    wake   (vmm) it goes on while another has its job under way
    twin   (vmm) likewise, and the other has its name

Or, told by the states of a job instead of by the points of a process:

    state  the job is held in each of its states, by letting who has it stand still; then each process is killed there


    points.py [--driver null|oci|docker] [--how die,pause,…] [--services api,dispatcher,vmm] [--only TEXT] | --states | --short | --all

MILONGA_BUILD is a build made with CRASHPOINTS=1 (base/crashpoint.h). Prints the number of points, and how long it took from
the restart (or from waking) until nothing was left to do.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import check  # noqa: E402
import rig  # noqa: E402
from harness import engine as engine_module, image  # noqa: E402
from rig import PREFIX, wait_for  # noqa: E402

NTH_MOST = 6  # passings of one point in one job
SETTINGS = {"dup_window_ms": "1h", "pool_size": "0", "slots": "4", "oci_host_image": "yes", "callback_delay_ms": "100ms",
            "dead_max_jobs": "1000000"}
SERVICES = ("api", "dispatcher", "vmm")
# (what is true of the job, its state in Redis, who is stopped for that, where)
STATES = [("queued", b"q", "dispatcher", "redis.assign.before", 1),
          ("assigned", b"a", "vmm", "vmm.message.before", 1),
          ("preparing", b"p", "vmm", "redis.step.after", 1),
          ("running", b"r", "vmm", "vmm.run.started", 1),
          ("collecting", b"c", "vmm", "store.fsync.after", 1),
          ("feedback stored", b"c", "vmm", "redis.commit.before", 1),
          ("committed", b"f", "vmm", "redis.commit.after", 1),
          ("callback due", b"f", "dispatcher", "callback.send.before", 1),
          ("callback answered", b"f", "dispatcher", "redis.outbox_done.before", 1)]


class Point(collections.namedtuple("Point", "service name nth phase")):
    def __str__(self):
        return f"{self.service} {self.name}#{self.nth} ({self.phase})"


class Loop:
    def __init__(self, directory, driver, engine=None, settings=None, patience=30):
        self.patience = patience
        more = dict(SETTINGS, **(settings or {}))
        if engine:
            more["docker_url"] = engine.url
        self.dir, self.driver = directory, driver
        self.stack = rig.Stack(directory, driver=driver, apis=2, **more)
        if engine:
            self.stack.engine_url = engine.url
        self.gate = directory / "gate"
        self.history = rig.History(directory / "history.jsonl")
        self.history.add("begin", driver=driver, prefix=PREFIX, job_retries=2, pipe_lease_ms=3000)
        self.receiver = rig.Receiver(self.history)
        self.client = rig.Client(self.history, self.stack.ports, self.stack.image)
        self.number, self.logged = 0, {}
        self.stack.start()
        self.client.prepare({"Makefile": self.makefile(), "base": "x" * 100})

    def makefile(self, how="die"):
        ms = {"wake": 700, "twin": 1500}.get(how, 20 if self.driver == "null" else 200)
        return rig.NULL_JOB % ms if self.driver == "null" else rig.REAL_JOB % (ms / 1000)

    @property
    def redis(self):
        return self.stack.redis.client

    def process(self, service):
        return {"api": self.stack.api, "dispatcher": self.stack.dispatcher, "vmm": self.stack.vmm}[service]

    def replace(self, service, **env):
        """The first process of a service anew, with something more in its environment; returns when it does its work."""
        old = self.process(service)
        if old.running():
            old.stop()
        new = rig.service(self.stack, service, 0, **env)
        {"api": self.stack.apis, "dispatcher": self.stack.dispatchers, "vmm": self.stack.vmms}[service][0] = new
        return self.launch(new)

    def launch(self, process):
        log = pathlib.Path(process.log)
        self.logged[process] = log.stat().st_size if log.exists() else 0
        return process.start()

    def at_work(self, service, process):
        """Does it do its work? True also when it has died meanwhile."""
        if not process.running():
            return True
        if service == "api":
            return self.stack.tango.up()
        if service == "dispatcher":
            return self.leads(process)
        key = f"{PREFIX}:vmm:{process.env['MILONGA_VMM_NAME']}"
        log = pathlib.Path(process.log).read_bytes()[self.logged.get(process, 0):]
        return b"vmm.registered" in log and self.redis.hget(key, "state") == b"up"

    def leads(self, process):
        holder = (self.redis.hget(f"{PREFIX}:lead", "holder") or b"").decode()
        return bool(holder) and holder in process.text()

    def job(self, how="die"):
        """Submits one, in a thread of its own: an api may die over it. (its name, the thread)"""
        self.number += 1
        req = f"r{self.number}"
        thread = threading.Thread(target=self.submit, args=(req, self.makefile(how)), daemon=True)
        thread.start()
        return req, thread

    def submit(self, req, makefile):
        client = rig.Client(self.history, self.stack.ports, self.stack.image, timeout=4)
        # The submission's own file, so that the api's way into the store is a part of the job's life.
        client.ask("POST", f"/upload/{rig.KEY}/{rig.LAB}/", (makefile + f"# {req}\n").encode(), {"Filename": f"{req}.mk"},
                   good=client._ok)
        client.submit(req, self.receiver.url(req), f"{req}.mk")

    def is_over(self, req):
        return req in self.receiver.whole and not self.redis.zcard(f"{PREFIX}:alive") and not self.redis.zcard(f"{PREFIX}:outbox")

    def wait_over(self, req, thread, timeout):
        thread.join(timeout)
        wait_for(f"the end of {req}", lambda: self.is_over(req), timeout, 0.01)

    def restart_redis(self):
        self.stack.redis.kill()
        self.stack.redis.start()

    # ---- recording ----

    def record(self):
        """The points that a job passes, in each service."""
        files = {}
        marks = collections.defaultdict(list)

        def mark():
            for s, f in files.items():
                marks[s].append(f.read_text().split() if f.exists() else [])
        for s in SERVICES:
            files[s] = self.dir / f"record.{s}"
            wait_for(f"{s} at work", lambda p=self.replace(s, MILONGA_CRASH_RECORD=files[s]), s=s: self.at_work(s, p))
        time.sleep(0.5)
        mark()
        time.sleep(1.2)  # what it does when there is nothing to do
        mark()
        req, thread = self.job()
        self.wait_over(req, thread, 30)
        wait_for("a clean machine", lambda: not rig.leftovers(self.stack), 15, 0.05)
        mark()
        self.restart_redis()
        req, thread = self.job()  # a new generation is there once it is taken
        self.wait_over(req, thread, 30)
        mark()
        for s in ("vmm", "dispatcher", "api"):
            self.process(s).stop()
        mark()
        points = []
        for s in SERVICES:
            up, idle, job, redis, down = marks[s]
            parts = {"start": up, "idle": idle[len(up):], "job": job[len(idle):], "redis": redis[len(job):], "stop": down[len(redis):]}
            often = set(parts["idle"])
            known = set()
            for phase in ("job", "start", "redis", "stop"):
                for name, n in collections.Counter(parts[phase]).items():
                    if name not in known:
                        nths = 1 if name in often or phase != "job" else min(n, NTH_MOST)
                        points += [Point(s, name, i + 1, phase) for i in range(nths)]
                known |= set(parts[phase])
        for s in ("api", "dispatcher", "vmm"):
            self.replace(s)
        self.stack.wait_api()
        self.stack.wait_image()
        return points

    # ---- one point ----

    def begin(self, point, how):
        """The service is made ready to pass the point; the job, and its thread, under way."""
        self.gate.unlink(missing_ok=True)
        plan = f"{point.name},{point.nth},{'die' if how == 'die' else 'pause'}" + ("" if point.phase == "start" else f",{self.gate}")
        victim = self.replace(point.service, MILONGA_CRASH=plan)
        if point.phase != "start":
            wait_for(f"{victim.name} at work", lambda: self.at_work(point.service, victim), 15)
        if point.phase != "stop":
            self.gate.touch()
        if point.phase == "redis":
            self.restart_redis()
        req, thread = self.job(how)
        if point.phase == "stop":
            self.wait_over(req, thread, 20)
            self.gate.touch()
            victim.signal(signal.SIGTERM)
        return victim, req, thread

    def reached(self, victim, how, req):
        """True once it has died or stopped; False when the job is over and it has not."""
        end, over_at = time.monotonic() + 15, None
        while time.monotonic() < end:
            if how == "die" and not victim.running():
                return victim.child.returncode == -signal.SIGKILL
            if how != "die" and (victim.stopped() or not victim.running()):
                return victim.running()
            if self.is_over(req):
                over_at = over_at or time.monotonic()
                if time.monotonic() - over_at > 2.5:
                    return False
            time.sleep(0.01)
        return False

    def spare(self, service, twin=False):
        """Another one of that kind, for while the first stands still."""
        if service == "api":
            return None  # there are two
        p = rig.service(self.stack, service, 7, self.process(service).env.get("MILONGA_VMM_NAME") if twin else None)
        {"dispatcher": self.stack.dispatchers, "vmm": self.stack.vmms}[service].append(p)
        return self.launch(p)

    def try_point(self, point, how):
        """(was it reached, seconds until all was in order again)"""
        victim, req, thread = self.begin(point, how)
        if not self.reached(victim, how, req):
            self.replace(point.service)
            self.wait_over(req, thread, 20)
            return False, 0
        self.history.add("fault", what=f"{how} at {point}", who=victim.name)
        if how == "die":
            began = time.monotonic()
            self.replace(point.service)
        elif how == "pause" or point.phase != "job":
            began = self.pause_out(point, victim, req)
        else:
            began = self.wake_early(point, victim, req, how == "twin")
        self.wait_over(req, thread, self.patience)
        # A vmm that starts makes a machine to see whether it can: what it leaves is asked once it takes jobs.
        rig.settle(self.stack, self.patience, [lambda: self.works_again(point)])
        took = time.monotonic() - began
        self.no_spares(point.service)
        return True, took

    def is_in(self, req, state):
        """Does the job come to be there? What was sent to Redis before its sender stood still is done a little later."""
        end = time.monotonic() + 1
        while self.redis.hget(f"{PREFIX}:j:{self.ident(req)}", "s") != state:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def try_state(self, held, victim):
        """As try_point(): the job held in a state, and a process killed there."""
        what, state, service, name, nth = held
        point = Point(service, name, nth, "job")
        holder, req, thread = self.begin(point, "pause")
        if not self.reached(holder, "pause", req) or not self.is_in(req, state):
            holder.signal(signal.SIGCONT)
            self.wait_over(req, thread, self.patience)
            return False, 0
        self.history.add("fault", what=f"{victim} killed, job {what}", who=self.process(victim).name)
        self.process(victim).kill()
        began = time.monotonic()
        if victim != service:
            holder.signal(signal.SIGCONT)
        self.replace(victim)
        self.wait_over(req, thread, self.patience)
        rig.settle(self.stack, self.patience, [lambda: self.works_again(point), lambda: self.at_work(victim, self.process(victim))])
        return True, time.monotonic() - began

    def pause_out(self, point, victim, req):
        """Past each lease, then awake. When that was."""
        spare = self.spare(point.service) if point.phase != "stop" else None
        if point.service == "api" or not spare:
            time.sleep(2.5)
        else:
            # Its work is done by the other, as far as it was known: only then is the sleeper's word surely stale.
            wait_for(f"the spare {spare.name} at work", lambda: self.at_work(point.service, spare), 20)
            end = time.monotonic() + 6
            while time.monotonic() < end and not (self.redis.zcard(f"{PREFIX}:alive") == 0 and req in self.receiver.whole):
                time.sleep(0.02)
        victim.signal(signal.SIGCONT)
        began = time.monotonic()
        if point.phase == "stop":
            victim.child.wait(20)
            self.replace(point.service)
        wait_for(f"{victim.name} at work again", lambda: self.works_again(point), 20)
        return began

    def wake_early(self, point, victim, req, twin):
        """Awake while the job is under way at another vmm, or done if it was done already. When that was."""
        spare = self.spare("vmm", twin)
        wait_for(f"the spare {spare.name} at work", lambda: self.at_work("vmm", spare), 20)

        def under_way():
            job = self.redis.hmget(f"{PREFIX}:j:{self.ident(req)}", "n", "s")
            return job[1] in (b"f", None) or (int(job[0] or 0) >= 2 and job[1] in (b"r", b"c"))
        wait_for(f"another attempt at {req}", under_way, 20, 0.005)
        victim.signal(signal.SIGCONT)
        began = time.monotonic()
        if twin:  # two of one name throw each other out for as long as both run
            time.sleep(0.5)
            victim.kill()
            self.stack.vmms[:] = [spare]
        wait_for(f"{self.stack.vmm.name} at work again", lambda: self.works_again(point), 20)
        return began

    def ident(self, req):
        """The job's id, as Redis has it."""
        for key in self.redis.scan_iter(f"{PREFIX}:j:*", count=1000):
            if self.redis.hget(key, "of") == f"{req}.out".encode():
                return key.decode().rpartition(":")[2]
        return 0

    def works_again(self, point):
        """A dispatcher that finds another in charge is a standby from then on."""
        return point.service == "dispatcher" or self.at_work(point.service, self.process(point.service))

    def no_spares(self, service):
        extra = {"dispatcher": self.stack.dispatchers, "vmm": self.stack.vmms}.get(service, [])[1:]
        for p in extra:
            p.stop()
            {"dispatcher": self.stack.dispatchers, "vmm": self.stack.vmms}[service].remove(p)

    def judge(self):
        self.history.flush()
        rig.dump(self.stack, self.dir / "final.json")
        return check.judge(self.dir)[0]

    def stop(self):
        self.receiver.stop()
        self.stack.stop_hard()


def trials(loop, points, hows, services):
    """(how, whose process, in words, what tries it) of each."""
    for how in hows:
        if how == "state":
            for held in STATES:
                for victim in services:
                    yield how, victim, f"{victim} killed, job {held[0]}", lambda h=held, v=victim: loop.try_state(h, v)
            continue
        for point in points:
            if how not in ("wake", "twin") or (point.service, point.phase) == ("vmm", "job"):
                yield how, point.service, f"{how} {point}", lambda p=point, h=how: loop.try_point(p, h)


def run(loop, points, hows, services=SERVICES, report=print):
    """Tries all; the list of what went wrong, and the times."""
    bad, missed, times = [], [], collections.defaultdict(list)
    for how, service, name, attempt in trials(loop, points, hows, services):
        try:
            for _ in range(3):  # a point that hangs on timing may not be passed each time
                reached, took = attempt()
                if reached:
                    break
            broken = loop.judge()
        except AssertionError as e:
            lines = [f"{name}: {line}" for line in (str(e), *loop.judge())]
            report("\n".join([*lines, loop.stack.report()]))
            return bad + lines, missed, times
        if reached:
            times[how, service].append(took)
        elif how == "state":
            broken.append("the job could not be held there")
        else:
            missed.append(name)
        for line in broken:
            report(f"{name}: {line}")
        bad += [f"{name}: {line}" for line in broken]
        if broken:
            return bad, missed, times
    return bad, missed, times


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", default="null")
    parser.add_argument("--how", default="die,pause")
    parser.add_argument("--services", default=",".join(SERVICES))
    parser.add_argument("--only", default="", help="points whose name has this in it")
    parser.add_argument("--verbose", action="store_true", help="name the points")
    parser.add_argument("--keep", action="store_true", help="keep the directory of a run that failed")
    parser.add_argument("--patience", type=float, default=30, help="seconds for a job to come to its end")
    parser.add_argument("--first", action="store_true", help="only the first passing of each")
    parser.add_argument("--short", action="store_true", help="null: die; oci and docker: die at the first passing of each")
    parser.add_argument("--states", action="store_true", help="oci and docker: in each state")
    parser.add_argument("--all", action="store_true", help="all drivers, all services, die and pause, in each state")
    return parser.parse_args()


def one(args):
    """One installation, one after the other."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtc."))
    directory.chmod(0o755)
    engine = loop = None
    failed = True
    try:
        if args.driver == "docker":
            (directory / "e").mkdir()
            engine = engine_module.Dockerd(directory / "e").start()
            engine.load(image.tarball())
        loop = Loop(directory, args.driver, engine, patience=args.patience)
        hows, services = args.how.split(","), args.services.split(",")
        points = loop.record() if hows != ["state"] else []
        chosen = [p for p in points if p.service in services and args.only in p.name and
                  (p.nth == 1 or not args.first)]
        if points:
            print(f"{args.driver} {args.services}: {len({p.name for p in chosen})} points, {len(chosen)} with their passings, by {args.how}",
                  flush=True)
        for p in points if args.verbose else ():
            print(f"  {p}")
        bad, missed, times = run(loop, chosen, hows, services)
        for m in missed:
            print(f"{args.driver}: not passed: {m}")
        for (how, service), t in sorted(times.items()):
            print(f"{args.driver} {service} {how}: {len(t)} passings, in order again after {statistics.median(t):.2f} s (median), "
                  f"{max(t):.2f} s (worst)")
        failed = bool(bad)
    finally:
        if loop:
            loop.stop()
            rig.clean.remove_groups(loop.stack)
        if engine:
            engine.stop()
        if args.keep and failed:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 1 if failed else 0


def several(plans):
    """(driver, services, how, options) each in a process of its own, two a core: most of the time is waiting."""
    def run_one(plan):
        d, s, h, *more = plan
        return subprocess.run([sys.executable, __file__, "--driver", d, "--services", s, "--how", h, *more],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in pool.map(run_one, plans):
            print(done.stdout, end="", flush=True)
            failed |= done.returncode
    print("broken" if failed else "all rules hold at each point", flush=True)
    return failed


def main():
    args = arguments()
    drivers = [d for d, needs in (("null", ()), ("oci", ("crun",)), ("docker", ("dockerd", "docker")))
               if all(map(shutil.which, needs)) and (not needs or os.geteuid() == 0)]
    if args.states:
        plans = [(d, ",".join(SERVICES), "state") for d in reversed(drivers[1:])]
    elif args.short:
        # The slow ones first. Engines share a store, so theirs run one after the other: no more than the rest has time for.
        plans = [(d, "vmm", "die", "--first") for d in reversed(drivers[1:])]
        plans += [("oci", s, "die", "--first") for s in ("api", "dispatcher") if "oci" in drivers]
        plans += [("null", "vmm", "wake,twin", "--only", "vmm.")] + [("null", s, "die") for s in SERVICES]
    elif args.all:
        plans = [(d, s, h) for d in drivers for s in SERVICES for h in ("die", "pause")] + [(d, "vmm", h) for d in drivers for h in ("wake", "twin")]
        plans += [(d, ",".join(SERVICES), "state") for d in drivers]
    else:
        sys.exit(one(args))
    sys.exit(several(plans))


if __name__ == "__main__":
    main()
