"""Fixtures of the system tests; harness/ has what they are made of.

MILONGA_BUILD names the build directory (default build), MILONGA_TEST_CACHE where the grading image and the engine's
store are kept between runs. MILONGA_NO_SKIP=1 lets a test fail that would be skipped for something that is missing
here, so that nobody takes "not tested" for "passed". `-m fast` is the part that a sanitized build is run through as well.
"""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import engine as engine_module, hosts, notice  # noqa: E402
from harness.process import short_directory  # noqa: E402
from harness.receiver import Receiver  # noqa: E402
from harness.stack import Stack, installations  # noqa: E402


# share the one store of the engines in the cache, so they run one after the other
ENGINES = {"test_docker_driver", "test_docker_hosts", "test_golden", "test_harness", "test_jobs", "test_make_run", "test_tenant_images", "test_warm"}
STRICT = os.environ.get("MILONGA_NO_SKIP", "0") not in ("", "0")


def pytest_configure(config):
    notice.configure(config)
    config.addinivalue_line("markers", "fast: seconds, without a container engine; also with sanitizers")
    config.addinivalue_line("markers", "compose: images are built; `make compose` runs these, `make system` does not")
    config.addinivalue_line("markers", "kinds: the table of every kind of machine; `make kinds` runs these")
    config.addinivalue_line("markers", "packages: the Debian package is built; `make packages` runs these")
    config.addinivalue_line("markers", "slow: machines are killed, engines are started, time-outs pass")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For `-n 2 --dist loadgroup`: what shares an installation stays in one process. Tests mostly wait."""
    for item in items:
        name = item.module.__name__
        if not item.get_closest_marker("xdist_group"):
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
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def make_stack(work_dir):
    """make_stack(**settings) starts one more installation; all end with the module."""
    with installations(work_dir) as make:
        yield make


@pytest.fixture(scope="session")
def docker():
    with engine_module.running(engine_module.Dockerd) as e:
        yield e


@pytest.fixture(scope="session")
def podman():
    with engine_module.running(engine_module.Podman) as e:
        yield e


@pytest.fixture(scope="session", params=["docker", "podman"])
def engine(request):
    """Each engine that the docker driver is for."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def make_farm(work_dir):
    """make_farm(3): that many hosts behind ssh."""
    with hosts.farms(work_dir) as make:
        yield make


@pytest.fixture(scope="module")
def receiver():
    r = Receiver()
    yield r
    r.stop()
