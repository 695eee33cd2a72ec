"""Frozen datasets and exports, on real ledgers."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from curate_rows import SYSTEM, add_feedback, add_row, decide, make_settings
from curate_versions import write_key

from curate.datasets import reasons
from curate.datasets.build import build, collect, main, summary
from curate.datasets.export import export
from curate.judging.decisions import correct
from curate.tagging.sweep import sweep
from ledger import dataset
from ledger.database import tables
from ledger.errors import ConfigError, DatasetError, GoldError, UsageError
from ledger.gold import load_gold, question_key
from ledger.records import Correction
from ledger.redact.names import Listed
from ledger.store import Store

REPO = Path(__file__).parent.parent
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


@pytest.fixture
def settings(tmp_path, ledger_url):
    trusted = {"trusted_sources": ["user", "operator"]}
    return make_settings(tmp_path, url=ledger_url, **trusted, acceptance={"new_subject_hours": 0})


@pytest.fixture
def store(settings):
    store = Store.open(settings)
    yield store
    store.close()


def accept(store, row_id, text):
    """A user's correction that was accepted, whatever else is said of the same question."""
    store.add_correction(
        Correction(
            row_id=row_id, ts=9.0, source="user", author="s1", text=text, decision="accepted"
        )
    )


def held(pool):
    return {pair.row_id: pair.messages[-1]["content"] for pair in pool.pairs}


def test_a_pair_carries_its_provenance(tmp_path, settings, store):
    add_row(
        store,
        "a",
        "Where is it?",
        tools=TOOLS,
        chat_template_kwargs={"enable_thinking": False},
        template_hash="fw1:template:x",
        mean_logprob=-9,
    )
    add_feedback(store, "a", correction=" delivery\n", rating="down")
    sweep(settings, store)
    manifest = build(settings, store, "support", tmp_path / "run")
    found, (pair,) = dataset.load(tmp_path / "run" / "dataset", store)
    assert found == manifest
    assert pair.messages == [
        SYSTEM,
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "delivery"},
    ]
    assert (pair.source, pair.author, pair.answered_by) == ("user", "s1", "support@v1")
    assert (pair.rejected, pair.tools, pair.template_hash) == ("wrong", TOOLS, "fw1:template:x")
    assert pair.chat_template_kwargs == {"enable_thinking": False}
    assert pair.tags == ["low_confidence", "user_edit", "user_negative"]
    assert "1 pairs for support" in summary(manifest)
    with store.transaction() as connection:
        rows = connection.execute(sa.select(tables.dataset_rows)).all()
        assert connection.scalar(sa.select(tables.datasets.c.pairs)) == 1
    assert [tuple(row) for row in rows] == [(manifest.dataset_id, "a")]


def test_only_accepted_corrections_of_the_alias_are_pairs(tmp_path, store):
    wary = make_settings(tmp_path)
    for number, row_id in enumerate(["proposed", "rejected", "accepted", "voted"]):
        add_row(store, row_id, f"question {number}")
    add_row(store, "elsewhere", "question x", alias="other")
    add_row(store, "pinned", "question y", alias=None)
    for row_id in ("proposed", "rejected", "accepted", "elsewhere"):
        add_feedback(store, row_id, correction="delivery")
    add_feedback(store, "voted", rating="down", reason="say delivery")
    sweep(wary, store)
    decide(store, "rejected", "rejected", "op")
    for row_id in ("accepted", "elsewhere"):
        decide(store, row_id, "accepted", "op")
    correct(store, "pinned", "delivery", "op")
    assert held(collect(wary, store, "support")) == {"accepted": "delivery"}


@pytest.mark.parametrize(
    "asked",
    [
        "Where is my parcel?",
        "  where IS my\nparcel",
        "Where is my parcel?!",
        "WHERE, is my: parcel …",
    ],
)
def test_a_gold_question_never_trains(tmp_path, asked):
    settings = make_settings(tmp_path, gold=["Where is my parcel?"])
    store = Store.open(settings)
    add_row(store, "gold", asked)
    add_row(store, "good", "How do I return it?")
    correct(store, "gold", "delivery", "op")
    correct(store, "good", "refund", "op")
    manifest = build(settings, store, "support", tmp_path / "run")
    assert manifest.left_out == {"gold question": ["gold"]}
    assert "parcel" not in (tmp_path / "run/dataset/pairs.jsonl").read_text().lower()
    export(store, settings, "support", out=tmp_path / "out.jsonl")
    assert "parcel" not in (tmp_path / "out.jsonl").read_text().lower()
    store.close()


