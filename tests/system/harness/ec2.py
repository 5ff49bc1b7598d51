"""EC2, as far as a driver meets it: a double that is strict with its caller.

It computes the SigV4 signature anew, checks every parameter against botocore's own model of EC2, keeps state as EC2 does
(pending, running, terminated; instances that are not there yet for whoever asks at once; pages; client tokens that make a
call idempotent), and boots a real sshd host for each instance (hosts.py), whose key stands in its console output.

What is to go wrong is asked for by a test: `fail`, `lose`, `full`, `reclaim`.
"""

import base64
import datetime
import hashlib
import hmac
import http.server
import itertools
import json
import re
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

import botocore.loaders
import botocore.model

from .hosts import Host, leftovers

REGION = "eu-test-1"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
# of a cloud-init that has made new keys at boot
CONSOLE = """[    0.000000] Linux version 6.1
ci-info: no authorized SSH keys fingerprints found
-----BEGIN SSH HOST KEY FINGERPRINTS-----
256 SHA256:x root@ip (ED25519)
-----END SSH HOST KEY FINGERPRINTS-----
-----BEGIN SSH HOST KEY KEYS-----
{keys}
-----END SSH HOST KEY KEYS-----
login: """


class Refusal(Exception):
    def __init__(self, code, message, status=400):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


# ---- what a vmm is told ----

def settings(farm, **more):
    return {"ec2_types": "t3.large,c5.large", "ec2_subnets": "subnet-a,subnet-b", "ec2_key_name": "milonga", "ec2_user": "root",
            "ssh_key": farm.key, "ssh_config": "/dev/null", "ssh_dead_ms": "8000ms", "deployment": "mts", "ec2_max": 2, **more}


# ---- what comes in ----

def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(secret, scope, signed, method, path, query, headers, body, stamp):
    """By the text of the standard: canonical request, string to sign, derived key."""
    pairs = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
    canonical = "\n".join([
        method, path, "&".join(f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}" for k, v in pairs),
        *(f"{h}:{' '.join(headers[h].split())}" for h in signed), "", ";".join(signed), hashlib.sha256(body).hexdigest()])
    date, region, service, end = scope
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, end):
        key = _hmac(key, part)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class Model:
    """Forms into structures by botocore's model; what it does not know is refused."""

    def __init__(self):
        self.service = botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model("ec2", "service-2"), "ec2")

    def read(self, action, form):
        if action not in self.service.operation_names:
            raise Refusal("InvalidAction", f"The action {action} is not valid for this web service.")
        left = dict(form)
        value = self._take(self.service.operation_model(action).input_shape, "", left)
        if left:
            raise Refusal("UnknownParameter", f"The parameter {next(iter(left))} is not recognized")
        return value or {}

    def _take(self, shape, at, left):
        if shape.type_name == "structure":
            found = {}
            for name, member in shape.members.items():
                wire = member.serialization.get("queryName")
                if not wire:
                    wire = member.serialization.get("name", name)
                    wire = wire[0].upper() + wire[1:]
                value = self._take(member, f"{at}.{wire}" if at else wire, left)
                if value is not None:
                    found[name] = value
            missing = [m for m in shape.required_members if m not in found]
            if missing and (found or not at):
                raise Refusal("MissingParameter", f"The request must contain the parameter {at}{missing[0]}")
            return found or None
        if shape.type_name == "list":
            found = []
            for i in itertools.count(1):
                value = self._take(shape.member, f"{at}.{i}", left)
                if value is None:
                    return found or None
                found.append(value)
        text = left.pop(at, None)
        if text is None:
            return None
        if shape.type_name == "boolean" and text not in ("true", "false") or \
                shape.type_name in ("integer", "long") and not text.lstrip("-").isdigit() or \
                shape.type_name == "string" and getattr(shape, "enum", None) and text not in shape.enum:
            raise Refusal("InvalidParameterValue", f"Value ({text}) for parameter {at} is invalid.")
        return int(text) if shape.type_name in ("integer", "long") else text == "true" if shape.type_name == "boolean" else text


# ---- what goes out ----

