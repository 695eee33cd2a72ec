"""Frozen datasets: what the next one takes over, what can be believed, what its card says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import MakeSettings
from curate_rows import add_row
from curate_versions import write_key
from test_curate_dataset import LONG, by_users, capped, correct, in_clusters, questions

from curate.datasets import reasons
from curate.datasets.build import build
from ledger import dataset
from ledger.database import tables
from ledger.errors import DatasetError
from ledger.files import write_jsonl
from ledger.settings import Settings
from ledger.store import Line, Store


@pytest.fixture(autouse=True)
def _key(tmp_path: Path) -> None:
    write_key(tmp_path / "var/keys/subject.key")


def lines(run: Path) -> dict[str, dict[str, Any]]:
    return {line["row_id"]: line for line in dataset.open_parts(run / "dataset")}


def test_the_next_dataset_takes_over_what_stands(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    asked = questions(30)
    for number in range(20):
        add_row(store, f"r{number:02}", asked[number], ts=float(number))
        correct(store, f"r{number:02}", "right")
    first = build(settings, store, "support", tmp_path / "one")
    assert (first.report["opened"], first.parent) == (20, None)
    correct(store, "r03", "better")
    correct(store, "r04", "right", author="ada")  # the same words, another's
    add_row(store, "r20", asked[20], ts=20.0)
    correct(store, "r20", "right")
    second = build(settings, store, "support", tmp_path / "two")
    assert (second.report["opened"], second.parent) == (3, first.dataset_id)
    _, pairs = dataset.load(tmp_path / "two/dataset", store)
    assert [pair.row_id for pair in pairs] == [f"r{number:02}" for number in range(21)]
    assert {pair.row_id: pair.author for pair in pairs}["r04"] == "ada"
    old, new = lines(tmp_path / "one"), lines(tmp_path / "two")
    same = {row_id for row_id in old if old[row_id]["sealed"] == new[row_id]["sealed"]}
    assert old.keys() - same == {"r03", "r04"}
    # It is what a ledger that knows nothing of the first one builds, too.
    with store.transaction() as connection:
        for table in (tables.datasets, tables.dataset_rows, tables.candidates):
            connection.execute(sa.delete(table))
    third = build(settings, store, "support", tmp_path / "three")
    assert (third.report["opened"], third.dataset_id) == (21, second.dataset_id)


@pytest.mark.sqlite
def test_without_the_last_folder_rows_are_opened_again(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    for number, question in enumerate(questions(3)):
        add_row(store, f"r{number}", question, ts=float(number))
        correct(store, f"r{number}", "right")
    first = build(settings, store, "support", tmp_path / "one")
    file = tmp_path / "one/dataset/pairs.jsonl"
    file.write_text(file.read_text().replace('"row_id": "r1"', '"row_id": "rX"'))
    again = build(settings, store, "support", tmp_path / "two")
    assert (again.dataset_id, again.report["opened"]) == (first.dataset_id, 1)
    (tmp_path / "two/dataset/pairs.jsonl").write_text("{damaged\n")
    dataset_path = str(tmp_path / "two/dataset")
    with store.transaction() as connection:
        connection.execute(sa.update(tables.datasets).values(path=dataset_path))
    third = build(settings, store, "support", tmp_path / "three")
    assert (third.dataset_id, third.report["opened"]) == (first.dataset_id, 3)


@pytest.mark.sqlite
def test_a_line_with_another_text_under_its_digest_is_found(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    for number, question in enumerate(questions(3)):
        add_row(store, f"r{number}", question, ts=float(number))
        correct(store, f"r{number}", "right")
    build(settings, store, "support", tmp_path / "one")
    file = tmp_path / "one/dataset/pairs.jsonl"
    found = list(lines(tmp_path / "one").values())
    false = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no"}]}
    fields = {**false, "author": "op", "answered_by": "v", "salt": ""}
    (sealed,) = store.sealed_lines([Line("r1", None, fields)], dataset.KIND)
    found[1] |= sealed
    write_jsonl(file, found)
    build(settings, store, "support", tmp_path / "two")
    with pytest.raises(DatasetError, match="never changes"):
        dataset.load(tmp_path / "two/dataset", store)


@pytest.mark.sqlite
def test_what_is_held_out_belongs_to_the_hash(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    add_row(store, "a", "one")
    correct(store, "a", "right")
    build(settings, store, "support", tmp_path / "run")
    file = tmp_path / "run/dataset/pairs.jsonl"
    file.write_text(file.read_text().replace('"train"', '"heldout"'))
    with pytest.raises(DatasetError, match="never changes"):
        dataset.load(file.parent, store)


@pytest.mark.sqlite
def test_who_is_forgotten_while_a_dataset_is_sealed_is_not_in_it(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    for number, (who, question) in enumerate(zip("abab", questions(4), strict=True)):
        add_row(store, f"{who}{number}", question, ts=float(number), subject=who * 32)
        correct(store, f"{who}{number}", "right")

    class Slow(Store):
        """Somebody is forgotten after their text was opened, before it is sealed."""

        def sealed_lines(self, given: Any, file: str) -> list[dict[str, Any]]:
            given = list(given)
            if self.interaction("a0").stored_text:
                self.forget("a" * 32, who="op", why="")
            return super().sealed_lines(given, file)

    slow = Slow.open(settings)
    manifest = build(settings, slow, "support", tmp_path / "run")
    _, pairs = dataset.load(tmp_path / "run/dataset", slow)
    slow.close()
    assert [pair.row_id for pair in pairs] == ["b1", "b3"]
    assert manifest.left_out == {reasons.NO_TEXT: ["a0", "a2"]}


def test_why_a_row_is_left_out_is_said_once(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    for row_id in ("first", "again"):
        add_row(store, row_id, "Where is it?", ts=1.0 if row_id == "first" else 2.0)
        correct(store, row_id, "delivery")
    said = sa.select(tables.left_out.c.row_id, tables.left_out.c.reason)
    for number in range(3):
        build(settings, store, "support", tmp_path / f"run{number}")
    with store.reading() as connection:
        assert list(connection.execute(said)) == [("again", reasons.DUPLICATE)]
    assert store.left_out("support") == {"again": reasons.DUPLICATE}
    correct(store, "first", "something else")
    build(settings, store, "support", tmp_path / "later")
    assert store.left_out("support") == {"again": reasons.CONTRADICTED}
    add_row(store, "other", "And now?", ts=3.0)
    correct(store, "other", "yes")
    with store.transaction() as connection:
        connection.execute(
            sa.delete(tables.corrections).where(tables.corrections.c.row_id != "other")
        )
    build(settings, store, "support", tmp_path / "last")
    assert store.left_out("support") == {}


@pytest.mark.sqlite
def test_the_card_counts_and_quotes_nobody(
    make_settings: MakeSettings, store: Store, tmp_path: Path
) -> None:
    settings = capped(make_settings, pairs_per_subject=2)
    by_users(store, {"ada": 3})
    add_row(store, "op", LONG)
    correct(store, "op", "an operator's words")
    in_clusters(store, {"ada-0": 4})
    manifest = build(settings, store, "support", tmp_path / "run")
    (known,) = store.datasets("support")
    assert known.report == manifest.report
    report = known.report
    assert report["sources"] == {"user": 2, "operator": 1}
    assert report["clusters"] == {"like nothing known": 2, "4": 1}
    assert report["capped_subjects"] == {"ada": 1}
    assert report["left_out"] == {reasons.SUBJECT: 1}
    text = (tmp_path / "run/dataset/README.md").read_text()
    for part in (manifest.dataset_id, "| user | 2 |", f"| {reasons.SUBJECT} | 1 |", "| ada | 1 |"):
        assert part in text
    plain = text + (tmp_path / "run/dataset/manifest.json").read_text() + json.dumps(report)
    for word in ("shoes", "cheese", questions(1)[0].split()[0]):
        assert word not in plain