def test_without_its_gold_set_nothing_is_built(tmp_path, settings, store):
    add_row(store, "a")
    correct(store, "a", "delivery", "op")
    (tmp_path / "gold.jsonl").unlink()
    with pytest.raises(GoldError):
        build(settings, store, "support", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_alias_without_gold_sets_can_be_built(tmp_path, settings, store):
    add_row(store, "a", alias="other")
    correct(store, "a", "delivery", "op")
    assert build(settings, store, "other", tmp_path / "run").pairs == 1


def test_what_cannot_be_trained_on_is_left_out(settings, store):
    user = {"role": "user", "content": "q"}
    add_row(store, "good")
    add_row(store, "text", "a prompt", api="completions")
    add_row(store, "nothing", messages=[])
    add_row(store, "prefilled", messages=[user, {"role": "assistant", "content": "It is"}])
    add_row(store, "half", "half \ud83d")
    add_row(store, "responses", "another", api="responses")
    add_row(store, "messages", "a third", api="messages")
    for row_id in ("good", "text", "nothing", "prefilled", "half", "responses", "messages"):
        correct(store, row_id, "delivery", "op")
    pool = collect(settings, store, "support")
    assert set(held(pool)) == {"good", "responses", "messages"}
    assert pool.left_out == {
        reasons.COMPLETION: ["text"],
        reasons.NO_TEXT: ["nothing"],
        reasons.PREFILLED: ["prefilled"],
        reasons.BROKEN: ["half"],
    }


def test_the_same_question_and_answer_is_kept_once(settings, store):
    add_row(store, "first", "Where is it?", ts=1.0)
    add_row(store, "again", "where is IT", ts=2.0)
    accept(store, "again", "delivery")
    accept(store, "first", "delivery")
    pool = collect(settings, store, "support")
    assert held(pool) == {"first": "delivery"}
    assert pool.left_out == {reasons.DUPLICATE: ["again"]}


def test_of_contradictory_corrections_the_newest_holds(settings, store):
    for number in range(3):
        add_row(store, f"r{number}", "Where is it?", ts=float(number))
    accept(store, "r1", "stock")
    accept(store, "r2", "refund")
    accept(store, "r0", "delivery")  # the newest, though its row is the oldest
    pool = collect(settings, store, "support")
    assert held(pool) == {"r0": "delivery"}
    assert pool.left_out == {reasons.CONTRADICTED: ["r1", "r2"]}


def test_of_contradictory_corrections_an_operators_holds(settings, store):
    for number in range(4):
        add_row(store, f"r{number}", "Where is it?", ts=float(number))
    correct(store, "r0", "delivery", "op")
    correct(store, "r1", "refund", "op")
    accept(store, "r2", "stock")
    accept(store, "r3", "refund")
    pool = collect(settings, store, "support")
    assert held(pool) == {"r1": "refund"}
    assert pool.left_out == {
        reasons.DUPLICATE: ["r3"],
        reasons.CONTRADICTED: ["r0", "r2"],
    }


def test_another_conversation_before_makes_another_question(settings, store):
    last = {"role": "user", "content": "and that?"}
    for row_id, before in (("a", "shoes"), ("b", "a lamp")):
        turns = [
            {"role": "user", "content": before},
            {"role": "assistant", "content": "yes"},
            last,
        ]
        add_row(store, row_id, messages=turns)
        correct(store, row_id, f"about {before}", "op")
    assert len(collect(settings, store, "support").pairs) == 2


def test_the_hash_depends_on_the_content_alone(tmp_path):
    """Two ledgers with one key that met the same rows in another order freeze the same dataset."""
    found = []
    for number, order in enumerate([range(20), reversed(range(20))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = make_settings(folder)
        write_key(settings.privacy.key_file)
        store = Store.open(settings)
        for row in order:
            add_row(store, f"r{row}", f"question {row}", ts=float(row // 3))
            correct(store, f"r{row}", f"answer {row}", "op")
        for run in ("run", "again"):
            manifest = build(settings, store, "support", folder / run)
            _, pairs = dataset.load(folder / run / "dataset", store)
            said = [pair.model_dump(exclude={"correction"}) for pair in pairs]
            found.append((manifest.dataset_id, str(said)))
        store.close()
    assert len(set(found)) == 1


def test_a_complete_dataset_is_kept(tmp_path, settings, store):
    add_row(store, "a", "one")
    correct(store, "a", "delivery", "op")
    first = build(settings, store, "support", tmp_path / "run")
    add_row(store, "b", "two")
    correct(store, "b", "refund", "op")
    assert build(settings, store, "support", tmp_path / "run") == first
    later = build(settings, store, "support", tmp_path / "later")
    assert later.pairs == 2  # the pool accumulates
    with pytest.raises(DatasetError, match="holds pairs of 'support'"):
        build(settings, store, "other", tmp_path / "run")
    with pytest.raises(ConfigError):
        build(settings, store, "nobody", tmp_path / "run")


def test_a_build_that_died_is_done_again(tmp_path, settings, store, monkeypatch):
    add_row(store, "a", "one")
    correct(store, "a", "delivery", "op")
    folder = tmp_path / "run/dataset"
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_json", lambda *_: (_ for _ in ()).throw(OSError("died")))
        with pytest.raises(OSError, match="died"):
            build(settings, store, "support", tmp_path / "run")
    assert not (folder / "manifest.json").exists()
    assert build(settings, store, "support", tmp_path / "run").pairs == 1


def test_text_with_line_separators_survives_freezing(tmp_path, settings, store):
    add_row(store, "a", "one\u2028two\x85three")
    correct(store, "a", "deliv\u2029ery", "op")
    build(settings, store, "support", tmp_path / "run")
    _, (pair,) = dataset.load(tmp_path / "run/dataset", store)
    assert pair.messages[1]["content"] == "one\u2028two\x85three"


def test_no_pair_at_all_says_what_to_do(tmp_path, settings, store):
    with pytest.raises(DatasetError, match="flywheel review"):
        build(settings, store, "support", tmp_path / "run")
    add_row(store, "a", "What is the gold question?")
    correct(store, "a", "delivery", "op")
    with pytest.raises(DatasetError, match="gold question: 1"):
        build(settings, store, "support", tmp_path / "run")
    with pytest.raises(DatasetError, match="POST /v1/feedback"):
        export(store, settings, "support", out=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_export_is_openais_chat_form(tmp_path, settings, store):
    add_row(store, "a", "one", ts=1.0)
    add_row(store, "b", "two", ts=2.0, tools=TOOLS)
    correct(store, "a", "delivery", "op")
    correct(store, "b", "refund", "op")
    pool = export(store, settings, "support", out=tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(pool.pairs) == 2
    assert lines[0] == {
        "messages": [
            SYSTEM,
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "delivery"},
        ]
    }
    assert lines[1]["tools"] == TOOLS
    with pytest.raises(UsageError, match="sft"):
        export(store, settings, "support", "parquet", out=tmp_path / "out.jsonl")


@pytest.mark.sqlite
def test_an_address_reaches_neither_the_export_nor_the_disk(tmp_path, settings, store):
    secret, other = "jo.secret@example.com", "ann.hidden@example.org"
    add_row(store, "a", f"I am {secret}")
    add_row(store, "b", "two")
    add_feedback(store, "a", correction=f"Write to {secret}", reason=f"I said {secret}")
    sweep(settings, store)
    correct(store, "b", f"Ask {other}", "op", why=f"{other} knows")
    add_row(store, "c", "three")
    add_feedback(store, "c", correction=f"Ask {other}")
    sweep(settings, store)
    export(store, settings, "support", out=tmp_path / "out.jsonl")
    build(settings, store, "support", tmp_path / "run")
    assert "Write to [EMAIL_1]" in (tmp_path / "out.jsonl").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"ledger.db", "ledger.db-wal", "out.jsonl", "pairs.jsonl"} <= {f.name for f in files}
    for file in files:
        data = file.read_bytes()
        assert b"secret@" not in data, file
        assert b"hidden@" not in data, file


def test_the_command(tmp_path, settings, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    words = ["--config", str(config), "--alias", "support", "--run", str(tmp_path / "run")]
    assert main(words) == 1
    assert "flywheel review" in capsys.readouterr().err
    store = Store.open(settings)
    add_row(store, "a", "one")
    add_row(store, "b", "What is the gold question?")
    for row_id in ("a", "b"):
        add_feedback(store, row_id, correction="delivery")
    store.close()
    for _ in range(2):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "1 pairs for support" in out
        assert "from user" in out
        assert "gold question" in out


def test_the_messages_of_the_demo_and_its_gold_set():
    with open(REPO / "flywheel/demo/messages.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    gold = load_gold([REPO / "configs/gold/support.jsonl"])
    counts = Counter(row["category"] for row in rows)
    assert set(counts.values()) == {40}
    assert len(counts) == 6
    assert Counter(question.slice for question in gold) == dict.fromkeys(counts, 10)
    assert all(question.checks[0].value == question.slice for question in gold)
    keys = [question_key([{"role": "user", "content": row["text"]}]) for row in rows]
    keys += [question_key(question.messages) for question in gold]
    assert len(set(keys)) == 300


def test_no_pair_without_a_detector_of_names_where_the_owner_wants_one(
    make_settings, store, monkeypatch
):
    add_row(store, "a", "I am Ada Lovelace")
    add_row(store, "b", "two")
    correct(store, "a", "Hello Ada Lovelace", "op")
    correct(store, "b", "fine", "op")
    wanted = make_settings(privacy={"names_before_training": True})
    with pytest.raises(ConfigError, match=r"privacy\.names is none"):
        collect(wanted, store, "support")
    monkeypatch.setattr("ledger.redact.detector_of", lambda *_: Listed(["Ada Lovelace"]))
    wanted = make_settings(privacy={"names_before_training": True, "names": "spacy"})
    pairs = collect(wanted, store, "support").pairs
    assert [pair.messages[-1]["content"] for pair in pairs] == ["Hello [NAME_1]", "fine"]
    assert pairs[0].messages[-2]["content"] == "I am [NAME_1]"

    def fails(texts):
        if any("Ada" in text for text in texts):
            raise ValueError("too hard")
        return [[] for _ in texts]

    monkeypatch.setattr("ledger.redact.detector_of", lambda *_: fails)
    pool = collect(wanted, store, "support")
    assert [pair.row_id for pair in pool.pairs] == ["b"]
    assert pool.left_out == {"the detector of names failed": ["a"]}