def xml(name, value):
    if isinstance(value, dict):
        value = "".join(xml(k, v) for k, v in value.items())
    elif isinstance(value, list):
        value = "".join(xml("item", v) for v in value)
    else:
        value = escape("true" if value is True else "false" if value is False else str(value))
    return f"<{name}>{value}</{name}>"


def pattern(value):
    """A filter's: * and ?, each of them, and the backslash itself, as they stand after a backslash."""
    parts = re.findall(r"\\.|.", value, re.S)
    return re.compile("".join({"*": ".*", "?": "."}.get(p) or re.escape(p[-1]) for p in parts), re.S)


class Instance:
    def __init__(self, double, number, asked, zone):
        self.double, self.id, self.asked, self.zone = double, f"i-{number:017x}", asked, zone
        self.type, self.image = asked["InstanceType"], asked["ImageId"]
        self.spot = asked.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        self.request, self.status = f"sir-{number:08x}" if self.spot else None, "fulfilled"
        self.tags = {t["Key"]: t["Value"] for s in asked.get("TagSpecifications", []) if s["ResourceType"] == "instance"
                     for t in s["Tags"]}
        self.state, self.reason, self.metadata, self.metadata_at = "pending", "", "enabled", 0
        self.left = []  # of machines, when it was ended
        self.made = time.monotonic()
        self.launched = datetime.datetime.now(datetime.timezone.utc)
        self.console_at = None
        self.host = Host(double.farm, number)
        if double.imposter:  # somebody else answers at its address
            self.console_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFx" + "A" * 42 + " root@other"
        else:
            self.console_key = (self.host.dir / "host_key.pub").read_text().strip()
        self.thread = threading.Thread(target=self._boot, daemon=True)
        self.thread.start()

    def _boot(self):
        time.sleep(self.double.boot_s)
        with self.double.lock:
            if self.state != "pending" or self.double.stuck:
                return
            self.host.boot()
            self.state = "running"
            self.console_at = time.monotonic() + self.double.console_s

    def end(self, reason="Client.UserInitiatedShutdown"):
        """With the lock."""
        if self.state != "terminated":
            if self.console_at and reason.startswith("Client."):  # given back; one that AWS takes may well be in use
                self.left = [x for x in self.host.leftovers() if "process sh -c \nset -e" not in x]  # it boots still
            self.host.power_off()
            self.state, self.reason = "terminated", reason

    def options(self):
        return {"state": "applied" if time.monotonic() >= self.metadata_at else "pending", "httpEndpoint": self.metadata,
                "httpTokens": "required"}

    def describe(self):
        up = self.state == "running"
        return {"instanceId": self.id, "imageId": self.image, "instanceState": {"code": {"pending": 0, "running": 16}.get(self.state, 48),
                                                                               "name": self.state},
                "privateDnsName": "", "stateReason": {"code": self.reason, "message": self.reason},
                "instanceType": self.type, "launchTime": self.launched.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "placement": {"availabilityZone": self.zone},
                "metadataOptions": self.options(), **({"instanceLifecycle": "spot", "spotInstanceRequestId": self.request} if self.spot else {}),
                **({"privateIpAddress": self.host.address, "ipAddress": self.host.address} if up else {}),
                "tagSet": [{"key": k, "value": v} for k, v in self.tags.items()]}


