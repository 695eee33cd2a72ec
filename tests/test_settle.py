"""Held rows: none of interest is lost, the others are sampled within the budget, all count."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import MakeSettings
from curate_versions import write_key
from kept_rows import (
    DAY,
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

from curate.tagging.sweep import sweep
from eval.estimate import mean, total
from ledger.database import tables
from ledger.keeping import settle as settle_module
from ledger.keeping.confidence import newest
from ledger.keeping.housekeeping import Housekeeping
from ledger.keeping.sampling import bottom_k, sample_key
from ledger.keeping.settle import Held, Settle, held
from ledger.keys.vault import Vault
from ledger.records import Correction
from ledger.settings import Settings
from ledger.store import Store

Decide = Callable[..., Settle]


@pytest.fixture
def decide(store: Store, make_settings: MakeSettings) -> Decide:
    """Run one whole pass at an hour, with settings of sampling."""

    def run(hour: float, settings: Settings | None = None, **sampling: Any) -> Settle:
        settings = settings or make_settings(sampling=sampling)
        settle = Settle(store, settings, Clock(hour))
        for _ in settle.steps():
            pass
        return settle

    return run


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle_module, "CHUNK", 50)
    monkeypatch.setattr(settle_module, "_SCAN", 70)


def thresholds(store: Store) -> dict[tuple[int, str], float]:
    with store.reading() as connection:
        return {(row.hour, row.version): row.threshold for row in connection.execute(
            sa.select(tables.settled)
        )}  # fmt: skip


# -- when --------------------------------------------------------------------------------


def test_nothing_is_decided_within_the_hold_back(store: Store, decide: Decide) -> None:
    fill(store, 100)
    decide(NOON + 1 + 23.9)
    assert reasons(store) == {"held": 100}
    assert all(row.held and row.inclusion_probability == 1 for row in kept(store).values())
    decide(NOON + 1 + 24)
    assert reasons(store) == {"sample": 5}
    assert not any(row.held for row in kept(store).values())


def test_a_clock_that_goes_backwards_decides_nothing_early(store: Store, decide: Decide) -> None:
    fill(store, 10)
    decide(DAY - 1000)
    assert reasons(store) == {"held": 10}


def test_late_feedback_finds_its_row(store: Store, decide: Decide) -> None:
    fill(store, 200)
    say(store, "r7", rating="up")
    tag(store, "r8", "drift_window")
    store.add_correction(
        Correction(
            row_id="r9", ts=0.0, source="operator", author="ada", text="x", decision="accepted"
        )
    )
    say(store, "r9")
    decide(NOON + 25)
    found = kept(store)
    assert {i: found[i].kept_because for i in ("r7", "r8", "r9")} == {
        "r7": "feedback",
        "r8": "tagged",
        "r9": "corrected",
    }
    assert {found[i].inclusion_probability for i in ("r7", "r8", "r9")} == {1.0}
    assert reasons(store)["sample"] == math.ceil(0.05 * 197)


def test_feedback_between_the_decision_and_its_turn_counts(
    store: Store, make_settings: MakeSettings
) -> None:
    fill(store, 200)
    steps = Settle(store, make_settings(sampling={"share": 0.01}), Clock(NOON + 25)).steps()
    while not thresholds(store):
        next(steps)
    (threshold,) = thresholds(store).values()
    last = max(kept(store).values(), key=lambda row: row.ts)
    assert last.held
    assert last.sample_key > threshold
    say(store, last.row_id)
    for _ in steps:
        pass
    assert kept(store)[last.row_id].kept_because == "feedback"


def test_feedback_for_a_row_that_was_let_go_finds_nothing(store: Store, decide: Decide) -> None:
    fill(store, 10)
    decide(NOON + 25, share=0)
    assert store.row_id("r3") is None
    assert held(store) == Held(0, 0, None, 0)


# -- which -------------------------------------------------------------------------------


def test_the_sample_is_the_smallest_keys_and_says_how_likely_it_was(
    store: Store, settings: Settings, decide: Decide
) -> None:
    rows = fill(store, 300)
    decide(NOON + 25, share=0.1)
    vault = Vault.open(settings.privacy.key_file)
    expected = bottom_k([(sample_key(vault, row.row_id), row.row_id) for row in rows], 30)
    found = kept(store)
    assert set(found) == {row_id for _, row_id in expected.rows}
    assert {row.inclusion_probability for row in found.values()} == {expected.threshold}
    assert thresholds(store) == {(NOON, "support@v1"): expected.threshold}


def test_everything_stays_where_the_share_is_all(store: Store, decide: Decide) -> None:
    fill(store, 20)
    decide(NOON + 25, share=1)
    assert reasons(store) == {"sample": 20}
    assert {row.inclusion_probability for row in kept(store).values()} == {1.0}


def test_nothing_stays_where_the_share_is_nothing(store: Store, decide: Decide) -> None:
    fill(store, 20)
    say(store, "r3")
    decide(NOON + 25, share=0)
    assert reasons(store) == {"feedback": 1}
    assert everything(store).rows == 20


def test_a_canary_has_a_sample_of_its_own(store: Store, decide: Decide) -> None:
    fill(store, 380)
    fill(store, 20, "c", version="support@v2", arm="candidate")
    decide(NOON + 25)
    versions = [row.version for row in kept(store).values()]
    # 19 + 1 rows in all; by size the canary would have 1.
    assert len(versions) == 20
    assert versions.count("support@v2") == 4


def test_a_row_that_comes_late_meets_the_same_threshold(store: Store, decide: Decide) -> None:
    fill(store, 200)
    decide(NOON + 25, share=0.2)
    before = thresholds(store)
    (threshold,) = before.values()
    fill(store, 300, "late")
    decide(NOON + 26, share=0.2)
    assert thresholds(store) == before
    late = [row for row_id, row in kept(store).items() if row_id.startswith("late")]
    assert late
    assert all(row.sample_key < threshold for row in late)
    assert {row.inclusion_probability for row in late} == {threshold}
    assert everything(store).rows == 500


def test_a_version_that_comes_late_gets_a_threshold(store: Store, decide: Decide) -> None:
    fill(store, 50)
    decide(NOON + 25)
    fill(store, 50, "late", version="support@v2")
    decide(NOON + 26)
    assert set(thresholds(store)) == {(NOON, "support@v1"), (NOON, "support@v2")}
    assert reasons(store) == {"sample": 6}


# -- low confidence ----------------------------------------------------------------------


def test_low_confidence_stays(store: Store, decide: Decide) -> None:
    fill(store, 50)
    fill(store, 5, "unsure", mean_logprob=-3.5)
    fill(store, 5, "edge", mean_logprob=-3.0)
    fill(store, 5, "mute", mean_logprob=None)
    decide(NOON + 25, share=0)
    assert set(kept(store)) == {f"unsure{number}" for number in range(5)}


def test_low_confidence_by_the_versions_own_percent(
    store: Store, make_settings: MakeSettings, decide: Decide
) -> None:
    settings = make_settings(curate={"low_confidence_percent": 10}, sampling={"share": 0})
    # A version sure of itself, and one that never is: a fixed threshold would see one only.
    for number in range(300):
        sure, vague = -0.001 * (1 + number), -4 - 0.01 * number
        store.add_interactions(
            [
                make(f"sure{number}", mean_logprob=sure),
                make(f"vague{number}", version="support@v2", mean_logprob=vague),
            ]
        )
    fill(store, 30, "new", version="support@v3", mean_logprob=-0.1)
    decide(NOON + 25, settings)
    found = sorted(kept(store))
    # The histogram's buckets are 9 % apart: 30 of each, give or take what lies in one.
    least_sure = [int(i[4:]) for i in found if i.startswith("sure")]
    vaguest = [int(i[5:]) for i in found if i.startswith("vague")]
    assert sorted(least_sure) == list(range(300 - len(least_sure), 300))
    assert sorted(vaguest) == list(range(300 - len(vaguest), 300))
    assert 25 <= len(least_sure) <= 35
    assert 25 <= len(vaguest) <= 35
    # v3 said too little: the fixed threshold holds.
    assert len(found) == len(least_sure) + len(vaguest)
    # The sweep tags the very same rows.
    report = sweep(settings, store)
    assert report.tags == {"low_confidence": len(found)}


def test_the_sweep_goes_by_the_weeks_distribution(
    store: Store, make_settings: MakeSettings, decide: Decide
) -> None:
    settings = make_settings(curate={"low_confidence_percent": 5})
    fill(store, 400)  # mean logprobs even between -1 and 0
    decide(NOON + 25, settings)
    sweep(settings, store)
    fill(store, 1, "low", hour=NOON + 30, mean_logprob=-0.99)
    fill(store, 1, "usual", hour=NOON + 30, mean_logprob=-0.9)
    fill(store, 1, "later", hour=NOON + 300, mean_logprob=-0.99)
    assert sweep(settings, store).tags == {"low_confidence": 1}
    assert list(store.tags(["low0", "usual0", "later0"])) == ["low0"]


# -- caps --------------------------------------------------------------------------------


def test_rows_a_day_are_capped_and_no_hour_goes_without(store: Store, decide: Decide) -> None:
    for hour in range(24):
        fill(store, 60, f"h{hour}-", hour=DAY + hour)
    decide(DAY + 49, share=0.5, max_rows_a_day=48)
    assert reasons(store) == {"sample": 48}
    hours = sorted(int(row.ts // 3600) - DAY for row in kept(store).values())
    assert hours == sorted([*range(24), *range(24)])
    assert everything(store).rows == 24 * 60


def test_what_an_hour_does_not_need_goes_to_later_ones(store: Store, decide: Decide) -> None:
    fill(store, 200, hour=DAY + 23)
    decide(DAY + 49, share=0.5, max_rows_a_day=48)
    assert reasons(store) == {"sample": 48}


def test_bytes_a_day_are_capped(store: Store, decide: Decide) -> None:
    fill(store, 100, hour=DAY + 23, text="word " * 100)
    size = max(row.bytes for row in kept(store).values())
    decide(DAY + 49, share=1, max_mib_a_day=10 * size / 2**20)
    assert sum(row.bytes for row in kept(store).values()) <= 10 * size
    assert 10 <= reasons(store)["sample"] <= 13
    assert len({row.inclusion_probability for row in kept(store).values()}) == 1


def test_a_cap_never_costs_a_row_of_interest(store: Store, decide: Decide) -> None:
    fill(store, 50)
    for number in range(10):
        say(store, f"r{number}")
    decide(NOON + 25, max_rows_a_day=0)
    assert reasons(store) == {"feedback": 10}


def test_too_much_held_text_settles_the_oldest_hours_early(store: Store, decide: Decide) -> None:
    for hour in range(4):
        fill(store, 40, f"h{hour}-", hour=NOON + hour, text="word " * 200)
    size = sum(row.bytes for row in kept(store).values())
    settle = decide(NOON + 4.5, hold_mib=size * 0.6 / 2**20)
    hours = {int(row.ts // 3600) for row in kept(store).values() if row.held}
    assert hours == {NOON + 2, NOON + 3}
    assert settle.early == 2
    with store.reading() as connection:
        early = list(connection.scalars(sa.select(tables.settled.c.early)))
    assert early == [True, True]
    waiting = held(store)
    assert (waiting.rows, waiting.early) == (80, 2)
    assert waiting.bytes == sum(row.bytes for row in kept(store).values() if row.held)
    assert waiting.oldest == min(row.ts for row in kept(store).values() if row.held)
    assert everything(store).rows == 160


def test_an_hour_that_is_not_over_is_not_settled_early(store: Store, decide: Decide) -> None:
    fill(store, 40, text="word " * 200)
    decide(NOON + 1.01, hold_mib=0.0001)
    assert reasons(store) == {"held": 40}
    decide(NOON + 1.2, hold_mib=0.0001)
    assert reasons(store) == {"sample": 2}


# -- ending anywhere ---------------------------------------------------------------------


def test_ended_after_any_step_and_begun_again(store: Store, make_settings: MakeSettings) -> None:
    """Each pass is dropped after one more step than the one before, as a killed process would."""
    for hour in (NOON, NOON + 1):
        fill(store, 130, f"a{hour}-", hour=hour)
        fill(store, 30, f"b{hour}-", hour=hour, version="support@v2", alias=None)
    for number in range(0, 130, 9):
        say(store, f"a{NOON}-{number}")
    before = everything(store)
    settings = make_settings(sampling={"share": 0.1})
    chosen: dict[tuple[int, str], float] = {}
    for length in itertools.count(1):
        pieces = list(itertools.islice(Settle(store, settings, Clock(NOON + 30)).steps(), length))
        same(everything(store), before)
        assert chosen.items() <= thresholds(store).items()
        chosen = thresholds(store)
        if len(pieces) < length:
            break
    assert length > 3
    assert reasons(store)["held"] == 0
    assert reasons(store)["feedback"] == 15
    assert reasons(store)["sample"] == sum(
        math.ceil(0.1 * count) for count in (130 - 15, 30, 130, 30)
    )


_CHILD = """
import sys
from ledger.settings import Settings
from ledger.keeping.settle import Settle
from ledger.store import Store

