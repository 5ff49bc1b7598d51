#!/usr/bin/env python3
"""Does the judge see it when a guard is gone? Builds each with one guard taken out, runs the crash points where it guards, and
wants the broken rule said. A guard that is not found where this says is a change of the code: say here where it went.

    guards.py [NAME...]      MILONGA_BUILD is a build made with CRASHPOINTS=1, below the source tree
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

# name: (file, what is there, what is put there; ..., how the points are run, the rule that must be said)
GUARDS = {
    # a worker's writes are taken whatever token they carry
    "fence": ([("libshared/lua/prelude.lua", "return h[1] == token and h[2] ~= 'f'", "return h[1] and h[2] ~= 'f'")],
              "--services vmm --how wake --only redis.commit.before", "stale commit"),
    # the state is committed before the feedback is in the store
    "feedback first": ([("services/vmm/report.c", "stored = store_put(a->v->store, text.data, text.len, info, &err) == 0;",
                         "digest_hex(DIGEST_SHA256, text.data, text.len, info->sha256), info->size = text.len, stored = true;"),
                        ("services/vmm/report.c", "    buf_free(&text);\n    return stored;", "    late = text;\n    return stored;"),
                        ("services/vmm/report.c", "static bool store_feedback(", "static _Thread_local struct buf late;\nstatic bool store_feedback("),
                        ("services/vmm/report.c", "    tell(a, &script_commit, r->result->counter ? 10 : 9, argv);",
                         "    tell(a, &script_commit, r->result->counter ? 10 : 9, argv);\n    store_put(a->v->store, late.data, late.len, &info, NULL);")],
                       "--services vmm --how die --only redis.commit.after", "no feedback"),
    # a vmm whose name was registered anew goes on under its old epoch; that what was begun is not brought again would hide it
    "epoch": ([("services/vmm/lua/renew.lua", "if h[1] ~= ARGV[2] or h[2] ~= 'up'", "if h[2] ~= 'up'"),
               ("services/vmm/lua/renew.lua", "if not held[id] and state ~= 'a' then", "if false then")],
              "--services vmm --how twin --only vmm.run.started", "one token twice"),
    # and takes what was assigned to the other
    "epoch of an assignment": ([("services/vmm/agent.c", "bool take = meant && ", "(void)meant;\n    bool take = ")],
                               "--services vmm --how twin --only vmm.message.before", "one token twice"),
    # a callback is forgotten when it is handed out, not when it is answered
    "outbox": ([("services/dispatcher/lua/outbox.lua", "    call('ZADD', key, string.format('%d', now + hold), id)\n", "    call('ZREM', key, id)\n")],
               "--services dispatcher --how die --only callback.send.before", "no callback"),
    # a request that is repeated is another job
    "one job a request": ([("services/api/lua/accept.lua", "  if same then return {'dup', string.match(same, '^%d+'), string.match(same, ' (.*)$') or ''} end\n", ""),
                           ("services/api/lua/lookup.lua", "if ARGV[3] ~= '' then reply[3]", "if false then reply[3]")],
                          "--services api --how die --only redis.accept.after", "made twice"),
    # what a lost worker had is forgotten
    "back to the queue": ([("libshared/lua/prelude.lua", "  for _, id in ipairs(had) do guard(back, id) end\n", "")],
                          "--services vmm --how die --only vmm.run.started", "unfinished"),
}
FLAGS = {"feedback first": '#include "report.h"\n\n#include "base/digest.h"\n'}


def mutant(directory, build, name, changes):
    """A copy of the tree and its objects with the guard taken out, built. Its build directory."""
    for part in ("libshared", "services", "autodriver", "hostdriver", "client", "Makefile", "tests/tests.mk", "packaging/install.mk"):
        (directory / part).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, directory / part)
    shutil.copytree(build, directory / build.relative_to(ROOT), ignore=lambda d, names: [n for n in names if n in ("guards", "unit")])
    for file, old, new in changes:
        path = directory / file
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"guard \"{name}\": {file} has {text.count(old)} times: {old}")
        path.write_text(text.replace(old, new))
    if name in FLAGS:
        path = directory / changes[0][0]
        path.write_text(path.read_text().replace('#include "report.h"\n', FLAGS[name], 1))
    done = subprocess.run(["make", "-s", f"BUILD={build.relative_to(ROOT)}", "CRASHPOINTS=1", f"CC={os.environ.get('CC', 'gcc')}", "all"],
                          cwd=directory, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"guard \"{name}\": does not build without it\n{done.stderr}")
    return directory / build.relative_to(ROOT)


def seen(build, name):
    """(name, was it said, what was)"""
    changes, how, rule = GUARDS[name]
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtg."))
    try:
        binaries = mutant(directory / "src", build, name, changes)
        done = subprocess.run([sys.executable, ROOT / "tests/chaos/points.py", "--patience", "6", *how.split()],
                              env=dict(os.environ, MILONGA_BUILD=str(binaries)), capture_output=True, text=True)
        return name, done.returncode == 1 and f": {rule}: " in done.stdout, done.stdout + done.stderr
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main():
    build = pathlib.Path(os.environ["MILONGA_BUILD"]).resolve()
    if ROOT not in build.parents:
        sys.exit(f"guards.py needs a build below {ROOT}, for a copy of both")
    names = sys.argv[1:] or list(GUARDS)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, said, output in pool.map(lambda n: seen(build, n), names):
            print(f"without \"{name}\": {'said' if said else 'NOT SAID'}: {GUARDS[name][2]}", flush=True)
            if not said:
                print(output)
                failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
