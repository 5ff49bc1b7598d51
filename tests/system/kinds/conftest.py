"""The table of `make kinds`, and who is in it. MILONGA_KINDS=docker,oci for some of the rows only."""

import os

import pytest

from .all import KINDS

_rows = {}  # of kind: of case: (cell, reason)


def chosen():
    names = [n for n in os.environ.get("MILONGA_KINDS", "").split(",") if n]
    unknown = set(names) - {k.name for k in KINDS}
    if unknown:
        raise pytest.UsageError(f"MILONGA_KINDS: no kind {', '.join(sorted(unknown))}; there are {', '.join(k.name for k in KINDS)}")
    return [k for k in KINDS if not names or k.name in names]


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", [pytest.param(k, id=k.name, marks=pytest.mark.xdist_group(k.group)) for k in chosen()],
                             indirect=True, scope="module")


@pytest.fixture(scope="module")
def kind(request):
    k = request.param().start()
    yield k
    k.stop()


def pytest_configure(config):
    config.addinivalue_line("markers", "case(heading): a column of the table")


def pytest_collection_modifyitems(items):
    for item in items:
        case = item.get_closest_marker("case")
        if case:
            item.user_properties += [("kind", item.callspec.params["kind"].name), ("case", case.args[0])]


def pytest_runtest_logreport(report):
    """In the process that prints: with -n it is not the one that ran it."""
    told = dict(report.user_properties)
    if "case" not in told or report.when != "call" and report.outcome == "passed":
        return
    cell, reason = "ok", ""
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        cell, reason = "FAILED", (crash.message if crash else report.longreprtext).strip().partition("\n")[0]
    elif report.outcome == "skipped":
        cell, reason = "skipped", report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    elif "cell" in told:
        cell, reason = told["cell"]
    row = _rows.setdefault(told["kind"], {})
    if row.get(told["case"], ("ok",))[0] != "FAILED":
        row[told["case"]] = cell, reason


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    cases = list(dict.fromkeys(c for row in sorted(_rows.values(), key=len, reverse=True) for c in row))
    kinds = [k.name for k in KINDS if k.name in _rows]
    out = terminalreporter
    out.section("kinds of machines")
    first = max(map(len, kinds))
    widths = [max(len(word) for word in [*c.split(), *(_rows[k].get(c, ("-",))[0] for k in kinds)]) for c in cases]
    for i in range(max(len(c.split()) for c in cases)):
        words = ["".join(c.split()[i:i + 1]) for c in cases]
        out.write_line(" " * first + "".join(f"  {w:<{n}}" for w, n in zip(words, widths)))
    for k in kinds:
        out.write_line(f"{k:<{first}}" + "".join(f"  {_rows[k].get(c, ('-',))[0]:<{n}}" for c, n in zip(cases, widths)))
    for k in kinds:
        for c, (cell, reason) in _rows[k].items():
            if reason:
                out.write_line(f"{k}, {c}: {cell}: {reason}")
