"""Text and rows go when their time is over, no earlier, and leave their numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import MakeSettings
from kept_rows import (
    NOON,
    Clock,
    check_plans,
    everything,
    fill,
    kept,
    make,
    reasons,
    same,
    say,
    tag,
)

from ledger.database import tables
from ledger.keeping import retention as retention_module
from ledger.keeping.housekeeping import Housekeeping
from ledger.keeping.retention import raise_kinds, retention
from ledger.records import Correction, DatasetRecord
from ledger.settings import Settings
from ledger.store import Store

DAYS = 24
KINDS = {"s": "sample", "f": "feedback", "t": "tagged", "l": "low_confidence", "c": "corrected"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "CHUNK", 7)


@pytest.fixture
def keep(make_settings: MakeSettings) -> Any:
    """Settings of retention, with nothing else let go."""

    def make_them(**kinds: dict[str, float]) -> Settings:
        never = {"sampled": {}, "flagged": {}, "corrected": {}}
        return make_settings(retention=never | kinds)

    return make_them


def correct(store: Store, row_id: str, text: str = "delivery") -> None:
    store.add_correction(
        Correction(
            row_id=row_id,
            ts=1.0,
            source="operator",
            author="ada",
            text=text,
            decision="accepted",
            why="it says so",
        )
    )


def run(store: Store, settings: Settings, hour: float) -> None:
    for _ in retention(store, settings, Clock(hour)):
        pass


def settled_rows(store: Store, count: int = 20, hour: float = NOON) -> None:
    """`count` rows of each kind: `s0`, … sampled, `f0`, … with feedback, and so on."""
    for prefix, reason in KINDS.items():
        fill(store, count, prefix, hour=hour, held=False, kept_because=reason)
    for number in range(count):
        say(store, f"f{number}", reason="because", correction="delivery")
        tag(store, f"t{number}", why="quotes some words")
        say(store, f"c{number}")
        correct(store, f"c{number}")


def with_text(store: Store) -> dict[str, int]:
    """How many rows of each prefix still have text."""
    found = dict.fromkeys(KINDS, 0)
    for row in store.interactions():
        assert (row.messages is not None) == row.stored_text
        found[row.row_id[0]] += row.stored_text
    return found


def table_rows(store: Store, table: sa.Table) -> int:
    with store.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


# -- text by age -------------------------------------------------------------------------


def test_text_goes_by_the_age_of_its_kind(store: Store, keep: Any) -> None:
    settled_rows(store)
    before = everything(store)
    settings = keep(
        sampled={"text_days": 10}, flagged={"text_days": 20}, corrected={"text_days": 30}
    )
    everywhere = dict.fromkeys(KINDS, 20)
    run(store, settings, NOON + 10 * DAYS)
    assert with_text(store) == everywhere
    run(store, settings, NOON + 10 * DAYS + 1)
    assert with_text(store) == everywhere | {"s": 0}
    run(store, settings, NOON + 20 * DAYS + 1)
    assert with_text(store) == everywhere | {"s": 0, "f": 0, "t": 0, "l": 0}
    assert len(store.corrections()) == 20
    run(store, settings, NOON + 30 * DAYS + 1)
    assert set(with_text(store).values()) == {0}
    # The text of what was said about them is gone, what they are is not.
    assert store.corrections() == {}
    feedback = [row for _, row in store.feedback(row_ids=["f3"])]
    assert [(row.rating, row.reason, row.correction) for row in feedback] == [("down", None, None)]
    assert [(t.tag, t.why) for t in store.tags(["t3"])["t3"]] == [("odd", "")]
    same(everything(store), before, but=["stored_text"])
    assert reasons(store) == dict.fromkeys(KINDS.values(), 20)


def test_unset_means_for_ever(store: Store, keep: Any) -> None:
    settled_rows(store, 3)
    run(store, keep(), NOON + 100_000 * DAYS)
    assert set(with_text(store).values()) == {3}


def test_a_clock_that_goes_backwards_takes_nothing(store: Store, keep: Any) -> None:
    settled_rows(store, 3)
    times = {"text_days": 1, "row_days": 2}
    settings = keep(sampled=times, flagged=times, corrected=times)
    run(store, settings, NOON - 1000 * DAYS)
    assert set(with_text(store).values()) == {3}


def test_held_rows_are_left_alone(store: Store, keep: Any) -> None:
    fill(store, 5)
    say(store, "r1")
    times = {"text_days": 1, "row_days": 2, "text_mib": 1e-9}
    run(store, keep(sampled=times, flagged=times, corrected=times), NOON + 50 * DAYS)
    assert reasons(store) == {"held": 5}
    assert all(row.stored_text for row in store.interactions())


def test_feedback_on_a_row_without_text_loses_its_own(store: Store, keep: Any) -> None:
    store.add_interactions([make("quiet", stored_text=False, held=False, kept_because="feedback")])
    say(store, "quiet", reason="some words")
    run(store, keep(flagged={"text_days": 1}), NOON + 3 * DAYS)
    assert [row.reason for _, row in store.feedback()] == [None]


def test_text_that_comes_after_its_time_goes_too(store: Store, keep: Any) -> None:
    settled_rows(store, 3)
    settings = keep(flagged={"text_days": 1})
    run(store, settings, NOON + 3 * DAYS)
    say(store, "f1", reason="late words")
    assert "late words" in [row.reason for _, row in store.feedback()]
    run(store, settings, NOON + 4 * DAYS)
    assert {row.reason for _, row in store.feedback(row_ids=["f1"])} == {None}


# -- kinds -------------------------------------------------------------------------------


def test_what_is_said_later_raises_the_kind(store: Store, keep: Any) -> None:
    fill(store, 30, "s", held=False, kept_because="sample", inclusion_probability=0.25)
    tag(store, "s1")
    say(store, "s2")
    tag(store, "s3")
    say(store, "s3")
    correct(store, "s3")
    list(raise_kinds(store))
    found = kept(store)
    assert [found[f"s{n}"].kept_because for n in range(4)] == [
        "sample",
        "tagged",
        "feedback",
        "corrected",
    ]
    # How it came to be there is another matter: its weight is what it was.
    assert {row.inclusion_probability for row in found.values()} == {0.25}
    tag(store, "s2")
    say(store, "s3", rating="up")
    list(raise_kinds(store))
    assert [kept(store)[f"s{n}"].kept_because for n in (2, 3)] == ["feedback", "corrected"]
    run(store, keep(sampled={"text_days": 1}), NOON + 3 * DAYS)
    assert {row.row_id for row in store.interactions() if row.stored_text} == {"s1", "s2", "s3"}


# -- text by bytes -----------------------------------------------------------------------


def test_the_oldest_text_beyond_the_cap_goes(store: Store, keep: Any) -> None:
    for hour in range(10):
        kind = ("feedback", "tagged", "low_confidence")[hour % 3]
        fill(store, 4, f"f{hour}-", hour=NOON + hour, held=False, kept_because=kind)
    fill(store, 4, "s", hour=NOON - 99, held=False, kept_because="sample")
    size = sum(row.bytes for row in kept(store).values() if row.kept_because != "sample")
    most = size // 2
    run(store, keep(flagged={"text_mib": most / 2**20}), NOON + 20)
    rows = sorted(kept(store).values(), key=lambda row: row.ts)
    flagged = [row for row in rows if row.kept_because != "sample"]
    gone = [row for row in flagged if not row.stored_text]
    assert gone == flagged[: len(gone)]  # the oldest, whatever flagged them
    left = sum(row.bytes for row in flagged)
    assert left <= most < left + max(row.bytes for row in flagged)
    assert all(row.stored_text for row in rows if row.kept_because == "sample")


def test_rows_without_text_take_no_room(store: Store, keep: Any) -> None:
    fill(store, 10, held=False, kept_because="all", stored_text=False)
    run(store, keep(sampled={"text_mib": 1e-9}), NOON + 20)
    assert reasons(store) == {"all": 10}


# -- rows --------------------------------------------------------------------------------


def test_a_row_goes_with_all_that_was_said_and_leaves_its_numbers(store: Store, keep: Any) -> None:
    settled_rows(store)
    say(store, "f0", rating="up", score=0.25, regenerate=True, report=True, success=False)
    say(store, "f1", rating=None, success=True)
    tag(store, "t0", "other")
    before = everything(store)
    times = {"row_days": 5}
    run(store, keep(sampled=times, flagged=times, corrected=times), NOON + 5 * DAYS + 1)
    assert kept(store) == {}
    for table in (tables.feedback, tables.tags, tables.corrections):
        assert table_rows(store, table) == 0
    after = everything(store)
    said = {
        "feedback": 42,
        "feedback:down": 40,
        "feedback:up": 1,
        "feedback:negative": 41,
        "feedback:regenerate": 1,
        "feedback:report": 1,
        "feedback:failure": 1,
        "feedback:success": 1,
        "tag:odd": 20,
        "tag:other": 1,
        "corrections": 20,
    }
    assert {name: after.counts[name] for name in said} == said
    same(after, before, but=said)
    assert store.counts() == {"support@v1": 100}


def test_a_row_of_a_frozen_dataset_stays_without_its_text(store: Store, keep: Any) -> None:
    settled_rows(store)
    store.add_dataset(
        DatasetRecord(
            dataset_id="d",
            ts=0.0,
            alias="support",
            path="runs/1",
            pairs=2,
            row_ids=["c3", "c4"],
        )
    )
    run(store, keep(corrected={"row_days": 5}), NOON + 6 * DAYS)
    assert {row_id for row_id in kept(store) if row_id.startswith("c")} == {"c3", "c4"}
    assert with_text(store)["c"] == 0
    assert store.corrections() == {}
    run(store, keep(corrected={"row_days": 5}), NOON + 9 * DAYS)
    assert {row_id for row_id in kept(store) if row_id.startswith("c")} == {"c3", "c4"}


# -- ending anywhere ---------------------------------------------------------------------


def test_ended_after_any_step_and_begun_again(store: Store, keep: Any) -> None:
    settled_rows(store, 15)
    before = everything(store)
    said = {name for name in ("feedback", "feedback:down", "feedback:negative", "tag:odd")}
    said |= {"corrections", "stored_text"}
    settings = keep(
        sampled={"row_days": 5}, flagged={"text_days": 5, "row_days": 50}, corrected={"row_days": 5}
    )
    for length in itertools.count(1):
        done = list(itertools.islice(retention(store, settings, Clock(NOON + 150)), length))
        same(everything(store), before, but=said)
        # What was said about a row is there as long as the row, or counted.
        counted = everything(store).counts.get("corrections", 0)
        assert counted + table_rows(store, tables.corrections) == 15
        if len(done) < length:
            break
    assert length > 3
    assert with_text(store) == dict.fromkeys(KINDS, 0)
    assert reasons(store) == {"feedback": 15, "tagged": 15, "low_confidence": 15}


@pytest.mark.parametrize(
    "statement", ["DELETE FROM interactions", "DELETE FROM tags", "UPDATE corrections"]
)
def test_an_error_inside_a_transaction_changes_nothing(
    store: Store, keep: Any, statement: str
) -> None:
    settled_rows(store, 5)
    before = everything(store)
    failing = [True]

    def fail(conn, cursor, sql, parameters, context, executemany):  # type: ignore[no-untyped-def]
        if failing[0] and sql.startswith(statement):
            raise RuntimeError("the process ends here")

    sa.event.listen(store.engine, "before_cursor_execute", fail)
    settings = keep(sampled={"row_days": 5}, corrected={"text_days": 5})
    with pytest.raises(RuntimeError):
        run(store, settings, NOON + 150)
    after = everything(store)
    assert after.rows == before.rows
    failing[0] = False
    run(store, settings, NOON + 150)
    same(everything(store), before, but=["stored_text"])
    assert {row_id[0] for row_id in kept(store)} == {"f", "t", "l", "c"}
    assert with_text(store)["c"] == 0


# -- at size, and by the writer ----------------------------------------------------------


@pytest.mark.sqlite
def test_every_query_goes_by_an_index(
    store: Store, keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "CHUNK", 500)
    settled_rows(store, 15)
    times = {"text_days": 5, "text_mib": 0.001, "row_days": 7}
    settings = keep(sampled=times, flagged=times, corrected=times)
    for days in (0, 6, 8):
        check_plans(store, lambda days=days: run(store, settings, NOON + days * DAYS))
    assert kept(store) == {}


def test_housekeeping_does_it_in_steps(store: Store, keep: Any) -> None:
    settled_rows(store, 15)
    housekeeping = Housekeeping(store, keep(flagged={"row_days": 5}), Clock(NOON + 150))
    for _ in range(100):
        housekeeping.step()
    assert housekeeping.due() > 0
    assert reasons(store) == {"sample": 15, "corrected": 15}
