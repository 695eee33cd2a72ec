"""Drift through the real ledger: what is read, what is told, and that it does not matter when
anybody looks."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from drifting import DAY, HOUR, START, product

from eval.drift import begin_anew, look, watch
from eval.drift import reactions as said
from eval.drift.reactions import Reactions
from eval.drift.telling import TODO
from flywheel.cli import cli
from ledger.database import tables
from ledger.errors import ServerError
from ledger.keeping.settle import Settle
from ledger.marks import DRIFT_WINDOW
from ledger.records import Feedback
from ledger.store import Store

WARM = 7


def alerts(store: Store) -> list[tuple[str, float, float]]:
    return [(a.kind, a.since, a.until) for a in reversed(store.alerts("support"))]


def test_nothing_is_said_of_nothing(settings, store) -> None:
    found = watch(settings, store, "support", now=START)
    assert {one.state for one in found.signals} == {"warming_up", "too_few"}
    assert found.new_alerts == []
    assert len(look(settings, store, "support", now=START)) == 11


def test_it_does_not_matter_when_anybody_looks(make_settings, tmp_path) -> None:
    """Once for all, or every half hour with looks that die: the same alerts and the same states."""
    results = []
    for name in ("once", "often"):
        settings = make_settings(
            ledger={"url": f"sqlite:///{tmp_path}/{name}.db"}, drift={"off": ["questions"]}
        )
        store = Store.open(settings)
        product(store, WARM, a_day=100)
        product(store, 2, start=START + WARM * DAY, a_day=100, seed=1, negatives=0.4, latency=900)
        end = START + (WARM + 2) * DAY + 700
        if name == "often":
            for k in range(2 * 24):
                watch(settings, store, "support", now=START + WARM * DAY + k * HOUR)
        watch(settings, store, "support", now=end)
        again = watch(settings, store, "support", now=end + 60)
        assert again.new_alerts == []
        states = store.watches("support")
        del states[TODO]
        results.append((alerts(store), states))
        store.close()
    once, often = results
    assert [kind for kind, _, _ in once[0]][:1] == ["drift:negatives"]
    assert once[0] == often[0]
    assert once[1] == often[1]


@pytest.mark.sqlite
def test_rows_that_were_let_go_count(make_settings, store) -> None:
    """Sampled away before anybody looked: errors, confidence and lengths are those of all rows."""
    settings = make_settings(
        sampling={"share": 0.05, "hold_hours": 1}, drift={"off": ["questions"]}
    )
    ids = product(store, 4, a_day=150, said=0.1, errors=0.1)
    for _ in Settle(store, settings, lambda: START + 5 * DAY).steps():
        pass
    left = len(store.row_ids(alias="support"))
    assert left < len(ids) / 2
    found = watch(settings, store, "support", now=START + 4 * DAY + 700)
    by = {one.name: one for one in found.signals}
    states = store.watches("support")
    assert sum(one[1] for one in states["errors"]["warm"]) == len(ids)
    # Refusals come from rows that are there, and stand for the others.
    assert by["confidence"].baseline == pytest.approx(0.5)
    assert by["refusals"].count >= 0


@pytest.mark.sqlite
def test_an_angry_user_is_one_user(settings, store) -> None:
    ids = product(store, 1, a_day=200, said=0)
    with store.transaction() as connection:
        for number, row_id in enumerate(ids):
            store.add_feedback(
                Feedback(
                    feedback_id=f"a{number}",
                    row_id=row_id,
                    ts=START + number * 60,
                    rating="down",
                    subject="angry",
                ),
                connection,
            )
    begin = said.start(store, int(START // HOUR))
    first = int(START // HOUR)
    found, _ = said.read(store, "support", begin, first, first + 23, 4)
    assert sum(one.negatives for one in found.values()) == 4
    assert found[first] == Reactions(1.0, 1.0, 0.0)


def test_feedback_counts_once_in_whatever_steps_it_is_read(settings, store) -> None:
    product(store, 2, a_day=60, edits=0.3, negatives=0.3)
    first = int(START // HOUR)
    whole, _ = said.read(store, "support", said.start(store, first), first, first + 47, 4)
    state, parts = said.start(store, first), {}
    for hour in range(first, first + 48):
        found, state = said.read(store, "support", state, hour, hour, 4)
        parts |= found
        state = json.loads(json.dumps(state))
    assert parts == whole
    assert sum(one.edits for one in whole.values()) > 10


@pytest.fixture
def hook() -> Iterator[Any]:
    """A webhook that fails the first time."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(got) == 1 else 204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_alert_tags_its_window_calls_and_is_shown(make_settings, store, hook, tmp_path) -> None:
    from tiny import write_config

    url, got = hook
    settings = make_settings(drift={"webhook": url, "off": ["questions"]})
    product(store, WARM, a_day=100)
    product(store, 1, start=START + WARM * DAY, a_day=100, seed=1, negatives=0.5)
    now = START + (WARM + 1) * DAY + 700
    found = watch(settings, store, "support", now=now)
    assert [one.kind for one in found.new_alerts] == ["drift:negatives"]
    (alert,) = found.new_alerts
    tagged = store.row_ids(tag=DRIFT_WINDOW)
    inside = store.row_ids(alias="support", since=alert.until - 12 * HOUR, until=alert.until)
    assert set(tagged) == set(inside) != set()
    # The webhook failed: that is shown, holds nothing up, and the next look tries again.
    assert found.problems == [f"the webhook did not take alert {alert.seq} (HTTP 500), 1 tries"]
    assert "secret" not in json.dumps(store.watches("support"))
    again = watch(settings, store, "support", now=now + 60)
    assert again.problems == [] == again.new_alerts
    assert [one["alert"] for one in got] == [alert.seq] * 2
    assert "parcel" not in json.dumps(got)
    assert got[1]["report"]["signal"] == "negatives"
    (open_,) = store.open_drifts("support")
    assert open_.seq == alert.seq
    if store.engine.dialect.name == "sqlite":  # a command leaves its connection to the process
        config = str(write_config(settings, tmp_path / "c.yaml"))
        shown = CliRunner().invoke(cli, ["-c", config, "drift", "support"])
        assert "DRIFT      negatives" in shown.output, shown.output
        status = CliRunner().invoke(cli, ["-c", config, "status", "support"])
        assert "drift: negatives drifted" in status.output
    begin_anew(store, "support", "negatives", now=now + 90)
    assert store.open_drifts("support") == []


