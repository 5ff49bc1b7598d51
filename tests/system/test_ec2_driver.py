"""The ec2 driver on an endpoint of the tests' own (harness/ec2.py), whose instances are real sshd hosts in namespaces."""

import signal
import subprocess
import time

import pytest

from harness.ec2 import REGION, Ec2, settings
from harness.process import plain_env, wait_for
from harness.redis_server import Redis
from harness.stack import BUILD
from harness.tango import messages

PROBE = BUILD / "driver_probe"
DONE = "Success: Autodriver returned normally"
IMAGE = "autograding_image"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROBE.exists(), reason="make build/driver_probe first"),
]


@pytest.fixture(scope="module")
def farm(make_farm):
    return make_farm(0)


@pytest.fixture
def ec2(farm):
    double = Ec2(farm)
    yield double
    left = [(i.id, i.tags) for i in double.alive() if "milonga:deployment" in i.tags and i.tags["milonga:deployment"] == "mts"]
    ended = [(i.id, i.left) for i in double.instances.values() if i.left]
    double.stop()
    assert not left, "instances that somebody pays for"
    assert not ended, "what machines left on instances that were given back"


class Probe:
    def __init__(self, ec2, data, redis):
        self.ec2, self.data, self.aws, self.redis = ec2, data, ec2.environment(), redis

    def start(self, *args, config=None, **keys):
        config = settings(self.ec2.farm, data_dir=self.data, vmm_name="v", autodriver=BUILD / "autodriver",
                          redis_url=self.redis.url, **(config or {}))
        env = plain_env(**{f"MILONGA_{k.upper()}": v for k, v in config.items()}, MILONGA_DRIVER="ec2", **self.aws)
        if args[0] == "run":
            keys["wait"] = 1
        return subprocess.Popen([PROBE, "ec2", *map(str, args), *(f"{k}={v}" for k, v in keys.items())],
                                env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, *args, **keys):
        p = self.start(*args, **keys)
        p.out, p.err = p.communicate(timeout=90)
        return p

    def job(self, *lines, image=IMAGE, **keys):
        return self.call("run", image, makefile="all:\\n" + "".join(f"\\t@{x}\\n" for x in lines), **keys)


@pytest.fixture
def probe(ec2, work_dir):
    redis = Redis(work_dir).start()
    yield Probe(ec2, work_dir / "probe", redis)
    claims = redis.client.hgetall(CLAIMS)
    redis.stop()
    assert not claims, "what is reserved for nothing"


LEDGER = f"{{milonga}}:ec2:{REGION}:1"
CLAIMS = LEDGER + ":claims"


def launches(ec2):
    return [a for action, a in ec2.calls if action == "RunInstances"]


def test_a_job_on_an_instance(ec2, probe):
    done = probe.job("id -un", "echo it runs")
    assert done.returncode == 0 and done.out == "autograde\nit runs\n", done.err
    assert not ec2.refused or all("InvalidInstanceID.NotFound" in x for x in ec2.refused), ec2.refused
    [i] = ec2.instances.values()
    assert i.state == "terminated" and i.metadata == "disabled"
    assert i.image == "ami-0000000a" and i.type == "t3.large" and i.zone == "eu-test-1a" and not i.spot
    assert i.tags["milonga:deployment"] == "mts" and i.tags["milonga:vmm"] == "v" and i.tags["Name"] in ("local-ec2-1", "local-ec2-2")
    [asked] = launches(ec2)
    assert asked["MetadataOptions"]["HttpTokens"] == "required" and asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert asked["KeyName"] == "milonga"


def test_no_job_before_its_metadata_are_off(ec2, probe):
    """EC2 says "pending" first, and until it is more than a wish an instance has its keys."""
    ec2.apply_s = 3
    assert probe.job("echo it runs").returncode == 0
    after = [action for action, _ in ec2.calls]
    after = after[after.index("ModifyInstanceMetadataOptions"):]
    assert after.count("DescribeInstances") >= 3


