"""The weekly report: what it says of a week that was lived on a real ledger, and when it is due."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rollout_rows import DAY, Product, version
from tiny import write_config

from flywheel import weekly
from flywheel.cli import cli
from flywheel.weekly.facts import gather
from flywheel.weekly.page import markdown
from flywheel.weekly.period import Period, last_days, last_week
from ledger import clock
from ledger.deployments import Deployments
from ledger.marks import USER_EDIT
from ledger.records import Correction, Evaluation, Tag
from ledger.settings import Settings
from ledger.store import Spent, Store

MONDAY = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
NEXT = MONDAY + 7 * DAY
#: What users typed; it may stand in no report.
SECRET = "quarterly zebra"


# -- the days -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "name"),
    [
        (NEXT, "2026-W47"),  # the first moment after it
        (NEXT - 1, "2026-W46"),
        (datetime(2027, 1, 5, 12, tzinfo=UTC).timestamp(), "2026-W53"),
        (datetime(2026, 1, 6, tzinfo=UTC).timestamp(), "2026-W01"),
    ],
)
def test_a_week_is_monday_to_sunday_and_called_as_iso_does(now: float, name: str) -> None:
    week = last_week(now)
    assert (week.name, week.days) == (name, 7)
    assert datetime.fromtimestamp(week.since, UTC).weekday() == 0
    assert week.until <= now < week.until + 7 * DAY


def test_days_in_words() -> None:
    assert last_week(NEXT).said == "16 November to 22 November 2026"
    assert Period("x", MONDAY - 330 * DAY, MONDAY).said == "21 December 2025 to 15 November 2026"
    recent = last_days(NEXT + 5000, 3)
    assert (recent.name, recent.days) == ("2026-11-23-3d", 3)
    assert recent.until - DAY <= NEXT + 5000 < recent.until


# -- a week ---------------------------------------------------------------------------------------


def lived(settings: Settings, store: Store) -> None:
    """Two weeks: v1 live from Monday noon, v2 refused, v3 tried and taken back."""
    product = Product(store, a_day=150, users=300, negatives={"base": 0.2, "support@v1": 0.08},
                      edits={"base": 0.1, "support@v1": 0.05})  # fmt: skip
    product.now = MONDAY - 7 * DAY
    with clock.at(lambda: product.now):
        deployments = Deployments(store)
        product.live(7.5)
        first = version(settings, store, None)
        _judged(store, "support@v1", "base", "pass", 0.12, [])
        firing = store.add_firing(
            "support", ("failures",), "retrain", {"said": ["parcels: 40 failures"]}
        )
        store.add_outcome(firing, "run", {"run": "r1", "version": "support@v1"})
        store.add_outcome(firing, "live", {"version": "support@v1"})
        deployments.promote("support", first, who="loop", why="the gate let it pass")
        product.live(1.5)
        second = version(settings, store, None)
        deployments.candidate("support", second, who="retrain", why="run r2")
        _judged(store, "support@v2", "support@v1", "fail", -0.07, ["main: 9 broken | 2 fixed"])
        deployments.withdraw("support", who="gate", why="run r2: fail")
        product.live(1)
        third = version(settings, store)
        deployments.share("support", third, 5, who="operator:ada", why="let us see")
        product.negatives["support@v3"] = 0.6
        product.live(2)
        with store.transaction() as connection:
            store.add_alert(
                "support", "drift:negatives", {"said": "negatives: 2.1 times what is usual"},
                connection, at=product.now - 3600, since=product.now - DAY, until=product.now,
            )  # fmt: skip
            store.add_alert(
                "support", "new_cluster", {"cluster": 7, "name": "grinder, beans", "share": 0.128},
                connection, at=product.now - 1800, since=product.now - DAY, until=product.now,
            )  # fmt: skip
        deployments.rollback("support", who="loop", why="harm is shown")
        product.live(1.9)
        product.keep_text = True
        product.live(0.02)
        store.add_firing("support", ("drift",), "collect", {"missing": ["12 more new pairs"]})
        # As the sweep of each tick marks what users wrote anew.
        store.add_tags(
            Tag(row_id=one.row_id, tag=USER_EDIT, who="rule:feedback", ts=one.ts)
            for _, one in store.feedback()
            if one.correction
        )
        rows = [row.row_id for row in store.interactions(limit=3, newest_first=True)]
        for number, row in enumerate(rows):
            store.add_correction(
                Correction(row_id=row, ts=product.now - 1, source="operator", author="ada",
                           text=f"{SECRET} {number}", decision="proposed" if number else "accepted")
            )  # fmt: skip
        store.add_spending("support", "gate", "base", Spent(10, 500, 100, 0.5, 60.0),
                           version="support@v1")  # fmt: skip


def _judged(
    store: Store, candidate: str, baseline: str, verdict: Any, difference: float, reasons: list[str]
) -> None:
    report = {
        "difference": difference,
        "interval": [difference - 0.05, difference + 0.05],
        "reasons": reasons,
    }
    store.add_evaluation(
        Evaluation(run_id="r", ts=clock.now(), alias="support", candidate=candidate,
                   baseline=baseline, verdict=verdict, report=report)
    )  # fmt: skip


@pytest.fixture
def settings(make_settings: Any) -> Settings:
    """With the price of the box."""
    return make_settings(prices={"gpu_hour": 1.8, "currency": "EUR"})


def test_a_report_says_what_the_wheel_did(settings: Settings, store: Store) -> None:
    lived(settings, store)
    now = NEXT + 3600.0
    facts = gather(settings, store, "support", last_week(now), now=now)
    assert (facts.live, facts.candidate) == ("support@v1", None)
    # Every answer of the week is in one day, once; the week before was the base's alone.
    asked = [row for row in store.interactions() if MONDAY <= row.ts < NEXT]
    assert facts.whole.answers == sum(facts.versions["support@v1"]) + sum(
        sum(days) for name, days in facts.versions.items() if name != "support@v1"
    )
    assert facts.whole.answers == len(asked) > 900
    assert facts.before.answers == 1050
    bad = {one.row_id for _, one in store.feedback() if one.negative}
    edited = {one.row_id for _, one in store.feedback() if one.correction}
    assert facts.whole.negatives == sum(row.row_id in bad for row in asked)
    assert facts.before.negative_rate.value > facts.whole.negative_rate.value
    for day in facts.days:
        if day.answers:
            share = day.negatives / day.answers
            assert day.negative_rate.low <= share <= day.negative_rate.high
    assert facts.whole.edits == sum(row.row_id in edited for row in asked) > 0
    done = [(one.version, one.what) for one in facts.history]
    assert done == [
        ("support@v1", "live"),
        ("support@v2", "loaded, no traffic yet"),
        ("support@v2", "refused"),
        ("support@v3", "tried with 5 % of the traffic"),
        ("support@v3", "taken back while it was tried"),
    ]
    assert [(one.candidate, one.verdict) for one in facts.verdicts] == [
        ("support@v1", "pass"), ("support@v2", "fail"), ("support@v3", "pass"),
    ]  # fmt: skip
    assert [one.kind for one in facts.alerts] == ["drift:negatives", "new_cluster"]
    assert [one.decision for one in facts.firings] == ["retrain", "collect"]

    page = markdown(facts, "x.png")
    for said in (
        "# support, 16 November to 22 November 2026",
        "**support@v1** is live",
        "taken back while it was tried | loop",
        "harm is shown",
        "+12.0 points (+7.0 to +17.0)",
        "9 broken \\| 2 fixed",
        "negatives: 2.1 times what is usual",
        "support@v1 trained, live",
        "collect more first",
        "12 more new pairs",
        "| operator | 1 | 2 | 0 |",
        "2 proposed correction",
        "1,314.00 EUR a month however idle",
        "drift that is not over (negatives)",
        "| new cluster | grinder, beans, 12.8% of the traffic |",
    ):
        assert said in page, said
    assert SECRET not in page


@pytest.mark.sqlite
def test_it_is_due_once_a_week_and_is_a_page_with_a_picture(
    settings: Settings, store: Store
) -> None:
    assert not weekly.due(settings, store, "support", now=NEXT + 60)  # nothing has happened yet
    lived(settings, store)
    assert weekly.due(settings, store, "support", now=NEXT + 60)
    page = weekly.write(settings, store, "support", now=NEXT + 60)
    assert page == settings.var / "reports" / "2026-W47-support.md"
    assert page.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "(2026-W47-support.png)" in page.read_text()
    assert not weekly.due(settings, store, "support", now=NEXT + 60)
    assert not weekly.due(settings, store, "support", now=NEXT + 6 * DAY)
    assert weekly.due(settings, store, "support", now=NEXT + 7 * DAY)
    # The week before anything was there has no report.
    assert not weekly.due(settings, store, "support", now=MONDAY - 7 * DAY + 60)
    # Days up to now are another file, and leave the week's due.
    other = weekly.write(
        settings, store, "support", period=last_days(NEXT + 8 * DAY, 7), now=NEXT + 8 * DAY
    )
    assert other.name == "2026-12-01-7d-support.md"
    assert weekly.due(settings, store, "support", now=NEXT + 8 * DAY)


@pytest.mark.sqlite
def test_a_week_in_which_nothing_happened_can_be_written(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    page = weekly.write(settings, store, "support", now=NEXT, folder=tmp_path / "out")
    said = page.read_text()
    assert "No answers were given." in said
    assert "Nothing changed." in said
    assert page.with_suffix(".png").exists()


@pytest.mark.sqlite
def test_the_command_writes_it(settings: Settings, store: Store, tmp_path: Path) -> None:
    config = write_config(settings, tmp_path / "config.yaml")

    def run(*words: str) -> str:
        with clock.at(lambda: NEXT + 100):
            done = CliRunner().invoke(cli, ["-c", str(config), "report", *words])
        assert done.exit_code == 0, done.output
        return done.output

    found = json.loads(run("--json", "--out", str(tmp_path / "out")))
    assert Path(found["page"]).name == "2026-11-23-7d-support.md"
    assert Path(found["picture"]).exists()
    assert "2026-W47-support.md" in run("support", "--week")
    assert (settings.var / "reports" / "2026-W47-support.md").exists()