class Ec2:
    """Ec2(farm): url, imds_url; a farm without hosts, whose key is in every image."""

    def __init__(self, farm):
        self.farm, self.model, self.lock = farm, Model(), threading.RLock()
        self.keys = {"AKIATEST": ("secret/with+odd=chars", None)}  # id: secret, token
        self.role = None  # or id of the keys that the metadata service gives
        self.images = {"ami-0000000a": "autograding_image", "ami-0000000b": "other_image", "ami-0000000c": None}
        self.subnets = {"subnet-a": "eu-test-1a", "subnet-b": "eu-test-1b"}
        self.instances, self.tokens, self.calls, self.refused = {}, {}, [], []
        self.boot_s, self.console_s, self.lag_s, self.apply_s = 0.2, 0.2, 0.3, 0.2
        self.page, self.stuck, self.imposter, self.room = 2, False, False, None
        self.templates = {"lt-0000000a": {"SubnetId": "subnet-b", "KeyName": "of the template"}}
        self.templates["hosts"] = self.templates["lt-0000000a"]
        self.prices, self.dearest = {}, 0  # an hour, at any time
        self.faults, self.lost, self.no_room = [], [], set()
        self.numbers = itertools.count(len(farm.hosts) + 1)
        self.server = self._serve(self._answer)
        self.imds = self._serve(self._metadata)
        self.url, self.imds_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in (self.server, self.imds))

    # ---- what a test asks for ----

    def fail(self, action, code, times=1, status=400, message="as the test wished"):
        self.faults += [(action, code, status, message)] * times

    def lose(self, action, times=1):
        """It is done, and nobody hears of it."""
        self.lost += [action] * times

    def full(self, kind, subnet, market):
        self.no_room.add((kind, subnet, market))

    def alive(self):
        with self.lock:
            return [i for i in self.instances.values() if i.state != "terminated"]

    def leftovers(self, keepers):
        """On the hosts of instances that run."""
        return leftovers([i.host for i in self.alive() if i.state == "running"], keepers)

    def stranger(self, **tags):
        """One that somebody else has started."""
        with self.lock:
            asked = {"InstanceType": "t3.micro", "ImageId": "ami-0000000c",
                     "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]}
            number = next(self.numbers)
            i = Instance(self, number, asked, "eu-test-1a")
            self.instances[i.id] = i
            return i

    def notice(self, instance):
        """It will be taken back in two minutes."""
        instance.status = "marked-for-termination"

    def reclaim(self, instance):
        with self.lock:
            instance.status = "instance-terminated-no-capacity"
            instance.end("Server.SpotInstanceTermination")

    def count(self, action):
        return sum(c[0] == action for c in self.calls)

    def environment(self):
        return {"AWS_ENDPOINT_URL_EC2": self.url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "AKIATEST",
                "AWS_SECRET_ACCESS_KEY": self.keys["AKIATEST"][0]}

    def stop(self):
        with self.lock:
            for i in self.instances.values():
                i.end()
        for i in self.instances.values():
            i.thread.join()
            self.farm.hosts.append(i.host)  # its groups are the farm's to remove
        for s in (self.server, self.imds):
            s.shutdown()
            s.server_close()

    # ---- http ----

    def _serve(self, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content = answer(self, body)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "text/xml;charset=UTF-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = _do

            def log_message(self, *args):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _answer(self, request, body):
        try:
            self._check_signature(request, body)
            if request.command != "POST" or not request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
                raise Refusal("InvalidRequest", "only POST forms are understood here")
            pairs = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
            form = dict(pairs)
            if len(form) != len(pairs):
                raise Refusal("InvalidParameterCombination", "a parameter is given twice")
            action = form.pop("Action", "")
            if form.pop("Version", "") != "2016-11-15":
                raise Refusal("InvalidParameterValue", "Version")
            asked = self.model.read(action, form)
            with self.lock:
                self.calls.append((action, asked))
                fault = next((f for f in self.faults if f[0] == action), None)
                if fault:
                    self.faults.remove(fault)
                    raise Refusal(fault[1], fault[3], fault[2])
                value = getattr(self, f"_{action}")(asked)
                if action in self.lost:
                    self.lost.remove(action)
                    return None, b""
            text = "".join(xml(k, v) for k, v in {"requestId": "r-1", **value}.items())
            return 200, f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">{text}</{action}Response>'.encode()
        except Refusal as e:
            with self.lock:
                self.refused.append(str(e))
            error = xml("Errors", {"Error": {"Code": e.code, "Message": e.message}}) + xml("RequestID", "r-1")
            return e.status, f'<?xml version="1.0" encoding="UTF-8"?>\n<Response>{error}</Response>'.encode()

    def _check_signature(self, request, body):
        headers = {k.lower(): v for k, v in request.headers.items()}
        head, _, rest = headers.get("authorization", "").partition(" ")
        parts = dict(p.strip().split("=", 1) for p in rest.split(",") if "=" in p)
        if head != "AWS4-HMAC-SHA256" or set(parts) != {"Credential", "SignedHeaders", "Signature"}:
            raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
        ident, *scope = parts["Credential"].split("/")
        secret, token = self.keys.get(ident, (None, None))
        if secret is None:
            raise Refusal("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        stamp, signed = headers.get("x-amz-date", ""), parts["SignedHeaders"].split(";")
        must = {"host", "x-amz-date"} | {h for h in headers if h.startswith("x-amz-")}
        if not must <= set(signed) or signed != sorted(signed) or not set(signed) <= set(headers):
            raise Refusal("SignatureDoesNotMatch", f"signed are {signed}", 403)
        if scope != [stamp[:8], REGION, "ec2", "aws4_request"]:
            raise Refusal("SignatureDoesNotMatch", f"Credential should be scoped to {REGION}/ec2, not {scope}", 403)
        when = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
        if abs((datetime.datetime.now(datetime.timezone.utc) - when).total_seconds()) > 300:
            raise Refusal("RequestExpired", "Request has expired.")
        path, _, query = request.path.partition("?")
        if not hmac.compare_digest(parts["Signature"], signature(secret, scope, signed, request.command, path, query, headers, body, stamp)):
            raise Refusal("SignatureDoesNotMatch", "The request signature we calculated does not match", 403)
        if headers.get("x-amz-security-token", None) != token:
            raise Refusal("ExpiredToken", "The security token included in the request is expired")

    def _metadata(self, request, body):
        if request.command == "PUT" and request.path == "/latest/api/token":
            ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            return (200, b"imds-token") if ttl.isdigit() and 0 < int(ttl) <= 21600 else (400, b"")
        if request.command != "GET" or request.headers.get("X-aws-ec2-metadata-token") != "imds-token":
            return 401, b""
        base = "/latest/meta-data/iam/security-credentials/"
        if not self.role or request.path not in (base, base + "milonga"):
            return 404, b""
        if request.path == base:
            return 200, b"milonga"
        secret, token = self.keys[self.role]
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=6)
        return 200, json.dumps({"Code": "Success", "AccessKeyId": self.role, "SecretAccessKey": secret, "Token": token,
                                "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()

    # ---- actions ----

    def _pages(self, asked, items):
        start = int(asked.get("NextToken", "p0")[1:])
        size = min(self.page, asked["MaxResults"]) if "MaxResults" in asked else len(items)
        more = {"nextToken": f"p{start + size}"} if start + size < len(items) else {}
        return items[start:start + size], more

    def _DescribeImages(self, asked):
        if asked.get("Owners") != ["self"]:
            raise Refusal("InvalidParameterValue", "a test looks at its own images only")
        items, more = self._pages(asked, [
            {"imageId": i, "imageState": "available", "imageOwnerId": "1", "architecture": "x86_64", "name": i,
             "creationDate": f"2026-01-{n + 1:02}T00:00:00.000Z", "tagSet": [{"key": "Name", "value": name}] if name else []}
            for n, (i, name) in enumerate(self.images.items())])
        return {"imagesSet": items, **more}

    def _from_template(self, asked):
        """What a launch template has, and the call has not."""
        named = asked.get("LaunchTemplate")
        if not named:
            return asked
        ids = [named[k] for k in ("LaunchTemplateId", "LaunchTemplateName") if k in named]
        if len(ids) != 1:
            raise Refusal("InvalidLaunchTemplate", "either an id or a name")
        if ids[0] not in self.templates:
            kind = "Id" if ids[0].startswith("lt-") else "Name"
            raise Refusal(f"InvalidLaunchTemplate{kind}.NotFoundException", f"The specified launch template, {ids[0]}, does not exist.")
        return {**self.templates[ids[0]], **asked}

    def _RunInstances(self, asked):
        asked = self._from_template(asked)
        for needed in ("ImageId", "InstanceType", "ClientToken"):
            if needed not in asked:
                raise Refusal("MissingParameter", f"The request must contain the parameter {needed}")
        if len(asked["ClientToken"]) > 64:
            raise Refusal("InvalidParameterValue", "ClientToken is longer than 64")
        if (asked["MinCount"], asked["MaxCount"]) != (1, 1):
            raise Refusal("InvalidParameterValue", "one at a time here")
        if asked["ImageId"] not in self.images:
            raise Refusal("InvalidAMIID.NotFound", f"The image id '[{asked['ImageId']}]' does not exist")
        subnet = asked.get("SubnetId", "subnet-a")
        if subnet not in self.subnets:
            raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        token = asked["ClientToken"]
        if token in self.tokens:
            before, made = self.tokens[token]
            if before != asked:
                raise Refusal("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent")
            return self._reservation(made)
        market = asked.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        if (asked["InstanceType"], subnet, market) in self.no_room or self.room is not None and len(self.alive()) >= self.room:
            raise Refusal("InsufficientInstanceCapacity", f"We currently do not have sufficient {asked['InstanceType']} capacity", 500)
        if asked.get("DryRun"):
            raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        i = Instance(self, next(self.numbers), asked, self.subnets[subnet])
        self.instances[i.id], self.tokens[token] = i, (asked, i)
        self.dearest = max(self.dearest, sum(self.prices.get(i.type, 0) for i in self.alive()))
        return self._reservation(i)

    @staticmethod
    def _reservation(i):
        return {"reservationId": "r-" + i.id[2:], "ownerId": "1", "groupSet": [], "instancesSet": [i.describe()]}

    def _known(self, idents):
        for ident in idents:
            if ident not in self.instances or time.monotonic() - self.instances[ident].made < self.lag_s:
                raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{ident}' does not exist")
        return [self.instances[i] for i in idents]

    def _filtered(self, filters, found):
        for f in filters:
            name, wanted = f["Name"], [pattern(v) for v in f["Values"]]

            def has(i, name=name):
                if name.startswith("tag:"):
                    return i.tags.get(name[4:])
                if name in ("instance-state-name", "client-token"):
                    return i.state if name == "instance-state-name" else i.asked.get("ClientToken")
                raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
            found = [i for i in found if has(i) is not None and any(w.fullmatch(has(i)) for w in wanted)]
        return found

    def _DescribeInstances(self, asked):
        if "InstanceIds" in asked and "MaxResults" in asked:
            raise Refusal("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
        found = self._known(asked["InstanceIds"]) if "InstanceIds" in asked else \
            [i for i in self.instances.values() if time.monotonic() - i.made >= self.lag_s]
        found = self._filtered(asked.get("Filters", []), found)
        items, more = self._pages(asked, [self._reservation(i) for i in found]) if "InstanceIds" not in asked else \
            ([self._reservation(i) for i in found], {})
        return {"reservationSet": items, **more}

    def _DescribeSpotInstanceRequests(self, asked):
        by = {i.request: i for i in self.instances.values() if i.request}
        unknown = [r for r in asked["SpotInstanceRequestIds"] if r not in by]
        if unknown:
            raise Refusal("InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{unknown[0]}' does not exist")
        return {"spotInstanceRequestSet": [
            {"spotInstanceRequestId": r, "instanceId": by[r].id, "type": "one-time",
             "state": "active" if by[r].state in ("pending", "running") else "closed",
             "status": {"code": by[r].status, "message": by[r].status}} for r in asked["SpotInstanceRequestIds"]]}

    def _TerminateInstances(self, asked):
        found = self._known(asked["InstanceIds"])
        before = [i.state for i in found]
        for i in found:
            i.end()
        return {"instancesSet": [{"instanceId": i.id, "currentState": {"code": 32, "name": "shutting-down"},
                                  "previousState": {"code": 0, "name": s}} for i, s in zip(found, before)]}

    def _GetConsoleOutput(self, asked):
        i = self._known([asked["InstanceId"]])[0]
        ready = i.console_at is not None and time.monotonic() >= i.console_at
        text = CONSOLE.format(keys=i.console_key).replace("\n", "\r\n") if ready else ""
        return {"instanceId": i.id, "timestamp": "2026-01-01T00:00:00.000Z", "output": base64.b64encode(text.encode()).decode()}

    def _ModifyInstanceMetadataOptions(self, asked):
        i = self._known([asked["InstanceId"]])[0]
        i.metadata, i.metadata_at = asked.get("HttpEndpoint", i.metadata), time.monotonic() + self.apply_s
        return {"instanceId": i.id, "instanceMetadataOptions": i.options()}