@pytest.mark.parametrize("how", ["none", "damaged", "open to all", "no ssh"])
def test_what_ssh_cannot_use_is_said_before_anything_is_rented(ec2, probe, work_dir, how):
    key = work_dir / "other_key"
    config = {"ssh_key": key}
    if how == "damaged":
        key.write_text("no key\n")
        key.chmod(0o600)
    elif how == "open to all":
        key.write_bytes(ec2.farm.key.read_bytes())
        key.chmod(0o644)
    elif how == "no ssh":
        config = {"ssh_program": "no-such-ssh"}
    done = probe.call("images", config=config)
    assert done.returncode == 1 and "class=permanent" in done.err and not ec2.calls, done.err
    assert "no-such-ssh cannot be run" in done.err if how == "no ssh" else f"ssh_key = {key} cannot be used" in done.err, done.err


def test_images_by_tag_and_by_type(ec2, probe):
    names = [line.split()[0] for line in probe.call("images").out.splitlines()]
    assert names == [f"{n}{t}" for n in ("autograding_image", "other_image") for t in ("", "+t3.large", "+c5.large")]
    done = probe.job("echo typed", image="other_image+c5.large")
    assert done.out == "typed\n", done.err
    [i] = ec2.instances.values()
    assert (i.image, i.type) == ("ami-0000000b", "c5.large")
    assert probe.job("true", image="nothing").returncode != 0
    assert len(ec2.instances) == 1


def test_an_answer_that_is_lost_is_no_second_instance(ec2, probe):
    ec2.lose("RunInstances")
    ec2.lose("TerminateInstances")
    assert probe.job("echo once").out == "once\n"
    assert len(ec2.instances) == 1 and len({a["ClientToken"] for a in launches(ec2)}) == 1 and len(launches(ec2)) == 2


def test_where_there_is_no_room_the_next_is_tried(ec2, probe):
    """Both zones of a type, then the other type; spot before on demand."""
    for subnet in ec2.subnets:
        for kind in ("t3.large", "c5.large"):
            ec2.full(kind, subnet, "spot")
        ec2.full("t3.large", subnet, "on-demand")
    ec2.full("c5.large", "subnet-a", "on-demand")
    done = probe.job("echo found", config={"ec2_spot": "yes"})
    assert done.out == "found\n", done.err
    tried = [(a["InstanceType"], a["SubnetId"], "spot" if "InstanceMarketOptions" in a else "on-demand") for a in launches(ec2)]
    zones = ("subnet-a", "subnet-b")
    assert tried == [(t, s, m) for m in ("spot", "on-demand") for t in ("t3.large", "c5.large") for s in zones]


def test_no_room_anywhere_is_said(ec2, probe):
    for kind in ("t3.large", "c5.large"):
        for subnet in ec2.subnets:
            ec2.full(kind, subnet, "on-demand")
    done = probe.job("true")
    assert done.returncode == 1 and "InsufficientInstanceCapacity" in done.err and "class=temporary" in done.err
    assert not ec2.instances


def test_throttling_is_waited_out(ec2, probe):
    ec2.fail("RunInstances", "RequestLimitExceeded", times=2, status=503)
    ec2.fail("DescribeImages", "RequestLimitExceeded", times=1, status=503)
    done = probe.job("echo patient")
    assert done.out == "patient\n" and "event=ec2.throttled" in done.err, done.err


def test_another_host_key_is_refused(ec2, probe):
    """Whoever answers at the address has not the key that the console told: no job goes there, and it is ended."""
    ec2.imposter = True
    done = probe.job("echo secret")
    assert done.returncode == 1 and "Host key verification failed" in done.err and "secret" not in done.out
    assert not ec2.alive()


@pytest.mark.parametrize("code,says", [("UnauthorizedOperation", "IAM policy"), ("RequestExpired", "clock")])
def test_what_an_operator_must_mend_is_named(ec2, probe, code, says):
    ec2.fail("DescribeImages", code, times=3, status=403)
    done = probe.call("images")
    assert done.returncode == 1 and f"DescribeImages: {code}" in done.err and says in done.err and "class=permanent" in done.err


