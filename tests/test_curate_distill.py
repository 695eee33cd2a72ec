"""Distill against a real HTTP server: what is asked, kept, paid and accepted; what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSettings
from curate_rows import SYSTEM, add_row
from teacher import Reply, Script, TeacherServer
from tiny import write_config

from curate.distill import Report, distill
from curate.distill.choose import AGREES, FAILED
from curate.distill.compare import parse
from ledger.errors import ConfigError, ServerError
from ledger.records import Correction, Tag
from ledger.settings import Settings
from ledger.store import Spent, Store

PRICES = {"prompt_price": 1.0, "completion_price": 10.0}  # a million tokens
ONE = (100 * 1.0 + 10 * 10.0) / 1e6  # what one answer of the server costs
FENCED = '```json\n{"better": "B"}\n```'
CHECKS = [{"type": "regex", "value": "^(delivery|billing)$"}]

BEGUN = [
    {"role": "user", "content": "Say"},
    {"role": "assistant", "content": "Well,"},
]


class Bench:
    """A ledger, a server and settings that fit."""

    def __init__(self, make_settings: MakeSettings, store: Store, server: TeacherServer) -> None:
        self._make, self.store, self.server = make_settings, store, server
        self.alias: dict[str, Any] = {}
        self.teacher: dict[str, Any] = {"retries": 2, "concurrency": 4, "max_tokens": 50}
        self.judge: dict[str, Any] | None = None
        self.curate: dict[str, Any] = {}

    @property
    def settings(self) -> Settings:
        section = {"url": self.server.url, "model": "big"}
        curate: dict[str, Any] = {"teacher": section | self.teacher, **self.curate}
        if self.judge is not None:
            curate["judge"] = section | {"model": "judge", "retries": 0} | self.judge
        return self._make(curate=curate, aliases={"support": self.alias})

    def run(self, **options: Any) -> Report:
        return distill(self.settings, self.store, "support", **options)

    def wait(self, *row_ids: str, **fields: Any) -> None:
        """Rows that wait in the queue, the first one in front."""
        for number, row_id in enumerate(row_ids):
            add_row(self.store, row_id, f"Question {row_id}?", **{"ts": 900.0 - number} | fields)
            said = Tag(row_id=row_id, tag="user_negative", who="rule:feedback", ts=1.0)
            self.store.add_tags([said])

    def said(self) -> dict[str, Correction]:
        return self.store.corrections()

    def tags(self, row_id: str) -> dict[str, str]:
        return {tag.tag: tag.why for tag in self.store.tags([row_id]).get(row_id, [])}


@pytest.fixture
def bench(make_settings: MakeSettings, store: Store) -> Callable[[Script], Any]:
    @contextmanager
    def make(script: Script = lambda body, number: Reply()) -> Iterator[Bench]:
        with TeacherServer(script) as server:
            yield Bench(make_settings, store, server)

    return make


MakeBench = Callable[..., Any]


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


# -- what is asked -------------------------------------------------------------------------------


def test_answers_wait_for_an_operator_and_nothing_is_asked_twice(bench: MakeBench) -> None:
    with bench() as b:
        b.wait("a", "b")
        b.teacher |= PRICES
        done = b.run()
        assert (done.asked, done.proposed, done.left, done.stopped) == (2, 2, 0, "")
        for row_id in ("a", "b"):
            one = b.said()[row_id]
            assert (one.text, one.source, one.author) == ("delivery", "teacher", "big")
            assert (one.decision, one.why) == ("proposed", "waits for an operator")
        assert b.store.waiting("support") == {0: 2}
        spent = b.store.spending("support")["teacher", "big"]
        assert spent[:3] == (2, 200, 20)
        assert spent.cost == pytest.approx(2 * ONE)
        assert done.teacher.cost == pytest.approx(2 * ONE)
        assert b.run().rows == 0
        assert len(b.server.seen) == 2


@pytest.mark.sqlite
def test_the_conversation_is_sent_as_stored_behind_the_instructions(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_TEACHER_KEY", "sesame")
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
    with bench() as b:
        question = "I am ada@example.org"
        b.wait("a", messages=[SYSTEM, {"role": "user", "content": question}], tools=[tool])
        b.wait("b", messages=[{"role": "user", "content": "Hi"}])
        b.teacher |= {"instructions": "Be brief.", "concurrency": 1, "temperature": 0.5}
        b.run()
        first, second = b.server.seen
        assert first["messages"][0]["content"] == f"Be brief.\n\n{SYSTEM['content']}"
        assert "ada@example.org" not in json.dumps(b.server.seen)
        assert asked(first).startswith("I am [EMAIL")
        assert (first["tools"], first["model"], first["max_tokens"]) == ([tool], "big", 50)
        assert first["temperature"] == 0.5
        assert second["messages"][0] == {"role": "system", "content": "Be brief."}
        assert "tools" not in second
        assert b.server.keys == ["Bearer sesame"] * 2


@pytest.mark.sqlite
def test_the_queue_comes_first_then_tagged_rows_and_nothing_that_was_judged(
    bench: MakeBench,
) -> None:
    with bench() as b:
        b.teacher["concurrency"] = 1
        b.wait("old", "new", "judged", "corrected")
        for row_id, tag in (("tagged", "vip"), ("imported", "imported"), ("plain", "")):
            add_row(b.store, row_id, f"Question {row_id}?")
            if tag:
                b.store.add_tags([Tag(row_id=row_id, tag=tag, who="operator:ada", ts=1.0)])
        with b.store.transaction() as connection:
            b.store.add_review("judged", "ada", "operator", "good", connection)
        mine = {"source": "user", "author": "s", "decision": "proposed"}
        b.store.add_correction(Correction(row_id="corrected", ts=1.0, text="x", **mine))
        assert b.run(limit=1).asked == 1
        assert b.run().asked == 2
        assert b.run(tag="imported").asked == 1
        assert [asked(body) for body in b.server.seen] == [
            f"Question {row_id}?" for row_id in ("old", "new", "tagged", "imported")
        ]


@pytest.mark.sqlite
def test_rows_that_cannot_be_asked_about_are_counted(bench: MakeBench) -> None:
    with bench() as b:
        b.wait("completion", api="completions")
        b.wait("begun", messages=BEGUN)
        b.wait("gone", stored_text=False)
        b.wait("fine")
        done = b.run()
        assert (done.rows, done.asked, done.left) == (1, 1, 0)
        assert done.skipped == {
            "a text completion, not a conversation": 1,
            "the prompt ends with the start of an answer": 1,
        }


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.sqlite
def test_passing_errors_are_tried_again(bench: MakeBench) -> None:
    with bench(lambda body, number: Reply(status={1: 429, 2: 500}.get(number, 200))) as b:
        b.wait("a")
        done = b.run()
        assert (done.asked, done.unanswered, len(b.server.seen)) == (1, 0, 3)
        assert done.teacher.calls == 1


@pytest.mark.sqlite
def test_a_question_without_an_answer_in_time_is_asked_by_the_next_run(bench: MakeBench) -> None:
    hold = threading.Event()

    def slow(body: dict[str, Any], number: int) -> Reply:
        return Reply(hold=hold if asked(body) == "Question a?" and number <= 2 else None)

    with bench(slow) as b:
        b.wait("a", "b")
        b.teacher |= {"timeout_seconds": 0.3, "retries": 0, "concurrency": 1}
        first = b.run()
        hold.set()
        assert (first.asked, first.unanswered, first.why) == (
            1,
            1,
            {"no answer in time": 1, "waits for an operator": 1},
        )
        assert set(b.said()) == {"b"}
        assert b.run(limit=5).asked == 1


@pytest.mark.sqlite
def test_what_cannot_be_used_is_remembered_and_leaves_the_row_in_the_queue(
    bench: MakeBench,
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    replies = {
        "a": Reply(status=400),
        "b": Reply(raw=b"<html>"),
        "c": Reply(raw=b'{"choices": []}'),
        "d": Reply(text=None, message={"tool_calls": [call]}),
        "e": Reply(text=" "),
        "f": Reply(text="deliv", finish="length"),
        "g": Reply(text=None, message={"refusal": "no"}),
        "h": Reply(text="<think>hm</think> delivery"),
    }
    with bench(lambda body, number: replies[asked(body)[9]]) as b:
        b.wait(*replies)
        done = b.run()
        assert (done.asked, done.failed, done.rejected, done.proposed) == (8, 6, 1, 1)
        assert b.tags("a")[FAILED] == "HTTP 400"
        assert b.tags("b")[FAILED] == "an answer that is none of the OpenAI protocol"
        assert b.tags("c")[FAILED] == "an answer that is none of the OpenAI protocol"
        assert b.tags("d")[FAILED] == "it calls tools"
        assert b.tags("e")[FAILED] == "it is empty"
        assert b.tags("g")[FAILED] == "it refuses"
        cut = b.said()["f"]
        assert (cut.decision, cut.why) == ("rejected", "it is cut off after 50 tokens")
        assert b.said()["h"].text == "delivery"
        assert b.store.waiting("support") == {0: 1, 3: 7}
        assert b.run().rows == 0


@pytest.mark.sqlite
def test_an_endpoint_that_is_away_ends_the_run_and_keeps_what_came(bench: MakeBench) -> None:
    with bench(lambda body, number: Reply(status=200 if number == 1 else 503)) as b:
        b.wait(*(f"row-{letter}" for letter in "abcdefghij"))
        b.teacher |= {"retries": 0, "concurrency": 1}
        with pytest.raises(ServerError, match="answered none of 5 questions: HTTP 503"):
            b.run()
        assert len(b.said()) == 1
        assert len(b.server.seen) == 6


@pytest.mark.sqlite
def test_a_refused_key_and_an_unknown_model_are_said_at_once(bench: MakeBench) -> None:
    for status, words in ((401, "refused the API key"), (404, "does not know 'big'")):
        with bench(lambda body, number, status=status: Reply(status=status)) as b:
            if status == 401:
                b.wait("a")
            with pytest.raises(ServerError, match=words):
                b.run()
            assert len(b.server.seen) == 1


@pytest.mark.sqlite
def test_a_row_that_somebody_corrects_meanwhile_keeps_their_word(bench: MakeBench) -> None:
    store: list[Store] = []

    def overtake(body: dict[str, Any], number: int) -> Reply:
        mine = {"source": "operator", "author": "ada", "decision": "accepted"}
        store[0].add_correction(Correction(row_id="a", ts=1.0, text="by hand", **mine))
        return Reply()

    with bench(overtake) as b:
        store.append(b.store)
        b.wait("a")
        done = b.run()
        assert (done.overtaken, done.teacher.calls) == (1, 1)
        assert b.said()["a"].text == "by hand"


@pytest.mark.sqlite
def test_a_run_that_is_killed_goes_on_where_it_was(bench: MakeBench, tmp_path: Path) -> None:
    hold, third = threading.Event(), threading.Event()

    def script(body: dict[str, Any], number: int) -> Reply:
        if number == 3:
            third.set()
            return Reply(hold=hold)
        return Reply()

    with bench(script) as b:
        b.wait(*"abcde")
        b.teacher |= {"concurrency": 1} | PRICES
        config = write_config(b.settings, tmp_path / "config.yaml")
        code = (
            "import sys\n"
            "from flywheel.commands.distill import distill\n"
            "from flywheel.commands.console import Context\n"
            "distill(['support'], obj=Context(sys.argv[1]))\n"
        )
        running = subprocess.Popen(
            [sys.executable, "-c", code, str(config)], cwd=Path(__file__).parents[1]
        )
        try:
            assert third.wait(60)
        finally:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
        hold.set()
        assert set(b.said()) == {"a", "b"}
        assert b.store.spending()["teacher", "big"].calls == 2
        done = b.run()
        assert (done.asked, set(b.said())) == (3, set("abcde"))
        times = [asked(body) for body in b.server.seen]
        assert {q: times.count(q) for q in times} == {
            f"Question {row_id}?": 2 if row_id == "c" else 1 for row_id in "abcde"
        }


# -- what it costs -------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_budget_is_not_exceeded_however_many_are_asked_at_once(bench: MakeBench) -> None:
    with bench() as b:
        b.wait(*(f"row-{number}" for number in range(30)))
        b.teacher |= PRICES
        dry = b.run(dry_run=True)
        assert dry.most is not None
        worst = dry.most / 30  # of one row
        assert (dry.rows, b.server.seen, worst > ONE) == (30, [], True)
        done = b.run(budget=10 * ONE)
        assert done.stopped == "budget"
        assert done.teacher.cost is not None
        assert 10 * ONE - worst < done.teacher.cost <= 10 * ONE
        assert done.asked + done.left == 30
        assert "stopped by the budget" in done.text()
        assert b.run(budget=1.0).asked == done.left
        assert b.store.spending()["teacher", "big"].cost == pytest.approx(30 * ONE)


@pytest.mark.sqlite
def test_what_is_under_way_is_set_aside_at_its_worst(bench: MakeBench) -> None:
    with bench(lambda body, number: Reply(usage=None)) as b:  # each takes all it can
        b.wait(*"abcdef")
        b.teacher |= PRICES
        most = b.run(dry_run=True).most
        done = b.run(budget=most / 6 * 2.5)
        assert (done.asked, len(b.server.seen), done.left) == (2, 2, 4)
        assert done.teacher.cost == pytest.approx(most / 6 * 2)


@pytest.mark.sqlite
def test_the_judge_is_paid_from_the_same_budget(bench: MakeBench) -> None:
    with bench(judge_by(lambda a, b: "A" if a == "delivery" else "B")) as b:
        b.wait("a")
        b.teacher |= PRICES
        b.judge = PRICES
        done = b.run(accept="judge", budget=b.run(dry_run=True).most)
        assert (done.proposed, done.judge.calls) == (1, 0)
        assert b.said()["a"].why == "the budget was spent before the judge could be asked"


@pytest.mark.sqlite
def test_several_are_asked_at_once_but_not_more_than_allowed(bench: MakeBench) -> None:
    together = threading.Barrier(4, timeout=20)

    def script(body: dict[str, Any], number: int) -> Reply:
        together.wait()
        return Reply()

    with bench(script) as b:
        b.wait(*(f"row-{letter}" for letter in "abcdefgh"))
        assert b.run().asked == 8
        assert b.server.most_at_once == 4


@pytest.mark.sqlite
def test_without_prices_tokens_are_counted_and_a_budget_is_refused(bench: MakeBench) -> None:
    with bench(lambda body, number: Reply(usage=(3, 4))) as b:
        b.wait("a")
        with pytest.raises(ConfigError, match="a budget of 1 was given"):
            b.run(budget=1.0)
        done = b.run()
        assert done.teacher == Spent(1, 3, 4, None)
        assert "3 + 4 tokens, no prices are set" in done.text()
        assert b.store.spending()["teacher", "big"] == Spent(1, 3, 4, None)


@pytest.mark.sqlite
def test_an_answer_without_a_count_is_taken_for_the_worst_case(bench: MakeBench) -> None:
    with bench(lambda body, number: Reply(usage=None)) as b:
        b.wait("a")
        b.teacher |= PRICES
        most = b.run(dry_run=True).most
        assert b.run().teacher.cost == pytest.approx(most)


# -- who agrees ----------------------------------------------------------------------------------


def test_the_answer_that_was_given_is_good_where_the_teacher_gives_it_too(
    bench: MakeBench,
) -> None:
    with bench(lambda body, number: Reply("wrong")) as b:
        b.wait("a")
        done = b.run()
        assert (done.agrees, b.said()) == (1, {})
        assert AGREES in b.tags("a")
        assert b.run().rows == 0


@pytest.mark.sqlite
def test_an_answer_that_passes_the_checks_is_accepted_where_there_are_checks(
    bench: MakeBench,
) -> None:
    replies = {"a": "delivery", "b": "somewhere else"}
    with bench(lambda body, number: Reply(replies[asked(body)[9]])) as b:
        b.wait("a", "b")
        with pytest.raises(ConfigError, match="A check that accepts everything is none"):
            b.run(accept="check")
        assert b.server.seen == []
        b.alias = {"answer_checks": CHECKS}
        done = b.run(accept="check")
        assert (done.accepted, done.rejected) == (1, 1)
        assert (b.said()["a"].decision, b.said()["b"].decision) == ("accepted", "rejected")
        assert b.said()["a"].why == "passes the checks of support"
        assert "fails a check of the alias" in b.said()["b"].why
        assert b.store.waiting("support") == {3: 1}


def judge_by(pick: Callable[[str, str], str]) -> Script:
    """A teacher that says `delivery`, and a judge of its own mind about answers A and B."""

    def script(body: dict[str, Any], number: int) -> Reply:
        if body["model"] != "judge":
            return Reply("delivery")
        data = json.loads(asked(body))
        return Reply(pick(data["A"], data["B"]), usage=(10, 1))

    return script


@pytest.mark.parametrize(
    ("pick", "decision", "why"),
    [
        (lambda a, b: '{"better": "A"}' if a == "delivery" else "B", "accepted", "in both orders"),
        (lambda a, b: FENCED if a == "delivery" else "A", "rejected", "as it was"),
        (lambda a, b: '{"better": "A"}', "proposed", "prefers A, whichever that is"),
        (lambda a, b: '{"better": "B"}', "proposed", "prefers B, whichever that is"),
        (lambda a, b: "I think A is better", "proposed", "does not prefer it"),
        (lambda a, b: "A" if a == "delivery" else '{"better": "tie"}', "proposed", "not prefer it"),
    ],
)  # fmt: skip
@pytest.mark.sqlite
def test_only_a_judge_who_prefers_it_in_both_orders_accepts(
    bench: MakeBench, pick: Callable[[str, str], str], decision: str, why: str
) -> None:
    with bench(judge_by(pick)) as b:
        b.wait("a")
        b.teacher |= PRICES
        b.judge = PRICES | {"instructions": "Be strict."}
        done = b.run(accept="judge")
        said = b.said()["a"]
        assert said.decision == decision
        assert why in said.why
        assert done.judge[:3] == (2, 20, 2)
        assert done.judge.cost == pytest.approx(40 / 1e6)
        assert b.store.spending()["judge", "judge"].calls == 2
        assert b.server.seen[1]["messages"][0]["content"].startswith("Be strict.\n\n")


@pytest.mark.sqlite
def test_a_judge_who_cannot_be_asked_accepts_nothing(bench: MakeBench) -> None:
    def script(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=500) if body["model"] == "judge" else Reply("delivery")

    with bench(script) as b:
        b.wait("a")
        with pytest.raises(ConfigError, match=r"curate\.judge is not set"):
            b.run(accept="judge")
        b.judge = {}
        assert b.run(accept="judge").proposed == 1
        assert b.said()["a"].why == "the judge could not be asked: HTTP 500"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("A", "A"),
        (' {"better": "B"} ', "B"),
        ("tie", "tie"),
        ('{"better": "C"}', "tie"),
        ('{"better": "A", "why": "…"}', "tie"),
        ('{"better": ["A"]}', "tie"),
        ("A is better", "tie"),
        ("", "tie"),
        ("[" * 100_000, "tie"),
    ],
)
def test_a_judges_word_is_read_strictly(said: str, meant: str) -> None:
    assert parse(said) == meant


@pytest.mark.sqlite
def test_without_a_teacher_there_is_nothing_to_ask(settings: Settings, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"curate\.teacher is not set"):
        distill(settings, store, "support")
