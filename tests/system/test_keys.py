"""Keys are compared in time that tells nothing of them: memcheck finds each branch and each address that hangs on a secret,
when the secret's bytes are marked as undefined."""

import pathlib
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROBE = """
#include "base/name.h"
#include <string.h>
#include <valgrind/memcheck.h>

static bool early_exit(const char *a, size_t a_len, const char *b, size_t b_len)
{
    for (size_t i = 0; i < a_len && i < b_len; i++)
        if (a[i] != b[i])
            return false;
    return a_len == b_len;
}

int main(int argc, char **argv)
{
    char given[] = "a key that is long enough", kept[] = "a key that is long enougH";
    bool same;

    VALGRIND_MAKE_MEM_UNDEFINED(kept, sizeof(kept) - 1);
    same = (argc > 1 && !strcmp(argv[1], "early") ? early_exit : key_equal)(given, sizeof(given) - 1, kept, sizeof(kept) - 1);
    VALGRIND_MAKE_MEM_DEFINED(&same, sizeof(same));
    return same ? 2 : 0;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    (directory / "probe.c").write_text(PROBE)
    # as the services are compiled
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-g", "-D_GNU_SOURCE", f"-I{ROOT}/libshared", "-o", directory / "probe", directory / "probe.c",
                    *(ROOT / "libshared/base" / f"{n}.c" for n in ("name", "mem"))], check=True)
    return directory / "probe"


def memcheck(probe, *args):
    return subprocess.run(["valgrind", "-q", "--error-exitcode=1", probe, *args], capture_output=True, text=True)


def test_invariant_9_keys_are_compared_in_constant_time(probe):
    done = memcheck(probe)
    assert done.returncode == 0, done.stderr


def test_memcheck_sees_an_early_exit(probe):
    done = memcheck(probe, "early")
    assert done.returncode == 1 and "depends on uninitialised" in done.stderr