def test_a_wrong_secret_and_no_keys_at_all(ec2, probe):
    probe.aws["AWS_SECRET_ACCESS_KEY"] = "wrong"
    done = probe.call("images")
    assert "SignatureDoesNotMatch" in done.err and "check the AWS keys" in done.err and "wrong" not in done.err
    del probe.aws["AWS_SECRET_ACCESS_KEY"]
    probe.aws["AWS_EC2_METADATA_DISABLED"] = "true"
    assert "no AWS keys" in probe.call("images").err


def test_keys_of_the_role_and_of_a_profile(ec2, probe, work_dir):
    """IMDSv2 gives keys with a token; a token that EC2 calls expired is fetched anew."""
    for k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del probe.aws[k]
    ec2.keys["ASIAROLE"] = ("role+secret/=", "token/with+odd==")
    ec2.role = "ASIAROLE"
    probe.aws["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = ec2.imds_url + "/"
    ec2.fail("DescribeImages", "ExpiredToken", status=400)
    done = probe.call("images")
    assert done.returncode == 0 and IMAGE in done.out, (done.err, ec2.refused)
    file = work_dir / "credentials"
    file.write_text(f"[default]\naws_access_key_id = X\naws_secret_access_key = Y\n[lab]\naws_access_key_id = AKIATEST\n"
                    f"aws_secret_access_key = {ec2.keys['AKIATEST'][0]}\n")
    ec2.role = None
    probe.aws.update(AWS_SHARED_CREDENTIALS_FILE=file, AWS_PROFILE="lab")
    assert IMAGE in probe.call("images").out


# ---- what is left over ----

def test_a_stop_ends_what_ec2_does_not_show_yet(ec2, make_stack):
    """Between RunInstances and the first Describe that knows the instance; also when nobody heard the answer."""
    s = make_stack(driver="ec2", slots="0", pool_size="0", start=False, **settings(ec2.farm, stop_hands_back="yes"))
    s.vmm.env.update(ec2.environment())
    s.start()
    ec2.lag_s = 4
    for lost in (0, 100):
        ec2.lose("RunInstances", lost)
        before = len(ec2.instances)
        s.tango.submit("autograde:\n\t@true\n")
        wait_for("an instance", lambda: len(ec2.instances) > before, 30)
        s.vmm.stop()
        assert not ec2.alive()
        s.vmm.start()

def test_invariant_8_a_killed_vmm_leaves_nothing_for_long(ec2, probe):
    """The next one takes over what has its name, and ends it with itself; nothing else: no other deployment's, nobody's."""
    strangers = [ec2.stranger(), ec2.stranger(Name="local-ec2-1"), ec2.stranger(**{"milonga:deployment": "mts2", "milonga:vmm": "v"}),
                 ec2.stranger(**{"milonga:deployment": "mts3", "milonga:vmm": "v", "milonga:token": "t"})]
    assert probe.call("run", IMAGE, "kill-after=load", makefile="all:\\n\\tsleep 60\\n").returncode == -signal.SIGKILL
    [ours] = [i for i in ec2.alive() if i not in strangers]
    done = probe.job("echo taken over")
    assert done.out == "taken over\n" and f"instance={ours.id}" in done.err and "event=ec2.adopted" in done.err, done.err
    assert ours.state == "terminated" and len(launches(ec2)) == 1
    assert all(i.state != "terminated" for i in strangers)


def test_an_instance_of_which_nobody_was_told(ec2, probe):
    """Killed between RunInstances and its answer."""
    ec2.boot_s = 5
    p = probe.start("run", IMAGE)
    wait_for("the call", lambda: ec2.alive(), 20)
    p.kill()
    p.communicate()
    assert ec2.alive()

    def swept():  # what was launched is not seen at once
        probe.call("health")
        return not ec2.alive()
    wait_for("an end of it", swept, 30)


def test_one_that_does_not_boot_is_ended(ec2, probe):
    ec2.stuck = True
    done = probe.job("true", config={"ec2_boot_ms": "4s"})
    assert done.returncode == 1 and "ec2_boot_ms" in done.err
    assert len(ec2.instances) == 1 and not ec2.alive()


# ---- in an installation ----

@pytest.fixture
def make_ec2(ec2, make_stack):
    made = []

    def make(**more):
        s = make_stack(driver="ec2", slots="0", pool_size="0", start=False, **settings(ec2.farm, **more))
        for v in s.vmms:
            v.env.update(ec2.environment())
        made.append(s)
        return s.start()
    yield make
    for s in made:
        s.stop()


@pytest.fixture
def stack(make_ec2):
    return make_ec2(ec2_idle_s="8s", ec2_reap_ms="2s")


def test_machines_come_with_the_queue_and_go_with_it(ec2, stack):
    assert not ec2.alive()
    jobs = [stack.tango.submit(f"autograde:\n\t@sleep 1; echo job {i}\n") for i in range(5)]
    for i, (ident, lab, output) in enumerate(jobs):
        entry = stack.tango.wait_dead(ident, 90)
        assert messages(entry)[-1] == DONE, entry
        assert stack.tango.poll(lab, output).endswith(f"\njob {i}\n".encode())
    assert len(ec2.instances) == 2  # the most that there may be, and used again
    wait_for("the instances to go", lambda: not ec2.alive(), 30)


def test_without_capacity_jobs_wait_and_are_not_charged(ec2, stack):
    for kind in ("t3.large", "c5.large"):
        for subnet in ec2.subnets:
            ec2.full(kind, subnet, "on-demand")
    ident, lab, output = stack.tango.submit("autograde:\n\t@echo in the end\n")
    wait_for("the reason", lambda: "InsufficientInstanceCapacity" in stack.vmm.text() and ec2.count("RunInstances") >= 8, 60)
    assert stack.vmm.text().count("event=attempt.given_back") < 10
    assert not ec2.instances
    ec2.no_room.clear()
    entry = stack.tango.wait_dead(ident, 90)
    assert messages(entry)[-1] == DONE, entry
    assert stack.tango.poll(lab, output).endswith(b"\nin the end\n")


def test_invariant_4_a_reclaimed_instance_costs_that_attempt(ec2, stack):
    ident, lab, output = stack.tango.submit("autograde:\n\t@echo begun; sleep 5; echo ended\n")
    stack.tango.wait_output(ident, "begun", 60)
    [first] = ec2.alive()
    ec2.reclaim(first)
    entry = stack.tango.wait_dead(ident, 90)
    assert messages(entry)[-1] == DONE, entry
    assert stack.tango.poll(lab, output).endswith(b"\nbegun\nended\n")
    assert len(ec2.instances) == 2
    wait_for("the other to go", lambda: not ec2.alive(), 30)


def test_one_that_boots_is_a_backend_that_works(ec2, make_stack):
    """There is room for one: the place that gets nothing does not have the vmm give up on the other."""
    s = make_stack(driver="ec2", slots="0", pool_size="0", start=False, **settings(ec2.farm, ec2_types="t3.large", ec2_subnets="subnet-a"))
    s.vmm.env.update(ec2.environment())
    s.start()
    ec2.boot_s, ec2.room = 6, 1
    jobs = [s.tango.submit(f"autograde:\n\t@echo job {i}\n") for i in range(2)]
    for ident, _, _ in jobs:
        assert messages(s.tango.wait_dead(ident, 90))[-1] == DONE
    assert "InsufficientInstanceCapacity" in s.vmm.text() and "backend.broken" not in s.vmm.text()
    s.stop()


def test_an_old_instance_gets_no_more_jobs(ec2, make_stack):
    """However many wait: what runs there ends, and then it goes."""
    s = make_stack(driver="ec2", slots="0", pool_size="0", start=False,
                   **settings(ec2.farm, ec2_max=1, ec2_slots=2, ec2_max_age_s="5s", ec2_idle_s="1h"))
    s.vmm.env.update(ec2.environment())
    s.start()
    jobs = [s.tango.submit(f"autograde:\n\t@sleep {2 + i % 2}; echo job {i}\n") for i in range(8)]
    for ident, _, _ in jobs:
        assert messages(s.tango.wait_dead(ident, 120))[-1] == DONE
    assert len(ec2.instances) >= 2 and "reason=\"it is as old as ec2_max_age_s\"" in s.vmm.text()
    s.stop()


def test_another_image_takes_the_place_of_an_idle_one(ec2, make_stack):
    s = make_stack(driver="ec2", slots="0", pool_size="0", start=False, **settings(ec2.farm, ec2_max=1, ec2_idle_s="1h"))
    s.vmm.env.update(ec2.environment())
    s.start()
    for name in (IMAGE, "other_image", "other_image+t3.large"):
        ident, lab, output = s.tango.submit("autograde:\n\t@echo $$0\n", image=name)
        assert messages(s.tango.wait_dead(ident, 90))[-1] == DONE
    assert [i.image for i in ec2.instances.values()] == ["ami-0000000a", "ami-0000000b"]
    assert len(ec2.alive()) == 1
    s.stop()
    assert not ec2.alive()


# ---- ahead of jobs ----

def test_instances_are_there_before_anybody_waits(ec2, make_ec2):
    """The least that there are to be, of an image that no job has asked for yet; when that ends, another comes."""
    s = make_ec2(ec2_min=1, ec2_warm_image="other_image", ec2_max=2, ec2_idle_s="1s")
    wait_for("an instance", lambda: "event=host.up" in s.vmm.text(), 60)
    [first] = ec2.alive()
    assert first.image == "ami-0000000b"
    time.sleep(3)  # it is idle for longer than it may be
    assert ec2.alive() == [first]
    ec2.reclaim(first)
    wait_for("another one", lambda: ec2.alive() and ec2.alive() != [first], 60)


def test_free_places_are_kept_ahead_of_jobs(ec2, make_ec2):
    s = make_ec2(ec2_warm=1, ec2_warm_image=IMAGE, ec2_max=2, ec2_idle_s="2s")
    wait_for("one", lambda: len(ec2.alive()) == 1, 30)
    job = s.tango.submit("autograde:\n\t@echo begun; sleep 8; echo ended\n")
    s.tango.wait_output(job[0], "begun", 60)
    wait_for("one more", lambda: len(ec2.alive()) == 2, 30)
    end_all(s, [job])
    wait_for("one again", lambda: len(ec2.alive()) == 1, 30)
    assert len(ec2.instances) == 2


# ---- spot ----

def test_an_instance_that_is_taken_back_gets_no_more_jobs(ec2, make_ec2):
    """What runs there has time to end; the next goes elsewhere, and then it is given back. Nothing is charged."""
    s = make_ec2(ec2_spot="yes", ec2_max=2, ec2_slots=2, ec2_idle_s="1h", job_retries=0)
    job = s.tango.submit("autograde:\n\t@echo begun; sleep 12; echo ended\n")
    s.tango.wait_output(job[0], "begun", 60)
    [first] = ec2.alive()
    assert first.spot
    ec2.notice(first)
    wait_for("the notice", lambda: "event=ec2.taken_back" in s.vmm.text(), 30)
    end_all(s, [s.tango.submit("autograde:\n\t@echo elsewhere\n"), job])
    assert len(ec2.instances) == 2 and "attempt.given_back" not in s.vmm.text()
    wait_for("its end", lambda: first.state == "terminated", 30)
    assert 'reason="AWS takes it back"' in s.vmm.text()


def test_invariant_5_a_spot_instance_that_is_gone_charges_nobody(ec2, make_ec2):
    """Without a notice that was seen: EC2 tells afterwards why. With no further try, a job that were charged would be given up."""
    s = make_ec2(ec2_spot="yes", ec2_max=2, ec2_idle_s="1h", job_retries=0)
    job = s.tango.submit("autograde:\n\t@echo begun; sleep 3; echo ended\n")
    s.tango.wait_output(job[0], "begun", 60)
    ec2.reclaim(ec2.alive()[0])
    end_all(s, [job])
    assert len(ec2.instances) == 2


# ---- launch templates ----

@pytest.mark.parametrize("name", ["lt-0000000a", "hosts:7"])
def test_a_launch_template(ec2, probe, name):
    """What is not said here is the template's; the image, the type and what keeps strangers out are ours."""
    done = probe.job("echo from it", config={"ec2_template": name, "ec2_subnets": "", "ec2_key_name": ""})
    assert done.out == "from it\n", done.err
    [asked] = launches(ec2)
    kind = "LaunchTemplateId" if name.startswith("lt-") else "LaunchTemplateName"
    assert asked["LaunchTemplate"] == {kind: name.split(":")[0], "Version": name.partition(":")[2] or "$Default"}
    [i] = ec2.instances.values()
    assert i.zone == "eu-test-1b" and asked["MetadataOptions"]["HttpTokens"] == "required" and i.image == "ami-0000000a"


def test_a_launch_template_that_is_not_there_is_named(ec2, probe):
    done = probe.job("true", config={"ec2_template": "lt-0bad"})
    assert done.returncode == 1 and "InvalidLaunchTemplateId.NotFoundException" in done.err and "lt-0bad" in done.err
    assert not ec2.instances


# ---- several vmms ----

def end_all(stack, jobs, seconds=120):
    for ident, lab, output in jobs:
        assert messages(stack.tango.wait_dead(ident, seconds))[-1] == DONE


def test_a_ceiling_holds_for_all_vmms_together(ec2, make_ec2):
    """Reserved before EC2 is asked: never more than it allows, and nothing stays reserved. The jobs wait, and are not charged."""
    ec2.prices = {"t3.large": 0.1, "c5.large": 0.08}
    s = make_ec2(vmms=2, ec2_max=3, ec2_slots=1, ec2_prices="t3.large=0.1,c5.large=0.08", ec2_cost_max="0.25", ec2_idle_s="2s")
    end_all(s, [s.tango.submit(f"autograde:\n\t@sleep 2; echo job {i}\n") for i in range(8)])
    assert 0.15 < ec2.dearest <= 0.25 and len(ec2.instances) >= 2
    logs = "".join(v.text() for v in s.vmms)
    assert "ec2_cost_max = 0.25 does not allow" in logs and "an hour are reserved by all vmms" in logs
    wait_for("the instances to go", lambda: not ec2.alive(), 30)
    wait_for("their claims to go", lambda: not s.redis.client.hlen(CLAIMS), 10)


def test_another_vmm_ends_what_a_dead_one_had(ec2, make_ec2):
    """And nothing else: not what a live one has, not another deployment's."""
    stranger = ec2.stranger(**{"milonga:deployment": "mts2", "milonga:vmm": "x", "milonga:token": "m1.aa.1.bb"})
    s = make_ec2(vmms=2, ec2_max=2, ec2_idle_s="1h", ec2_claim_ms="3s", ec2_reap_ms="1s", labels="")
    jobs = [s.tango.submit("autograde:\n\t@echo begun; sleep 2; echo ended\n") for _ in range(4)]
    end_all(s, jobs)
    by = {v.env["MILONGA_VMM_NAME"]: [i for i in ec2.alive() if i.tags.get("milonga:vmm") == v.env["MILONGA_VMM_NAME"]] for v in s.vmms}
    dead = next(v for v in s.vmms if by[v.env["MILONGA_VMM_NAME"]])
    lost, kept = by.pop(dead.env["MILONGA_VMM_NAME"]), sum(by.values(), [])
    dead.kill()
    other = next(v for v in s.vmms if v is not dead)
    wait_for("its instances to be ended", lambda: all(i.state == "terminated" for i in lost), 30)
    assert "event=ec2.holder_lost" in other.text() and other.text().count("event=ec2.reaped") == len(lost)
    assert all(i.state == "running" for i in kept) and stranger.state != "terminated"


def test_a_dry_run_names_them_and_leaves_them_alone(ec2, make_ec2):
    s = make_ec2(vmms=2, ec2_max=1, ec2_idle_s="1h", ec2_claim_ms="2s", ec2_reap_ms="1s", ec2_reap_dry="yes")
    end_all(s, [s.tango.submit("autograde:\n\t@echo ended\n")])
    [lost] = ec2.alive()
    dead, other = sorted(s.vmms, key=lambda v: v.env["MILONGA_VMM_NAME"] != lost.tags["milonga:vmm"])
    dead.kill()
    wait_for("its name in the log", lambda: f"event=ec2.reaped instance={lost.id}" in other.text() and "dry=yes" in other.text(), 30)
    assert lost.state == "running"
    dead.start()
    wait_for("it to be taken over again", lambda: "event=ec2.adopted" in dead.text(), 30)


def test_with_its_past_lost_nothing_is_ended_until_a_person_says_so(ec2, make_ec2):
    """Redis comes back empty while a vmm is away: what it had may be in use as far as anybody can tell."""
    s = make_ec2(vmms=2, ec2_max=1, ec2_idle_s="1h", ec2_claim_ms="2s", ec2_reap_ms="1s")
    end_all(s, [s.tango.submit("autograde:\n\t@echo ended\n")])
    [lost] = ec2.alive()
    dead, other = sorted(s.vmms, key=lambda v: v.env["MILONGA_VMM_NAME"] != lost.tags["milonga:vmm"])
    dead.kill()
    s.redis.client.flushall()
    s.redis.kill()
    s.redis.start()
    wait_for("a word of it", lambda: "event=ec2.stands_still" in other.text(), 30)
    wait_for("what would be ended", lambda: f"instance={lost.id}" in other.text() and "dry=still" in other.text(), 30)
    time.sleep(3)  # several looks, and longer than a claim lasts
    assert lost.state == "running" and s.redis.client.hget(LEDGER, "still")
    s.redis.client.hset(LEDGER, "go", "yes")
    wait_for("its end", lambda: lost.state == "terminated", 30)
    assert "event=ec2.goes_on" in other.text() and not s.redis.client.hget(LEDGER, "still")


def test_a_restart_of_redis_alone_is_no_loss(ec2, make_ec2):
    s = make_ec2(ec2_max=1, ec2_idle_s="1h", ec2_claim_ms="2s", ec2_reap_ms="1s")
    end_all(s, [s.tango.submit("autograde:\n\t@echo ended\n")])
    s.redis.kill()
    s.redis.start()
    wait_for("a dispatcher in charge", lambda: s.redis.client.hget("{milonga}:meta", "gen") == b"2", 20)
    end_all(s, [s.tango.submit("autograde:\n\t@echo ended\n", image=IMAGE)])
    assert len(ec2.instances) == 1 and "stands_still" not in s.vmm.text() and s.redis.client.hlen(CLAIMS) == 1


def test_a_restarted_vmm_goes_on_with_its_instances(ec2, make_ec2):
    s = make_ec2(ec2_max=1, ec2_idle_s="1h")
    ident, lab, output = s.tango.submit("autograde:\n\t@echo begun; sleep 3; echo ended\n")
    s.tango.wait_output(ident, "begun", 60)
    s.vmm.kill()
    s.vmm.start()
    end_all(s, [(ident, lab, output), s.tango.submit("autograde:\n\t@echo another\n")])
    assert len(ec2.instances) == 1 and "event=ec2.adopted" in s.vmm.text()
    assert s.redis.client.hlen(CLAIMS) == 1


def test_who_is_throttled_tells_the_others(ec2, make_ec2):
    s = make_ec2(vmms=2, ec2_max=1, ec2_idle_s="1h")
    ec2.fail("RunInstances", "RequestLimitExceeded", times=3, status=503)
    end_all(s, [s.tango.submit("autograde:\n\t@echo ended\n")])
    assert s.redis.client.get(LEDGER + ":throttled") == b"3"
    s.redis.client.set(LEDGER + ":quiet", "1", px=4000)  # as another vmm would
    s.tango.submit("autograde:\n\t@echo ended\n", image="other_image")
    before = len(ec2.calls)
    time.sleep(2)
    assert len(ec2.calls) == before
    wait_for("a call", lambda: len(ec2.calls) > before, 30)
