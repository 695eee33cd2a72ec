"""What the pages read: searches against a look at every row, numbers against the ledger's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import review_rows
import sqlalchemy as sa
from review_rows import NOW, add, let_go, of_cluster

from curate.review.looks import live, search, series
from curate.review.looks.search import Cursor, Filter
from curate.review.pages.rows import wanted_of
from ledger.database import tables
from ledger.records import Feedback, Interaction
from ledger.settings import Settings
from ledger.store import Store

ROWS = 300


@pytest.fixture
def ids(settings: Settings, store: Store) -> list[str]:
    """A full ledger; ids of its rows, oldest first."""
    return review_rows.fill(settings, store, NOW, ROWS)


# -- finding rows ------------------------------------------------------------------------------


def test_filters_find_what_a_look_at_every_row_finds(store: Store, ids: list[str]) -> None:
    rows = list(store.interactions())
    tags, last = store.tags(ids), store.corrections()
    said: dict[str, list[Feedback]] = {}
    for _, one in store.feedback():
        said.setdefault(one.row_id, []).append(one)
    with store.reading() as connection:
        query = sa.select(tables.cluster_rows.c.row_id).where(tables.cluster_rows.c.cluster == 1)
        clustered = set(connection.scalars(query))
    day = NOW - 5 * review_rows.DAY

    def tagged(row: Interaction, tag: str) -> bool:
        return any(one.tag == tag for one in tags.get(row.row_id, []))

    cases: list[tuple[Filter, Any]] = [
        (Filter(), lambda row: True),
        (Filter(tag="user_edit"), lambda row: tagged(row, "user_edit")),
        (Filter(version="support@v3"), lambda row: row.version == "support@v3"),
        (Filter(since=day, until=day + 86400), lambda row: day <= row.ts < day + 86400),
        (Filter(low=-1.0, high=-0.5), lambda row: -1.0 <= row.mean_logprob <= -0.5),
        (Filter(cluster=1), lambda row: row.row_id in clustered),
        (Filter(correction="any"), lambda row: row.row_id in last),
        (
            Filter(correction="proposed"),
            lambda row: row.row_id in last and last[row.row_id].decision == "proposed",
        ),
        (Filter(feedback="any"), lambda row: row.row_id in said),
        (
            Filter(feedback="negative"),
            lambda row: any(one.negative for one in said.get(row.row_id, [])),
        ),
        (
            Filter(feedback="any", version="base", high=-0.1, cluster=0),
            lambda row: (
                row.row_id in said
                and row.version == "base"
                and row.mean_logprob <= -0.1
                and row.row_id in of_cluster(store, 0)
            ),
        ),
        (
            Filter(text="PARCEL", correction="any"),
            lambda row: row.row_id in last and "parcel" in search.words_of(row).casefold(),
        ),
    ]
    for wanted, fits in cases:
        expected = [row.row_id for row in rows if fits(row)]
        assert expected, wanted
        found = search.find(store, "support", wanted, limit=ROWS)
        assert [hit.row_id for hit in found.hits] == expected[::-1], wanted
        assert found.older is None


@pytest.mark.parametrize("wanted", [Filter(), Filter(tag="user_negative"), Filter(cluster=0),
                                    Filter(text="refund"), Filter(high=-0.3)])  # fmt: skip
@pytest.mark.sqlite
def test_pages_show_every_row_once(store: Store, ids: list[str], wanted: Filter) -> None:
    with store.transaction() as connection:  # equal times, as a batch may have
        rows = tables.interactions
        change = sa.update(rows).where(rows.c.row_id.in_(ids[100:140])).values(ts=NOW - 14 * 86400)
        connection.execute(change)
        lines = tables.cluster_rows
        change = sa.update(lines).where(lines.c.row_id.in_(ids[100:140]))
        connection.execute(change.values(ts=NOW - 14 * 86400))
    everything = search.find(store, "support", wanted, limit=ROWS).hits
    assert len(everything) > 14
    for window, opened in ((50_000, 1000), (40, 1000), (50_000, 11)):
        seen, place = [], None
        for _ in range(200):
            found = search.find(
                store, "support", wanted, place, limit=7, window=window, open_=opened
            )
            seen += found.hits
            place = found.older
            if place is None:
                break
            assert Cursor.parse(str(place)) == place
        assert seen == everything


@pytest.mark.sqlite
def test_how_far_a_search_looked_is_said(store: Store, ids: list[str]) -> None:
    found = search.find(store, "support", Filter(high=-1000.0), window=100)
    assert (found.hits, found.older is not None) == ([], True)
    assert found.back_to == store.interaction(ids[-101]).ts
    words = search.find(store, "support", Filter(text="no such words"), open_=60)
    assert (words.hits, words.opened) == ([], 60)
    assert words.back_to == store.interaction(ids[-60]).ts


@pytest.mark.sqlite
def test_no_search_reads_all_answers(settings: Settings, store: Store, ids: list[str]) -> None:
    asked: list[tuple[str, Any]] = []

    def note(conn, cursor, sql, parameters, context, executemany):  # type: ignore[no-untyped-def]
        asked.append((sql, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    for wanted in (
        Filter(), Filter(high=-2.0), Filter(version="support@v1", low=-9.0), Filter(cluster=2),
        Filter(since=NOW - 86400, until=NOW), Filter(tag="user_edit"), Filter(correction="any"),
        Filter(correction="proposed", high=-0.5), Filter(feedback="negative"), Filter(text="a"),
    ):  # fmt: skip
        search.find(store, "support", wanted, Cursor(NOW, 5))
    names = {"base": "base", "support@v2": "v2"}
    series.over(settings, store, "support", names, series.window(30, NOW))
    sa.event.remove(store.engine, "before_cursor_execute", note)
    plans = []
    with store.reading() as connection:
        for sql, parameters in asked:
            if "interactions" in sql and sql.startswith("SELECT"):
                found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
                plans += [(step[3], sql) for step in found if "interactions" in step[3]]
    assert len(plans) > 70
    assert not [step for step, _ in plans if "SCAN" in step]
    # Feedback and tags are the few: what they are about is looked up from there.
    said = {step for step, sql in plans if "feedback JOIN" in sql or "tags JOIN" in sql}
    assert said == {"SEARCH interactions USING INDEX sqlite_autoindex_interactions_1 (row_id=?)"}


def test_fields_of_the_form_are_read_or_named() -> None:
    given = {"from": "2025-11-01", "to": "2025-11-02", "low": "−1,5", "cluster": "3"}
    wanted, problems = wanted_of(given)
    start = datetime(2025, 11, 1, tzinfo=UTC).timestamp()
    assert (wanted.since, wanted.until) == (start, start + 2 * 86400)
    assert (wanted.low, wanted.cluster, problems) == (-1.5, 3, [])
    wrong = {"from": "yesterday", "to": "9999-12-31", "high": "nan", "cluster": "-1",
             "correction": "maybe", "feedback": "x"}  # fmt: skip
    wanted, problems = wanted_of(wrong)
    assert wanted == Filter()
    assert [line.partition(":")[0] for line in problems] == list(wrong)


# -- numbers over time -------------------------------------------------------------------------


def test_numbers_over_time_are_those_of_the_ledger(
    settings: Settings, store: Store, ids: list[str]
) -> None:
    span = series.window(30, NOW)
    state, events = live.history(store, "support")
    names = series.names(settings, "support", events)
    assert list(names.values()) == ["base", "v1", "v2", "v3"]
    before = {one.name: one for one in series.over(settings, store, "support", names, span)}
    said: dict[str, bool] = {}
    for _, one in store.feedback():
        said[one.row_id] = said.get(one.row_id, False) or one.negative
    tags = store.tags(ids)
    for name, over in before.items():
        rows = [row for row in store.interactions(version=name) if row.ts >= span.since]
        assert over.answers == len(rows)
        for number, bucket in enumerate(over.buckets):
            mine = [row for row in rows if span.bucket(row.ts) == number]
            assert bucket.answers == len(mine)
            assert bucket.feedback == sum(row.row_id in said for row in mine)
            assert bucket.negatives == sum(said.get(row.row_id, False) for row in mine)
            edits = [r for r in mine if any(t.tag == "user_edit" for t in tags.get(r.row_id, []))]
            assert bucket.edits == len(edits)
            assert sorted(v for v, _ in bucket.sure) == sorted(r.mean_logprob for r in mine)
    # Half of the rows are let go and leave their numbers: the sums stay as they were.
    let_go(store, ids[::2])
    after = {one.name: one for one in series.over(settings, store, "support", names, span)}
    for name, over in before.items():
        for old, new in zip(over.buckets, after[name].buckets, strict=True):
            assert new.answers == old.answers
    assert sum(len(one.sure) for one in after.values()) == ROWS // 2
    assert state.candidate == 3


@pytest.mark.sqlite
def test_confidence_weighs_rows_by_how_likely_they_were_to_stay(
    settings: Settings, store: Store
) -> None:
    for n in range(10):
        add(store, f"sampled{n}", ts=NOW - 60, mean_logprob=-0.1, inclusion_probability=0.1)
    add(store, "flagged", ts=NOW - 60, mean_logprob=-2.1)
    span = series.window(7, NOW)
    [found] = series.over(settings, store, "support", {"base": "base"}, span)
    at = found.buckets[-1].confidence
    assert at is not None
    assert at.value == pytest.approx((100 * -0.1 - 2.1) / 101)
    shares = series.histogram(found)
    assert sum(shares) == pytest.approx(1)
    assert max(shares) == pytest.approx(100 / 101)


@pytest.mark.sqlite
def test_several_aliases_do_not_share_the_base_models_numbers(
    make_settings: Any, store: Store
) -> None:
    settings = make_settings(aliases={"support": {}, "other": {}})
    for n in range(6):
        alias = "support" if n < 4 else "other"
        add(store, f"r{n}", ts=NOW - 60, alias=alias)
        store.add_feedback(Feedback(feedback_id=f"f{n}", row_id=f"r{n}", ts=NOW, rating="down"))
    span = series.window(1, NOW)
    for alias, number in (("support", 4), ("other", 2)):
        [found] = series.over(settings, store, alias, {"base": "base"}, span)
        assert found.answers == number
        assert sum(bucket.negatives for bucket in found.buckets) == number
        assert len(found.sure) == number


@pytest.mark.sqlite
def test_shares_are_those_set_and_those_seen(
    settings: Settings, store: Store, ids: list[str]
) -> None:
    state, _ = live.history(store, "support")
    shown = live.shares(settings, store, state, NOW)
    assert [(one.name, one.role, one.share) for one in shown] == [
        ("support@v2", "live", 90.0),
        ("support@v3", "canary", 10.0),
    ]
    recent = [row.version for row in store.interactions(since=NOW - 86400)]
    assert [one.answers for one in shown] == [recent.count(one.name) for one in shown]
    assert sum(one.seen or 0 for one in shown) == pytest.approx(100)