@pytest.mark.sqlite
def test_a_drift_ends(make_settings, store) -> None:
    settings = make_settings(drift={"off": ["questions"]})
    product(store, WARM, a_day=100)
    product(store, 1, start=START + WARM * DAY, a_day=100, seed=1, negatives=0.5)
    product(store, 3, start=START + (WARM + 1) * DAY, a_day=110, seed=2, negatives=0)
    found = watch(settings, store, "support", now=START + (WARM + 4) * DAY + 700)
    kinds = [one.kind for one in found.new_alerts]
    assert kinds == ["drift:negatives", "recovered:negatives"]


@pytest.mark.sqlite
def test_new_questions_are_noticed(settings, store) -> None:
    product(store, WARM, a_day=100, said=0)
    product(store, 1, start=START + WARM * DAY, a_day=120, seed=1, machine=0.6, said=0)
    found = watch(settings, store, "support", now=START + (WARM + 1) * DAY + 700)
    assert [one.kind for one in found.new_alerts] == ["drift:questions"]


@pytest.mark.sqlite
def test_gold_is_asked_on_its_schedule_and_a_dead_server_is_no_drift(settings, store) -> None:
    asked: list[str] = []
    right = {f"q{k}": 1.0 for k in range(40)}

    def ask(version: str) -> dict[str, float]:
        asked.append(version)
        if len(asked) == 2:
            raise ServerError("nobody there")
        return right if len(asked) < 4 else {**right, **{f"q{k}": 0.0 for k in range(12)}}

    for hour in (0, 1, 25, 26, 49):
        found = watch(settings, store, "support", now=START + hour * HOUR, ask_gold=ask)
        assert (found.problems != []) == (hour == 25)
    assert asked == ["base"] * 4
    assert [one.kind for one in found.new_alerts] == ["drift:gold"]
    gold = next(one for one in found.signals if one.name == "gold")
    assert gold.effect == pytest.approx(0.3)
    assert gold.low > 0


@pytest.mark.sqlite
def test_what_is_remembered_names_nobody(settings, store) -> None:
    product(store, 2, a_day=60)
    watch(settings, store, "support", now=START + 2 * DAY + 700)
    with store.reading() as connection:
        states = " ".join(connection.scalars(tables.watches.select().with_only_columns(
            tables.watches.c.state)))  # fmt: skip
    assert "parcel" not in states
    assert re.search(r'"u\d', states) is None  # a subject of the product's