settings = Settings.model_validate_json(sys.argv[1])
for _ in Settle(Store.open(settings), settings, lambda: float(sys.argv[2])).steps():
    print(flush=True)
"""


def test_killed_again_and_again(store: Store, make_settings: MakeSettings) -> None:
    fill(store, 2500)
    for number in range(0, 2500, 100):
        say(store, f"r{number}")
    before, settings = everything(store), make_settings()
    arguments = [settings.model_dump_json(), str((NOON + 30) * 3600)]
    ended = 0
    for steps in itertools.count(1, 2):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = sum(1 for _ in itertools.islice(child.stdout, steps))
        child.kill()  # somewhere in the step after
        child.communicate()
        same(everything(store), before)
        ended += 1
        if lines < steps:
            break
    assert ended > 2
    assert reasons(store) == {"feedback": 25, "sample": math.ceil(0.05 * 2475)}


@pytest.mark.parametrize("statement", ["DELETE", "UPDATE", "INSERT"])
def test_an_error_inside_a_transaction_changes_nothing(
    store: Store, make_settings: MakeSettings, statement: str
) -> None:
    fill(store, 130)
    before = everything(store)
    settings = make_settings()
    failing = [True]

    def fail(conn, cursor, sql, parameters, context, executemany):  # type: ignore[no-untyped-def]
        if failing[0] and sql.startswith(statement):
            raise RuntimeError("the process ends here")

    sa.event.listen(store.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError):
        list(Settle(store, settings, Clock(NOON + 30)).steps())
    same(everything(store), before)
    failing[0] = False
    list(Settle(store, settings, Clock(NOON + 30)).steps())
    same(everything(store), before)
    assert reasons(store) == {"sample": 7}


def test_two_at_once_do_it_once(store: Store, make_settings: MakeSettings) -> None:
    fill(store, 200)
    before, settings = everything(store), make_settings()
    one = Settle(store, settings, Clock(NOON + 30)).steps()
    two = Settle(store, settings, Clock(NOON + 30)).steps()
    for _ in itertools.zip_longest(one, two):
        same(everything(store), before)
    assert reasons(store) == {"sample": 10}


# -- estimates ---------------------------------------------------------------------------


def test_estimates_from_what_is_kept(store: Store, settings: Settings, decide: Decide) -> None:
    """Totals within what their own error allows, over twenty hours with keys of their own."""
    write_key(settings.privacy.key_file)  # it draws the sample: the same in each run
    rows = []
    for hour in range(20):
        rows += fill(store, 150, f"h{hour}-", hour=NOON + hour)
        for number in range(0, 150, 10):
            say(store, f"h{hour}-{number}")
    decide(NOON + 60, share=0.1)
    found = list(kept(store).values())
    p = [row.inclusion_probability for row in found]
    assert len(found) < 0.25 * len(rows)
    tokens = total([row.prompt_tokens for row in found], p, confidence=0.999)
    assert tokens.low < sum(row.prompt_tokens for row in rows) < tokens.high
    count = total([1.0] * len(found), p, confidence=0.999)
    assert count.low < len(rows) < count.high
    surprise = mean([-row.mean_logprob for row in found], p, confidence=0.999)
    assert surprise.low < sum(-(row.mean_logprob or 0) for row in rows) / len(rows) < surprise.high
    said = newest(store, "support@v1")
    assert -mean(*zip(*said, strict=True)).value == pytest.approx(surprise.value)
    assert newest(store, "support@v1", 3) == said[:3]
    complained = [float(row.kept_because == "feedback") for row in found]
    assert mean(complained, p).value == pytest.approx(0.1, rel=0.2)
    assert sum(complained) / len(found) > 0.4  # what the sample alone would say


# -- at size ---------------------------------------------------------------------------


@pytest.mark.sqlite
def test_every_query_goes_by_an_index(
    store: Store, make_settings: MakeSettings, settings: Settings
) -> None:
    fill(store, 200)
    say(store, "r1")
    tight = make_settings(
        sampling={"hold_mib": 0.001, "max_rows_a_day": 100},
        curate={"low_confidence_percent": 5},
    )
    check_plans(store, lambda: list(Settle(store, tight, Clock(NOON + 2)).steps()))
    assert reasons(store) == {"feedback": 1, "low_confidence": 11, "sample": 10}


def test_housekeeping_does_it_in_steps(store: Store, settings: Settings) -> None:
    fill(store, 120)
    housekeeping = Housekeeping(store, settings, Clock(NOON + 30))
    assert housekeeping.due() <= 0
    for _ in range(40):
        housekeeping.step()
    assert housekeeping.due() > 0
    assert reasons(store) == {"sample": 6}


def test_one_chore_that_fails_does_not_stop_the_others(
    store: Store, make_settings: MakeSettings
) -> None:
    fill(store, 20)
    fill(store, 20, "old", held=False, kept_because="sample")
    settings = make_settings(retention={"sampled": {"row_days": 1}})

    def fail(conn, cursor, sql, parameters, context, executemany):  # type: ignore[no-untyped-def]
        if "FROM settled" in sql:
            raise RuntimeError("no decision can be made")

    sa.event.listen(store.engine, "before_cursor_execute", fail)
    housekeeping = Housekeeping(store, settings, Clock(NOON + 100))
    for _ in range(20):
        with contextlib.suppress(RuntimeError):
            housekeeping.step()
    assert reasons(store) == {"held": 20}
