"""Fixtures of the system tests; harness/ has what they are made of.

MILONGA_BUILD names the build directory (default build), MILONGA_TEST_CACHE where the grading image and the engine's
store are kept between runs. MILONGA_NO_SKIP=1 lets a test fail that would be skipped for something that is missing
here, so that nobody takes "not tested" for "passed". `-m fast` is the part that a sanitized build is run through as well.
"""

import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import clean, engine as engine_module, hosts, image, notice  # noqa: E402
from harness.guard import guard  # noqa: E402
from harness.receiver import Receiver  # noqa: E402
from harness.stack import Stack  # noqa: E402


# share the one store of the engines in the cache, so they run one after the other
ENGINES = {"test_docker_driver", "test_docker_hosts", "test_golden", "test_harness", "test_jobs", "test_make_run", "test_tenant_images", "test_warm"}
STRICT = os.environ.get("MILONGA_NO_SKIP", "0") not in ("", "0")


def pytest_configure(config):
    notice.configure(config)
    config.addinivalue_line("markers", "fast: seconds, without a container engine; also with sanitizers")
    config.addinivalue_line("markers", "compose: images are built; `make compose` runs these, `make system` does not")
    config.addinivalue_line("markers", "packages: the Debian package is built; `make packages` runs these")
    config.addinivalue_line("markers", "slow: machines are killed, engines are started, time-outs pass")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For `-n 2 --dist loadgroup`: what shares an installation stays in one process. Tests mostly wait."""
    for item in items:
        name = item.module.__name__
        item.add_marker(pytest.mark.xdist_group("engines" if name in ENGINES else name))


def no_skip(report):
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and MILONGA_NO_SKIP is set: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    no_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The services' last words belong to a failure."""
    report = (yield).get_result()
    no_skip(report)
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            value = getattr(value, "stack", value)
            if isinstance(value, Stack):
                report.sections.append(("services", value.report()))


@pytest.fixture(scope="module")
def work_dir():
    """Short, since unix sockets lie in it; pytest's own tmp_path is too long for them."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mt."))
    path.chmod(0o755)
    guard.directory(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def make_stack(work_dir):
    """make_stack(**settings) starts one more installation; all end with the module."""
    stacks = []

    def make(**settings):
        started = settings.pop("start", True)
        directory = work_dir / str(len(stacks))
        directory.mkdir()
        stack = Stack(directory, **settings)
        stacks.append(stack)
        return stack.start() if started else stack
    yield make
    problems = []
    for stack in reversed(stacks):
        try:
            stack.stop()
            stack.wait_clean()
            stack.sane()
        except AssertionError as e:
            problems.append(f"{e}")
            stack.stop_hard()
        clean.remove_groups(stack)
    assert not problems, "\n".join(problems)


def _engine(kind):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mte."))
    guard.directory(directory)
    tar = image.tarball()
    e = kind(directory).start()
    try:
        e.load(tar)
        yield e
    finally:
        e.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def docker():
    yield from _engine(engine_module.Dockerd)


@pytest.fixture(scope="session")
def podman():
    yield from _engine(engine_module.Podman)


@pytest.fixture(scope="session", params=["docker", "podman"])
def engine(request):
    """Each engine that the docker driver is for."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def make_farm(work_dir):
    """make_farm(3): that many hosts behind ssh."""
    if not hosts.usable():
        pytest.skip("needs root, unshare, ip, ssh and sshd")
    farms = []

    def make(count, **more):
        farms.append(hosts.Farm(work_dir / f"farm{len(farms)}", count, **more))
        return farms[-1]
    yield make
    for farm in farms:
        farm.down()


@pytest.fixture(scope="module")
def receiver():
    r = Receiver()
    yield r
    r.stop()
