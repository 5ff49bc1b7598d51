"""contrib/monitoring asks only for what /metrics tells, with labels that it has."""

import json
import re

import pytest
import requests
import yaml

from harness.stack import ROOT

pytestmark = pytest.mark.fast
HERE = ROOT / "contrib/monitoring"


@pytest.fixture(scope="module")
def told(make_stack):
    stack = make_stack()
    stack.tango.run("# null: status=0\n")
    answer = requests.get(f"{stack.tango.base}/metrics", headers={"Authorization": f"Bearer {stack.tango.key}"}, timeout=20)
    assert answer.status_code == 200, answer.text
    series = {}
    for line in answer.text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
                series.setdefault(name, {}).setdefault(label, set()).add(value)
            series.setdefault(name, {})
    return series


def expressions():
    board = json.loads((HERE / "grafana.json").read_text())
    yield from ((p["title"], t["expr"]) for p in board["panels"] for t in p["targets"])
    rules = yaml.safe_load((HERE / "alerts.yml").read_text())
    yield from ((r["alert"], r["expr"]) for g in rules["groups"] for r in g["rules"])


@pytest.mark.parametrize("where, expr", expressions(), ids=lambda v: re.sub(r"\W+", "-", v)[:40])
def test_what_is_asked_for_is_told(told, where, expr):
    for name, labels in re.findall(r"\b(milonga_\w+)(?:\{([^}]*)\})?", expr):
        assert name in told, f"{where}: {name}"
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            assert value in told[name].get(label, ()), f"{where}: {name} has no {label}={value}"
    known = {label for name in re.findall(r"milonga_\w+", expr) for label in told.get(name, {})}
    for group in re.findall(r"by \(([^)]*)\)", expr):
        assert set(map(str.strip, group.split(","))) <= known, f"{where}: by {group}"


def test_every_alert_has_a_remedy():
    rules = [r for g in yaml.safe_load((HERE / "alerts.yml").read_text())["groups"] for r in g["rules"]]
    assert len(rules) >= 8
    assert all(r["annotations"]["remedy"] and r["labels"]["severity"] in ("page", "warn") for r in rules)
    ids = [p["id"] for p in json.loads((HERE / "grafana.json").read_text())["panels"]]
    assert len(set(ids)) == len(ids)
