"""The store: what goes in comes out, once, and without anybody's personal data."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from conftest import MakeSettings

from ledger.database import tables
from ledger.deployments import Deployments
from ledger.errors import LedgerError, RowRefused, UnknownRow
from ledger.keys.pack import pack, unpack
from ledger.records import (
    Correction,
    DatasetRecord,
    Evaluation,
    Feedback,
    Interaction,
    Record,
    Tag,
    parse_feedback,
)
from ledger.redact import Redactor
from ledger.settings import Settings
from ledger.store import Store

FULL: dict[str, Any] = {
    "row_id": "chatcmpl-1#2",
    "request_id": "chatcmpl-1",
    "choice": 2,
    "ts": 1714989045.25,
    "api": "chat",
    "alias": "support",
    "version": "support@v4",
    "base_model": "base",
    "deployment": 7,
    "arm": "candidate",
    "messages": [
        {"role": "user", "content": "Grüße, 世界 🙂 \u2028\x00"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
    ],
    "response": "billing",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5]}}}],
    "metadata": {"segment": "gold", "score": 0.25, "deep": {"yes": True, "no": None}},
    "finish_reason": "stop",
    "sampling": {"temperature": 0.5, "seed": 3},
    "chat_template_kwargs": {"enable_thinking": False},
    "template_hash": "fw1:template:00",
    "stored_text": True,
    "mean_logprob": -0.125,
    "min_logprob": -3.5,
    "token_logprobs": [(4, -0.125), (3, -3.5)],
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "ttft_ms": 4.5,
    "latency_ms": 60.25,
    "subject": "s" * 32,
    "session": "t" * 32,
    "kept_because": "sample",
    "held": False,
    "inclusion_probability": 0.5,
}


def row(row_id: str = "r1", **fields: Any) -> Interaction:
    least = {"ts": 1.0, "api": "chat", "version": "support@v1", "base_model": "base"}
    return Interaction(**{"row_id": row_id, "request_id": row_id, **least, **fields})


def test_the_records_refuse_what_they_do_not_know() -> None:
    for record in Record.__subclasses__():
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            record.model_validate({"surprise": 1})


# -- interactions ------------------------------------------------------------------------


def test_logprobs_of_tokens_go_where_redaction_changed_the_answer(store: Store) -> None:
    words = "write to ada@example.com"
    store.add_interactions([row(response=words, token_logprobs=[(len(words), -1.0)])])
    found = store.interaction("r1")
    assert found.response == "write to [EMAIL_1]"
    assert found.token_logprobs is None


def test_every_field_comes_back(store: Store) -> None:
    assert set(FULL) == set(Interaction.model_fields)
    given = Interaction(**FULL)
    assert store.add_interactions([given]) == 1
    assert store.interaction("chatcmpl-1#2") == given
    assert list(store.interactions()) == [given]
    least = row("least")
    store.add_interactions([least])
    assert store.interaction("least") == least


def test_the_same_answer_delivered_twice_is_kept_once(store: Store) -> None:
    first = [row("a"), row("b"), row("a")]
    assert store.add_interactions(first) == 2
    assert store.add_interactions(first) == 0
    assert [r.row_id for r in store.interactions()] == ["a", "b"]


def test_a_request_id_that_a_client_uses_twice_is_two_rows(store: Store) -> None:
    first, second, third = (row("mine", ts=ts, response=f"at {ts}") for ts in (1.0, 2.0, 3.0))
    assert store.add_interactions([first]) == 1
    assert store.add_interactions([second, third]) == 2
    assert store.add_interactions([third, second, first]) == 0  # delivered once more
    found = list(store.interactions())
    assert [r.response for r in found] == ["at 1.0", "at 2.0", "at 3.0"]
    assert len({r.row_id for r in found}) == 3
    assert {r.request_id for r in found} == {"mine"}
    newest = store.row_id("mine")  # what feedback means
    assert newest is not None
    assert store.interaction(newest).response == "at 3.0"


def test_choices_are_rows_of_their_own(store: Store) -> None:
    rows = [row("c" if not n else f"c#{n}", request_id="c", choice=n) for n in range(3)]
    assert store.add_interactions(rows) == 3
    assert [store.row_id("c", n) for n in range(4)] == ["c", "c#1", "c#2", None]


def test_without_store_no_text_is_kept(store: Store) -> None:
    given = row(
        stored_text=False,
        messages=[{"role": "user", "content": "secret"}],
        response="secret",
        tools=[{"x": "secret"}],
        metadata={"x": "secret"},
        chat_template_kwargs={"x": "secret"},
        mean_logprob=-0.5,
        prompt_tokens=3,
    )
    store.add_interactions([given])
    kept = store.interaction("r1")
    texts = (kept.messages, kept.response, kept.tools, kept.metadata, kept.chat_template_kwargs)
    assert texts == (None,) * 5
    assert (kept.mean_logprob, kept.prompt_tokens, kept.stored_text) == (-0.5, 3, False)


def test_rows_are_found_by_what_they_are(store: Store) -> None:
    store.add_interactions(
        [
            row("a", ts=1.0, alias="support"),
            row("b", ts=2.0, alias="support", version="support@v2"),
            row("c", ts=3.0, alias="other", version="other@v1", mean_logprob=-2.0),
        ]
    )
    store.add_tags(
        [Tag(row_id="b", tag="x", who="w", ts=1.0), Tag(row_id="c", tag="x", who="w", ts=1.0)]
    )

    def ids(**what: Any) -> list[str]:
        return [r.row_id for r in store.interactions(**what)]

    assert ids(alias="support") == ["a", "b"]
    assert ids(version="support@v2") == ["b"]
    assert ids(tag="x") == ["b", "c"]
    assert ids(tag="x", alias="support") == ["b"]
    assert ids(since=2.0) == ["b", "c"]
    assert ids(after_seq=1, limit=1) == ["b"]
    assert ids(newest_first=True) == ["c", "b", "a"]
    assert ids(row_ids=["c", "a", "none"]) == ["a", "c"]
    assert ids(row_ids=[]) == []
    assert store.counts() == {"support@v1": 1, "support@v2": 1, "other@v1": 1}
    assert store.counts("other") == {"other@v1": 1}
    assert store.row_ids(tag="x", since=1.0, until=2.0 + 1) == ids(tag="x", until=3.0)
    assert store.row_ids(alias="support", until=2.0) == ["a"]
    with pytest.raises(UnknownRow, match="'nobody'") as caught:
        store.interaction("nobody")
    assert "completion" in caught.value.remedy


def test_many_rows_in_one_go(store: Store) -> None:
    rows = [row(f"r{n}", ts=float(n)) for n in range(1203)]
    assert store.add_interactions(rows) == 1203
    assert store.add_interactions([*rows, row("new")]) == 1
    ids = [f"r{n}" for n in range(1203)]
    assert len(list(store.interactions(row_ids=ids))) == 1203


@pytest.mark.parametrize(
    "fields",
    [{"ts": math.nan}, {"prompt_tokens": 2**63}, {"alias": "half \ud800 pair"}],
    ids=["nothing in a column that needs something", "too large", "no character"],
)
def test_a_row_that_no_table_takes(store: Store, fields: dict[str, Any]) -> None:
    bad = row("bad").model_copy(update=fields)
    with pytest.raises(RowRefused):
        store.add_interactions([row("good"), bad])
    assert list(store.interactions()) == []  # all or nothing


# -- feedback, tags, corrections ---------------------------------------------------------


def test_feedback_comes_back_and_is_kept_once(store: Store) -> None:
    given = Feedback(
        feedback_id="fb-1",
        row_id="r1",
        ts=2.0,
        rating="down",
        score=0.25,
        correction="billing",
        reason="wrong queue",
        regenerate=True,
        report=False,
        success=False,
        subject="s",
    )
    assert store.add_feedback(given)
    assert not store.add_feedback(given)
    assert not store.add_feedback(given.model_copy(update={"ts": 3.0}))
    assert store.add_feedback(Feedback(feedback_id="fb-2", row_id="r2", ts=3.0, rating="up"))
    assert store.feedback(row_ids=["r1"]) == [(1, given)]
    assert [f.feedback_id for _, f in store.feedback()] == ["fb-1", "fb-2"]
    assert [f.feedback_id for _, f in store.feedback(after_seq=1, limit=5)] == ["fb-2"]


@pytest.mark.parametrize(
    ("fields", "negative"),
    [
        ({"rating": "down"}, True),
        ({"rating": "up"}, False),
        ({"score": 0.49}, True),
        ({"score": 0.5}, False),
        ({"regenerate": True}, True),
        ({"regenerate": False}, False),
        ({"report": True}, True),
        ({"success": False}, True),
        ({"success": True}, False),
        ({"correction": "x"}, False),
    ],
)
def test_what_counts_as_negative(fields: dict[str, Any], negative: bool) -> None:
    assert Feedback(feedback_id="f", row_id="r", ts=1.0, **fields).negative is negative


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        (None, "body"),
        ({"rating": "up"}, "id"),
        ({"id": "", "rating": "up"}, "id"),
        ({"id": 5, "rating": "up"}, "id"),
        ({"id": "x"}, "body"),
        ({"id": "x", "rating": "sideways"}, "rating"),
        ({"id": "x", "score": 1.5}, "score"),
        ({"id": "x", "score": True}, "score"),
        ({"id": "x", "score": math.nan}, "score"),
        ({"id": "x", "correction": ""}, "correction"),
        ({"id": "x", "correction": "y" * 65_537}, "correction"),
        ({"id": "x", "correction": "\ud800"}, "correction"),
        ({"id": "x", "rating": "up", "choice": -1}, "choice"),
        ({"id": "x", "rating": "up", "stars": 5}, "stars"),
    ],
)
def test_malformed_feedback_names_the_field(body: Any, field: str) -> None:
    from ledger.errors import RecordError

    with pytest.raises(RecordError) as caught:
        parse_feedback(body)
    assert caught.value.field == field


def test_tags_are_appended_once_a_hand(store: Store) -> None:
    tags = [Tag(row_id="r", tag="x", who=who, why="w", ts=1.0) for who in ("a", "b", "a")]
    assert store.add_tags(tags) == 2
    assert store.add_tags(tags) == 0
    assert store.tags(["r", "s"]) == {"r": tags[:2]}
    assert store.tag_counts() == {"x": 1}
    with pytest.raises(ValueError, match="pattern"):
        Tag(row_id="r", tag="Not A Tag", who="a", ts=1.0)


def test_the_last_correction_holds(store: Store) -> None:
    store.add_interactions([row("a"), row("b")])

    def say(row_id: str, text: str, decision: Any) -> None:
        store.add_correction(
            Correction(
                row_id=row_id, ts=1.0, source="user", author="s", text=text, decision=decision
            )
        )

    say("a", "one", "proposed")
    say("b", "two", "proposed")
    say("a", "three", "accepted")
    assert {key: c.text for key, c in store.corrections().items()} == {"b": "two", "a": "three"}
    assert list(store.corrections(decision="proposed")) == ["b"]
    assert list(store.corrections(row_ids=["a"])) == ["a"]
    with pytest.raises(UnknownRow, match="'none'"):
        say("none", "x", "proposed")


def test_datasets_evaluations_and_cursors(store: Store) -> None:
    dataset = DatasetRecord(
        dataset_id="d", ts=1.0, alias="support", path="p", pairs=2, row_ids=["a", "b"]
    )
    store.add_dataset(dataset)
    store.add_dataset(dataset)
    with store.transaction() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.dataset_rows)) == 2
    evaluation = Evaluation(
        run_id="run",
        ts=1.0,
        alias="support",
        candidate="support@v1",
        baseline="base",
        verdict="fail",
        report={"gold": [0.5, None]},
    )
    store.add_evaluation(evaluation)
    better = evaluation.model_copy(update={"ts": 2.0, "verdict": "pass"})
    store.add_evaluation(better)
    assert store.evaluations("support") == {"support@v1": better}
    assert store.evaluations("other") == {}
    assert store.cursor("sweep") == 0
    with store.transaction() as connection:
        assert store.move_cursor("sweep", 5, expected=0, connection=connection)
        assert not store.move_cursor("sweep", 9, expected=4, connection=connection)
        assert store.move_cursor("sweep", 9, expected=5, connection=connection)
    assert store.cursor("sweep") == 9


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def half() -> None:
        with store.transaction() as connection:
            store.add_interactions([row("a")], connection)
            store.add_tags([Tag(row_id="a", tag="x", who="w", ts=1.0)], connection)
            raise KeyError("something else")

    with pytest.raises(KeyError):
        half()
    assert list(store.interactions()) == []
    assert store.tag_counts() == {}


def test_text_survives_packing() -> None:
    fields = {"a": "\ud800 \x00 \u2028", "b": [1, {"c": None}], "none": None}
    assert unpack(pack(fields)) == {"a": "\ud800 \x00 \u2028", "b": [1, {"c": None}]}
    for data in (b"", b"z{}", b"j[]", b"j{", b"j\xff"):
        with pytest.raises(LedgerError, match="cannot be read"):
            unpack(data)


# -- redaction ---------------------------------------------------------------------------

PLANTED = ("ada.planted@example.com", "+1 202-555-0173", "4111 1111 1111 1111", "4111111111111111")
TEXT = f"I am {PLANTED[0]}, call {PLANTED[1]} or charge {PLANTED[2]}"


def raw_bytes(folder: Path) -> bytes:
    """Everything on the disk, as a thief would find it, and as the text in it reads."""
    data = b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
    return data + data.decode(errors="replace").encode("unicode_escape")


def plainly(monkeypatch: pytest.MonkeyPatch, make_settings: MakeSettings, **privacy: Any) -> Store:
    """A ledger that neither compresses nor encrypts, so that what it holds can be searched."""
    monkeypatch.setattr("ledger.keys.pack._WORTH_COMPRESSING", 1 << 30)
    return Store.open(make_settings(privacy={"seal": False, **privacy}))


def fill(store: Store) -> None:
    """Text on every way into the ledger."""
    number = 4111111111111111
    store.add_interactions(
        [
            row(
                "r1",
                alias="support",
                messages=[
                    {"role": "user", "content": TEXT},
                    {"role": "user", "content": [{"type": "text", "text": TEXT}]},
                    {"role": "assistant", "tool_calls": [{"function": {"arguments": TEXT}}]},
                    {"role": "tool", "content": TEXT, "name": TEXT},
                ],
                response=TEXT,
                tools=[{"function": {"name": "f", "description": TEXT}}],
                metadata={TEXT: TEXT, "number": number, "float": float(number)},
                chat_template_kwargs={"note": TEXT, "number": number},
            )
        ]
    )
    fields = {"correction": TEXT, "reason": TEXT}
    store.add_feedback(Feedback(feedback_id="f", row_id="r1", ts=1.0, **fields))
    store.add_tags([Tag(row_id="r1", tag="x", who="w", why=TEXT, ts=1.0)])
    store.add_correction(
        Correction(
            row_id="r1",
            ts=1.0,
            source="user",
            author="s",
            text=TEXT,
            why=TEXT,
            decision="proposed",
        )
    )
    Deployments(store).promote("support", 1, who="operator:x", why=TEXT)


def test_no_personal_data_reaches_the_disk(
    monkeypatch: pytest.MonkeyPatch, make_settings: MakeSettings, tmp_path: Path
) -> None:
    store = plainly(monkeypatch, make_settings)
    fill(store)
    with_log = raw_bytes(tmp_path / "var")
    assert any((tmp_path / "var").glob("*-wal"))
    store.close()
    with closing(sqlite3.connect(tmp_path / "var/ledger.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for data in (with_log, raw_bytes(tmp_path / "var")):
        assert b"I am [EMAIL_1], call [PHONE_1] or charge [CARD_1]" in data
        for planted in PLANTED:
            assert planted.encode() not in data
        assert b"202-555" not in data
    assert store.redaction_failures == 0


def test_the_same_text_is_found_where_redaction_is_off(
    monkeypatch: pytest.MonkeyPatch, make_settings: MakeSettings, tmp_path: Path
) -> None:
    """The test above would see it."""
    store = plainly(monkeypatch, make_settings, redaction="none")
    fill(store)
    data = raw_bytes(tmp_path / "var")
    store.close()
    for planted in PLANTED:
        assert planted.encode() in data


@pytest.fixture
def broken(settings: Settings) -> Iterator[Store]:
    """A ledger whose redaction fails on every text."""

    class Fails(Redactor):
        known: ClassVar[dict[str, str]] = {}

        def conversation(self, known: Any = None) -> Any:
            return self

        def redact(self, value: Any) -> Any:
            raise RecursionError(f"too deep: {value}")

    opened = Store.open(settings)
    store = Store(opened.engine, Fails())
    yield store
    store.close()


def test_a_redaction_that_fails_keeps_no_text(
    broken: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(broken)
    data = raw_bytes(tmp_path / "var")
    assert b"I am" not in data
    for planted in PLANTED:
        assert planted.encode() not in data
        assert planted not in caplog.text
    assert "RecursionError" in caplog.text
    assert broken.redaction_failures == 5
    kept = broken.interaction("r1")
    assert (kept.messages, kept.response, kept.stored_text) == (None, None, False)
    assert [f.correction for _, f in broken.feedback()] == [None]
    assert broken.tags(["r1"])["r1"][0].why == ""
    assert broken.corrections() == {}  # without its text it says nothing
    assert Deployments(broken).state("support").live == 1  # what is live does not hang on text
