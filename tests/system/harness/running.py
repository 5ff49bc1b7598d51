"""A job while something befalls what it runs on, and whether it ended once and right all the same."""

from .process import wait_for
from .tango import messages, parts, unique

JOB = "autograde:\n\t@echo one; sleep 2; echo two\n"
FINAL = "Success: Autodriver returned normally"


def counters(stack):
    return {k.decode(): int(v) for k, v in stack.redis.client.hgetall("{milonga}:stats").items()}


class Running:
    """A job with a callback, that has begun to print."""

    def __init__(self, stack, receiver, makefile=JOB, tango=None, begun="one", **more):
        self.stack, self.receiver, self.tango = stack, receiver, tango or stack.tango
        self.path = f"/cb/{unique(stack.name)}"
        self.before = counters(stack)
        self.ident, self.lab, self.output = self.tango.submit(makefile, callback_url=receiver.url + self.path, **more)
        if begun:
            self.tango.wait_output(self.ident, begun, 60)

    def field(self, name):
        return (self.stack.redis.client.hget(f"{{milonga}}:j:{self.ident}", name) or b"").decode()

    @property
    def attempts(self):
        return int(self.field("n"))

    def check(self, timeout=40, output=b"one\ntwo\n", final=FINAL, line="Autodriver: Job exited with status 0", verdict="success"):
        """Finished exactly once; feedback as it should be, and the callbacks the same text; the machine is clean. `output` may
        be a function that judges it."""
        entry = self.tango.wait_dead(self.ident, timeout)
        trace = messages(entry)
        assert trace[-1] == final and trace.count(final) == 1, trace
        assert trace[0].startswith("Added job") and trace.count(trace[0]) == 1
        assert [j["id"] for j in self.tango.jobs(dead=True)].count(self.ident) == 1
        assert not self.tango.jobs(dead=False)
        feedback = self.tango.poll(self.lab, self.output)
        told = parts(feedback)
        assert told[:2] == (final, line), told[:2]
        assert output(told[2]) if callable(output) else told[2] == output, (len(told[2]), told[2][:300], told[2][-300:])
        calls = self.receiver.wait(self.path)
        assert {c.content for c in calls} == {feedback}
        verdicts = {k: v - self.before.get(k, 0) for k, v in counters(self.stack).items()
                    if k.startswith("v_") and v != self.before.get(k, 0)}
        assert verdicts == {f"v_{verdict}": 1}, verdicts
        self.stack.wait_clean()
        assert self.stack.redis.client.zcard("{milonga}:alive") == 0
        assert not self.stack.redis.client.exists(f"{{milonga}}:o:{self.ident}")
        return entry
