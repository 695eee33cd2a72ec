"""The numbers of rows that are gone: nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import math
import random

import pytest
import sqlalchemy as sa
from kept_rows import NOON, check_plans, everything, fill, kept, make, same

from ledger.database import tables
from ledger.keeping.histogram import Histogram
from ledger.keeping.rollups import Gone, Group, Measure, Stats, hour_of, totals
from ledger.store import Store


def let_go(store: Store, row_ids: list[str]) -> None:
    """Delete rows, as the passes do."""
    with store.transaction() as connection:
        gone = Gone()
        table = tables.interactions
        for row in connection.execute(sa.select(table).where(table.c.row_id.in_(row_ids))):
            gone.add(row)
        gone.save(connection)
        connection.execute(sa.delete(table).where(table.c.row_id.in_(row_ids)))


# -- histograms --------------------------------------------------------------------------


def test_a_quantile_is_off_by_less_than_a_bucket() -> None:
    draw = random.Random(1)
    values = sorted(draw.lognormvariate(0, 2) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        truth = values[round(share * len(values))]
        assert histogram.quantile(share) == pytest.approx(truth, rel=0.1)
    assert histogram.quantile(0) <= values[0]
    assert histogram.quantile(1) >= values[-1]


def test_every_number_has_a_bucket_round_it() -> None:
    for value in (1e-8, 0.1, 0.5, 1.0, 1.09, 2.0, 1e6):
        histogram = Histogram()
        histogram.add(value)
        (bucket,) = histogram.buckets()
        assert bucket.low <= value < bucket.high
    histogram = Histogram()
    for value in (0.0, -1.0, 1e-300, 1e300, math.nan, math.inf, -math.inf):
        histogram.add(value)
    assert histogram.count == 4
    assert histogram.buckets()[0].low == 0.0
    with pytest.raises(ValueError, match="nothing"):
        Histogram().quantile(0.5)


def test_histograms_merge_and_survive_json() -> None:
    draw = random.Random(2)
    parts, whole = [Histogram() for _ in range(3)], Histogram()
    for number in range(300):
        value = draw.expovariate(1)
        parts[number % 3].add(value)
        whole.add(value)
    merged = Histogram.merged(Histogram.load(json.loads(json.dumps(p.dump()))) for p in parts)
    assert merged.dump() == whole.dump()


def test_a_measure_leaves_out_what_is_no_number() -> None:
    measure = Measure()
    assert measure.mean is None
    for value in (1.0, None, math.nan, math.inf, 3.0):
        measure.add(value)
    assert (measure.count, measure.sum, measure.squares, measure.mean) == (2, 4.0, 10.0, 2.0)


# -- rollups -----------------------------------------------------------------------------


def test_a_total_is_the_same_however_many_rows_are_gone(store: Store) -> None:
    for hour in (NOON, NOON + 1):
        fill(store, 40, f"a{hour}-", hour=hour)
        fill(store, 20, f"b{hour}-", hour=hour, version="support@v2", arm="candidate")
        fill(store, 20, f"c{hour}-", hour=hour, alias=None, arm="pinned", mean_logprob=None)
    before, by_group = everything(store), totals(store)
    row_ids = sorted(kept(store))
    random.Random(4).shuffle(row_ids)
    while row_ids:
        gone, row_ids = row_ids[:37], row_ids[37:]
        let_go(store, gone)
        same(everything(store), before)
    for group, stats in totals(store).items():
        same(stats, by_group[group])
    assert set(by_group) == {
        Group("support", "support@v1", "live"),
        Group("support", "support@v2", "candidate"),
        Group(None, "support@v1", "pinned"),
    }
    with store.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.rollups)) == 6
    assert store.counts() == {"support@v1": 120, "support@v2": 40}
    assert store.counts("support") == {"support@v1": 80, "support@v2": 40}


def test_totals_of_some_hours_and_versions(store: Store) -> None:
    for hour in range(4):
        fill(store, 10, f"h{hour}-", hour=NOON + hour)
        fill(store, 5, f"v{hour}-", hour=NOON + hour, version="support@v2", alias="other")
    let_go(store, [f"h{hour}-{number}" for hour in range(4) for number in range(5)])
    assert sum(s.rows for s in totals(store, since=NOON + 1, until=NOON + 3).values()) == 30
    assert sum(s.rows for s in totals(store, version="support@v1").values()) == 40
    assert sum(s.rows for s in totals(store, alias="other", until=NOON + 1).values()) == 5


def test_what_the_numbers_are(store: Store) -> None:
    fields = {"prompt_tokens": 3, "completion_tokens": 2, "latency_ms": 8.0, "ttft_ms": None}
    rows = [
        make("a", mean_logprob=-0.5, finish_reason="stop", **fields),
        make("b", mean_logprob=-1.5, finish_reason=None, stored_text=False, **fields),
    ]
    store.add_interactions(rows)
    let_go(store, ["a", "b"])
    stats = everything(store)
    assert stats.rows == 2
    assert stats.counts == {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "stored_text": 1,
        "finish:stop": 1,
        "finish:None": 1,
    }
    surprise = stats.measures["surprise"]
    assert (surprise.count, surprise.sum, surprise.squares) == (2, 2.0, 2.5)
    assert stats.measures["latency_ms"].mean == 8.0
    assert stats.measures["ttft_ms"].mean is None
    assert kept(store) == {}


def test_stats_survive_json() -> None:
    stats = Stats()
    stats.count("tag:ä")
    stats.measures["ttft_ms"].add(3.25)
    stats.rows = 1
    same(Stats.loads(1, stats.dumps()), stats)


def test_hours() -> None:
    assert hour_of(0.0) == 0
    assert hour_of(3599.999) == 0
    assert hour_of(3600.0) == 1
    assert hour_of(-0.5) == -1


@pytest.mark.sqlite
def test_saving_goes_by_an_index(store: Store) -> None:
    fill(store, 20)
    let_go(store, ["r0"])
    with store.transaction() as connection:
        rows = connection.execute(sa.select(tables.interactions)).all()

    def save() -> None:
        gone = Gone()
        gone.add(rows[0])
        with store.transaction() as connection:
            gone.save(connection)

    check_plans(store, save)
