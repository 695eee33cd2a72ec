"""Clusters of questions: which rows are looked at, what they become, and what is reported."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter

import pytest
import sqlalchemy as sa
from asked import OLD, START, add_topics, answer
from click.testing import CliRunner
from curate_rows import add_feedback

from curate import clusters
from curate.clusters import learn
from curate.clusters.sample import sample_key
from flywheel.commands.clusters import clusters as command
from flywheel.commands.console import Context
from ledger.database import tables
from ledger.errors import ConfigError
from ledger.marks import NEW_CLUSTER
from ledger.records import Correction, DatasetRecord, Tag
from ledger.store import Store

DAY = 86_400.0


def lines(store):
    with store.reading() as connection:
        return {row.row_id: row for row in connection.execute(sa.select(tables.cluster_rows))}


def everything(store):
    """What is stored of clusters, without times of writing."""
    with store.reading() as connection:
        spaces = [tuple(row)[3:] for row in connection.execute(sa.select(tables.spaces))]
        found = sa.select(tables.clusters).order_by(tables.clusters.c.seq)
        groups = [(row.cluster, row.name, row.centroid) for row in connection.execute(found)]
    return spaces, groups, sorted(tuple(row) for row in lines(store).values())


def by_topic(store):
    """Of each topic how many rows each cluster has."""
    found: dict[str, Counter] = {}
    for row_id, line in lines(store).items():
        found.setdefault(row_id.split("-")[0], Counter())[line.cluster] += 1
    return found


def tag(store, row_id, name="user_negative"):
    store.add_tags([Tag(row_id=row_id, tag=name, who="operator:ada", why="", ts=START)])


def correct(store, row_id):
    store.add_correction(
        Correction(
            row_id=row_id, ts=START, source="operator", author="ada", text="x", decision="accepted"
        )
    )


def mixed(number, topics=OLD, seed=1):
    rng = random.Random(seed)
    return [rng.choice(topics) for _ in range(number)]


def dataset(store, row_ids):
    store.add_dataset(
        DatasetRecord(
            dataset_id=f"d{len(row_ids)}", ts=START, alias="support", path="x", pairs=len(row_ids),
            row_ids=row_ids,
        )
    )  # fmt: skip


# -- which rows ----------------------------------------------------------------------------------


def test_of_a_day_the_smallest_keys_are_taken_in_however_many_steps(make_settings, store):
    settings = make_settings(curate={"clusters": {"sample_a_day": 20}})
    for part in range(4):
        add_topics(store, mixed(25, seed=part), ts=START + part * 3000, seed=part)
        if part != 1:
            clusters.update(settings, store, "support")
    rows = tables.interactions.c
    with store.reading() as connection:
        keys = dict(connection.execute(sa.select(rows.row_id, rows.sample_key)).all())
    assert all(sample_key(store, row_id) == key for row_id, key in keys.items())
    taken = {row_id: line for row_id, line in lines(store).items() if line.traffic}
    assert set(taken) == set(sorted(keys, key=keys.__getitem__)[:20])
    threshold = sorted(keys.values())[20]
    assert [line.weight for line in taken.values()] == pytest.approx([1 / threshold] * 20)


@pytest.mark.sqlite
def test_a_day_has_its_own_sample_and_a_row_that_was_let_go_keeps_its_place(make_settings, store):
    settings = make_settings(curate={"clusters": {"sample_a_day": 10}})
    add_topics(store, mixed(30), ts=START, seed=1)
    add_topics(store, mixed(5), ts=START + DAY, seed=2)
    clusters.update(settings, store, "support")
    first = {row_id for row_id, line in lines(store).items() if line.traffic}
    days = Counter(int((line.ts - START) // DAY) for line in lines(store).values() if line.traffic)
    assert days == {0: 10, 1: 5}
    with store.transaction() as connection:
        connection.execute(
            sa.delete(tables.interactions).where(tables.interactions.c.ts < START + DAY)
        )
    add_topics(store, mixed(30), ts=START + 5000, seed=3)
    clusters.update(settings, store, "support")
    keys = {row_id: sample_key(store, row_id) for row_id in lines(store)}
    now = {row_id for row_id, line in lines(store).items() if line.traffic}
    today = sorted(
        (row_id for row_id in keys if lines(store)[row_id].ts < START + DAY), key=keys.__getitem__
    )
    assert {row_id for row_id in now if lines(store)[row_id].ts < START + DAY} == set(today[:10])
    assert first & now


@pytest.mark.sqlite
def test_a_row_that_was_kept_with_a_probability_stands_for_more(settings, store):
    rows = [
        answer(f"r-{number}", "where is it", START + number, inclusion_probability=0.25)
        for number in range(8)
    ]
    store.add_interactions([*rows, answer("r-sure", "where is it", START + 9)])
    clusters.update(settings, store, "support")
    assert Counter(line.weight for line in lines(store).values()) == {4.0: 8, 1.0: 1}


def test_rows_that_somebody_said_something_about_are_looked_at_whatever_the_sample(
    make_settings, store
):
    settings = make_settings(curate={"clusters": {"sample_a_day": 0}})
    ids = add_topics(store, mixed(40))
    silent = answer("silent-0-0", "no text kept", START, stored_text=False)
    other = answer("other-0-0", "another alias", START, alias="other")
    store.add_interactions([silent, other])
    tag(store, ids[3])
    tag(store, "silent-0-0")
    tag(store, "other-0-0")
    add_feedback(store, ids[5], rating="up", ts=START)
    correct(store, ids[7])
    done = clusters.update(settings, store, "support")
    assert set(lines(store)) == {ids[3], ids[5], ids[7]}
    assert (done.seen, done.placed) == (41, 3)
    assert not any(line.traffic for line in lines(store).values())


def test_an_update_without_news_changes_nothing(settings, store):
    ids = add_topics(store, mixed(60))
    tag(store, ids[0])
    first = clusters.update(settings, store, "support")
    assert first.fitted
    before = everything(store)
    again = clusters.update(settings, store, "support")
    assert (again.seen, again.placed, again.new, again.fitted) == (0, 0, (), False)
    assert everything(store) == before


def test_two_updates_at_once_do_the_work_once(settings, store):
    ids = add_topics(store, mixed(120))
    for row_id in ids[::4]:
        tag(store, row_id)
    stores = [Store.open(settings) for _ in range(2)]
    start, failed = threading.Barrier(2), []

    def work(own):
        start.wait()
        try:
            clusters.update(settings, own, "support")
        except Exception as error:
            failed.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(own,)) for own in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(lines(store)) == 120
    with store.reading() as connection:
        numbers = connection.scalars(sa.select(tables.clusters.c.cluster)).all()
        assert len(numbers) == len(set(numbers))
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.spaces)) == 1


class _Opened(Store):
    """Counts the rows whose text is opened."""

    opened = 0

    def interactions(self, **given):
        for row in super().interactions(**given):
            self.opened += 1
            yield row


@pytest.mark.sqlite
def test_the_cost_follows_what_is_new(settings, store):
    add_topics(store, mixed(300))
    clusters.update(settings, store, "support")
    add_topics(store, mixed(20), ts=START + 9000, seed=2)
    watched = _Opened.open(settings)
    done = clusters.update(settings, watched, "support")
    watched.close()
    assert done.placed == 20
    assert 20 <= watched.opened <= 20 + 2 * settings.curate.clusters.min_size


@pytest.mark.sqlite
def test_text_that_nobody_can_read_any_more_is_passed_over(settings, store):
    add_topics(store, mixed(60), subject="ada")
    add_topics(store, mixed(60), seed=2, ts=START + 5000)
    store.forget("ada", who="operator:ben", why="asked")
    done = clusters.update(settings, store, "support")
    assert done.clusters > 0
    assert len(lines(store)) == 60


def test_an_alias_that_is_not_there_is_refused(settings, store):
    with pytest.raises(ConfigError, match="nobody"):
        clusters.update(settings, store, "nobody")


# -- what they become ----------------------------------------------------------------------------


def test_questions_that_are_alike_are_together_under_a_name_that_says_what(settings, store):
    add_topics(store, mixed(200))
    done = clusters.update(settings, store, "support")
    found = by_topic(store)
    for topic, counted in found.items():
        of_others = {number for other in found if other != topic for number in found[other]}
        alone = sum(n for number, n in counted.items() if number not in of_others - {None})
        assert alone > 0.9 * sum(counted.values()), (topic, counted)
    names = [one.name for one in clusters.latest(store, "support").values()]
    assert len(names) == done.clusters == len(set(names))
    for word in ("parcel", "refund", "password"):
        assert any(word in name for name in names)


@pytest.mark.sqlite
def test_what_one_person_says_is_in_no_name_and_no_placeholder_either(settings, store):
    rows = [
        answer(
            f"r-{number}",
            f"where is my parcel, write to ada.{number}@example.com"
            + (" quokkaville quokkaville" if number % 3 == 0 else " it is late"),
            START + number,
            subject="ben" if number % 3 == 0 else f"u{number}",
        )
        for number in range(60)
    ]
    store.add_interactions(rows)
    clusters.update(settings, store, "support")
    found = clusters.latest(store, "support").values()
    said = " ".join(" ".join((one.name, *one.terms)) for one in found)
    assert "parcel" in said
    assert "quokka" not in said
    assert "email" not in said.lower()
    assert "[" not in said
    with store.reading() as connection:
        for data in connection.scalars(sa.select(tables.spaces.c.data)):
            assert b"parcel" not in data


def test_a_new_product_is_a_new_cluster_within_a_hundred_questions(settings, store):
    rng = random.Random(5)
    add_topics(store, mixed(400))
    clusters.update(settings, store, "support")
    known = set(clusters.latest(store, "support"))
    asked = 0
    while asked < 100:
        topics = rng.choices((*OLD, "espresso"), (2, 2, 2, 3), k=40)
        add_topics(store, topics, ts=START + 30_000 + asked, seed=100 + asked)
        asked += topics.count("espresso")
        clusters.update(settings, store, "support")
        fresh = {n: c for n, c in by_topic(store)["espresso"].items() if n and n not in known}
        if fresh:
            break
    assert 0 < asked <= 100
    names = [clusters.latest(store, "support")[number].name for number in fresh]
    assert any("espresso" in name or "steam" in name for name in names)
    # Nothing else was taken along.
    for topic in OLD:
        assert sum(by_topic(store)[topic][number] for number in fresh) <= 2


@pytest.mark.sqlite
def test_fitting_anew_keeps_the_numbers(settings, store):
    add_topics(store, mixed(150))
    clusters.update(settings, store, "support")
    before = {row_id: line.cluster for row_id, line in lines(store).items()}
    add_topics(store, mixed(200, seed=7), ts=START + DAY, seed=7)
    done = clusters.update(settings, store, "support")
    assert done.fitted
    after = {row_id: lines(store)[row_id].cluster for row_id in before}
    same = sum(after[row_id] == number for row_id, number in before.items())
    assert same > 0.7 * len(before)
    living = clusters.latest(store, "support")
    assert {line.cluster for line in lines(store).values()} <= {None, *living}


@pytest.mark.sqlite
def test_rows_beyond_the_pool_are_placed_and_follow_their_cluster(settings, store, monkeypatch):
    monkeypatch.setattr(learn, "POOL", 100)
    add_topics(store, mixed(250))
    clusters.update(settings, store, "support")
    assert sum(line.cluster is None for line in lines(store).values()) < 25
    add_topics(store, mixed(300, seed=3), ts=START + DAY, seed=3)
    assert clusters.update(settings, store, "support").fitted
    living = clusters.latest(store, "support")
    assert {line.cluster for line in lines(store).values()} <= {None, *living}


@pytest.mark.sqlite
def test_rows_that_a_death_left_in_a_cluster_that_is_no_more_find_another(settings, store):
    ids = add_topics(store, mixed(100))
    clusters.update(settings, store, "support")
    before = clusters.cluster_of(store, ids)
    line = tables.cluster_rows
    with store.transaction() as connection:
        lost = sa.update(line).where(line.c.row_id.in_(ids[:30]))
        connection.execute(lost.values(cluster=999))
    clusters.update(settings, store, "support")
    assert clusters.cluster_of(store, ids) == before


# -- numbers -------------------------------------------------------------------------------------


def test_counts_say_what_share_fails_and_what_was_corrected(settings, store):
    ids = add_topics(store, ["parcel", "refund", "password", "refund"] * 40)
    refunds = [row_id for row_id in ids if row_id.startswith("refund")]
    for row_id in refunds[:20]:
        add_feedback(store, row_id, rating="down", ts=START)
    for row_id in refunds[20:30]:
        tag(store, row_id)
    add_feedback(store, refunds[30], rating="up", ts=START)
    for row_id in refunds[:4]:
        correct(store, row_id)
    dataset(store, refunds[:3])
    clusters.update(settings, store, "support", at=START)
    found = clusters.counts(store, "support")
    assert sum(one.answers for one in found) == pytest.approx(160)
    assert sum(one.share.value for one in found if one.share) == pytest.approx(1)
    assert sum(one.failures for one in found) == 30
    assert sum(one.corrections for one in found) == 4
    assert sum(one.pairs for one in found) == 3
    assert found[0].failures == max(one.failures for one in found if one.cluster is not None)
    for one in found:
        own = [r for r, line in lines(store).items() if line.cluster == one.cluster]
        failed = len(set(own) & set(refunds[:30]))
        assert one.rows == len(own)
        if own:
            assert one.failure_rate.value == pytest.approx(failed / len(own))
            assert one.failure_rate.low <= failed / len(own) <= one.failure_rate.high
            assert one.first_seen == min(lines(store)[row_id].ts for row_id in own)
            assert one.last_seen == max(lines(store)[row_id].ts for row_id in own)
        assert one.new == (one.cluster is not None and not one.pairs)
    window = clusters.counts(store, "support", since=START + 3600, until=START + 7200)
    assert sum(one.rows for one in window) == 60


@pytest.mark.sqlite
def test_days_add_up_to_the_whole(settings, store):
    for day in range(3):
        add_topics(store, mixed(40, seed=day), ts=START + day * DAY, seed=day)
    clusters.update(settings, store, "support")
    found = clusters.daily(store, "support")
    assert {one.day for one in found} == {START, START + DAY, START + 2 * DAY}
    for day in range(3):
        parts = [one for one in found if one.day == START + day * DAY]
        assert sum(one.share.value for one in parts) == pytest.approx(1)
        assert sum(one.answers for one in parts) == pytest.approx(40)


def test_neighbours_are_the_newest_rows_of_the_same_cluster(settings, store):
    ids = add_topics(store, mixed(120))
    clusters.update(settings, store, "support")
    where = clusters.cluster_of(store, [*ids, "nowhere"])
    assert set(where) == set(ids)
    row_id = next(row_id for row_id in ids if where[row_id] is not None)
    same = [other for other in reversed(ids) if where[other] == where[row_id] and other != row_id]
    assert clusters.neighbours(store, "support", row_id, 3) == same[:3]
    assert clusters.neighbours(store, "support", "nowhere") == []


# -- what is new ---------------------------------------------------------------------------------


def alerts(store):
    with store.reading() as connection:
        return [
            (row.kind, json.loads(row.report))
            for row in connection.execute(sa.select(tables.alerts))
        ]


def test_a_cluster_without_training_data_is_reported_once_a_window(settings, store):
    old = add_topics(store, mixed(300), every=10)
    clusters.update(settings, store, "support", at=START + 3600)
    assert alerts(store) == []  # without a dataset everything would be new
    dataset(store, old)
    add_topics(store, ["espresso", *OLD, "espresso"] * 40, seed=9, every=10, ts=START + 2 * DAY)
    at = START + 2 * DAY + 3600
    done = clusters.update(settings, store, "support", at=at)
    assert done.reported
    kinds = {kind for kind, _ in alerts(store)}
    assert kinds == {NEW_CLUSTER}
    # One product may be several clusters: together they are enough.
    assert sum(fresh.share for fresh in done.reported) > settings.curate.clusters.new_share
    tagged = store.row_ids(tag=NEW_CLUSTER)
    assert 0 < len(tagged) <= 50 * len(done.reported)
    assert all(row_id.startswith("espresso") for row_id in tagged)
    [first, *_] = store.tags([tagged[0]])[tagged[0]]
    assert first.who == "rule:new_cluster"
    assert any(fresh.name in first.why for fresh in done.reported)
    assert any("espresso" in fresh.name or "steam" in fresh.name for fresh in done.reported)
    assert sum(store.waiting("support").values()) == len(tagged)
    assert clusters.update(settings, store, "support", at=at + 3600).reported == ()
    later = clusters.update(settings, store, "support", at=at + 25 * 3600)
    assert later.reported == ()  # nothing of it was asked since
    add_topics(store, ["espresso"] * 40, ts=at + 24 * 3600, seed=10, every=10)
    assert clusters.update(settings, store, "support", at=at + 25 * 3600).reported


@pytest.mark.sqlite
def test_several_small_new_clusters_count_together_but_old_ones_do_not(make_settings, store):
    settings = make_settings(curate={"clusters": {"new_share": 0.12}})
    old = add_topics(store, [*OLD] * 60, every=10)
    rare = add_topics(store, ["espresso"] * 30, ts=START, seed=3, every=10)
    clusters.update(settings, store, "support", at=START + 3600)
    dataset(store, old)  # knows nothing of the rare ones, which are no news
    add_topics(store, [*OLD * 3, "espresso"] * 20, seed=9, every=10, ts=START + 2 * DAY)
    done = clusters.update(settings, store, "support", at=START + 2 * DAY + 3600)
    assert rare
    assert done.reported == ()


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_command_shows_the_worst_first(settings, config, store):
    ids = add_topics(store, mixed(60), ts=__import__("time").time() - 4000)
    for row_id in ids[:12]:
        tag(store, row_id)
    runner = CliRunner()

    def run(*words):
        done = runner.invoke(command, words, obj=Context(str(config)), catch_exceptions=False)
        return done

    shown = run()
    assert shown.exit_code == 0
    assert "parcel" in shown.stdout
    assert "failed" in shown.stdout
    found = json.loads(run("--json", "--no-update", "--since", "2d").stdout)
    assert found["updated"] is None
    failures = [one["failures"] for one in found["clusters"] if one["cluster"] is not None]
    assert failures == sorted(failures, reverse=True)
    assert sum(failures) > 0
    wrong = run("--since", "soon")
    assert wrong.exit_code == 2
    assert "12h, 7d or 4w" in wrong.stderr
