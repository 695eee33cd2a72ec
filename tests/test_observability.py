"""The dashboard and the alert rules: whole, and about metrics that a server really shows.

Grafana and Prometheus are not here to load them: their formats are checked by models of what they
ask for, and expressions by the names in them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from test_metrics import glances, numbers, read, record, said

from ledger.clock import now
from ledger.glance import LOOP, SIGNALS, remember
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Spent, Store
from serve.counts import Counts
from serve.metrics import register

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "flywheel.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
PAGE = ROOT / "docs" / "observability.md"
_DURATION = r"^([0-9]+(ms|[smhdwy]))+$"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


# -- Prometheus: https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/ -------


class Annotations(Strict):
    summary: str = Field(min_length=10, max_length=60)
    description: str = Field(min_length=20)
    runbook: str = Field(pattern=r"^docs/operations\.md#[a-z]+$")


class Labels(Strict):
    severity: Literal["info", "warning", "critical"]


class Rule(Strict):
    alert: str = Field(pattern=r"^Flywheel[A-Z][A-Za-z]+$")
    expr: str = Field(min_length=1)
    for_: str | None = Field(None, alias="for", pattern=_DURATION)
    keep_firing_for: str | None = Field(None, pattern=_DURATION)
    labels: Labels
    annotations: Annotations


class Group(Strict):
    name: str
    interval: str | None = Field(None, pattern=_DURATION)
    rules: list[Rule] = Field(min_length=1)


class Groups(Strict):
    groups: list[Group] = Field(min_length=1)


# -- Grafana: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Strict):
    h: int = Field(ge=1)
    w: int = Field(ge=1, le=24)
    x: int = Field(ge=0, le=23)
    y: int = Field(ge=0)


class Target(Strict):
    refId: str = Field(pattern="^[A-Z]$")
    datasource: Source
    expr: str = Field(min_length=1)
    legendFormat: str
    range: bool
    instant: bool


class Panel(BaseModel):
    id: int
    type: Literal["row", "timeseries", "stat", "table"]
    title: str = Field(min_length=1)
    gridPos: Place
    targets: list[Target] = []


class Variable(BaseModel):
    name: str
    type: Literal["datasource", "query"]
    query: Any


class Templating(Strict):
    list: list[Variable]


class Dashboard(BaseModel):
    uid: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,40}$")
    title: str
    schemaVersion: int = Field(ge=36)
    templating: Templating
    panels: list[Panel]
    time: dict[Literal["from", "to"], str]


def rules() -> list[Rule]:
    found = Groups.model_validate(yaml.safe_load(ALERTS.read_text()))
    return [rule for group in found.groups for rule in group.rules]


def dashboard() -> Dashboard:
    return Dashboard.model_validate_json(DASHBOARD.read_text())


def expressions() -> list[str]:
    found = [rule.expr for rule in rules()]
    found += [target.expr for panel in dashboard().panels for target in panel.targets]
    return [*found, *(str(one.query) for one in dashboard().templating.list)]


def names_in(expression: str) -> set[str]:
    """Names of metrics: those that are neither within a label's value nor a label."""
    return set(re.findall(r"\bflywheel_[a-z0-9_]+", re.sub(r'"[^"]*"', "", expression)))


def labels_in(expression: str) -> set[str]:
    """Labels that are matched or grouped by."""
    found = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        found |= {one.strip() for one in group.split(",")}
    return found


@pytest.fixture
def shown(settings: Settings, store: Store) -> dict[str, set[str]]:
    """Every sample's name that a server can show, with its labels."""
    store.add_evaluation(
        Evaluation(run_id="run", ts=now(), alias="support", candidate="base", baseline="base",
                   verdict="pass", report={})
    )  # fmt: skip
    signal = {"state": "quiet", "score": 0.1, "effect": 0.2, "limit": 0.3}
    remember(store, "support", SIGNALS, {"signals": {"edits": signal}}, at=1.0)
    remember(store, "support", LOOP, {"failed": []}, at=1.0)
    store.add_spending("support", "training", "base", Spent(1, 9, 9, 1.0, 6.0))
    counts = Counts(["support"], {"base"}.__contains__)
    counts.requested("support", "base")
    counts.answered(record())
    counts.reacted("support", "base", said(rating="down"))
    seen = glances(store)
    seen.look()
    registry = CollectorRegistry()
    register(numbers(store, counts, seen), registry)
    found = read(generate_latest(registry).decode())
    return {name: {label for key in samples for label, _ in key} for name, samples in found.items()}


@pytest.mark.sqlite
def test_every_metric_asked_for_is_shown(shown: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name in names_in(expression):
            assert name in shown, f"{name} in {expression}"
        # Prometheus adds `instance` and `job` to every sample.
        known = {"instance", "job"}.union(*(shown[one] for one in names_in(expression)))
        assert labels_in(expression) <= known, expression


@pytest.mark.sqlite
def test_every_metric_is_documented(shown: dict[str, set[str]]) -> None:
    text = PAGE.read_text()
    told = set(re.findall(r"`(flywheel_[a-z_]+)", text))
    ends = ("_bucket", "_count", "_sum")
    families = {
        name.removesuffix(next((e for e in ends if name.endswith(e)), "")) for name in shown
    }
    assert told == families


def test_alerts_have_names_of_their_own_and_are_documented() -> None:
    found = rules()
    names = [one.alert for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        assert one.annotations.runbook == f"docs/operations.md#{one.alert.lower()}"
        assert names_in(one.expr) or "up{" in one.expr


def test_operations_says_what_each_alert_means() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")}
    assert {one.alert for one in rules()} <= headings


def test_panels_lie_side_by_side_and_ask_something() -> None:
    found = dashboard()
    ids = [one.id for one in found.panels]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for one in found.panels:
        assert bool(one.targets) == (one.type != "row"), one.title
        references = [target.refId for target in one.targets]
        assert len(set(references)) == len(references)
        place = one.gridPos
        assert place.x + place.w <= 24, one.title
        for x in range(place.x, place.x + place.w):
            for y in range(place.y, place.y + place.h):
                assert (x, y) not in taken, f"{one.title} lies over {taken.get((x, y))}"
                taken[x, y] = one.title
    assert found.templating.list[0].type == "datasource"
    used = set(re.findall(r"\$\{?(\w+)\}?", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used == {one.name for one in found.templating.list}


def test_brackets_and_quotes_of_expressions_close() -> None:
    for expression in expressions():
        assert expression.count('"') % 2 == 0
        bare = re.sub(r'"[^"]*"', "", expression)
        for opening, closing in ("()", "[]", "{}"):
            assert bare.count(opening) == bare.count(closing), expression


def test_the_examples_around_them_are_what_is_asked_for() -> None:
    prometheus = yaml.safe_load((ALERTS.parent / "prometheus.yaml").read_text())
    assert prometheus["rule_files"] == [ALERTS.name]
    jobs = {one["job_name"] for one in prometheus["scrape_configs"]}
    asked = {job for one in rules() for job in re.findall(r'job="(\w+)"', one.expr)}
    assert asked <= jobs
    for file in sorted((DASHBOARD.parent / "provisioning").rglob("*.yaml")):
        assert yaml.safe_load(file.read_text())["apiVersion"] == 1
    assert json.loads(DASHBOARD.read_text())["uid"] == "flywheel"
