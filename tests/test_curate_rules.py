"""Rules in YAML: reading them, matching, trying them on the past, and what a sweep does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from curate_rows import add_feedback, add_row, make_settings

from curate.tagging import rules as rules_module
from curate.tagging.matching import Matcher
from curate.tagging.rules import COLUMNS, Rule, load_rules
from curate.tagging.sweep import sweep
from curate.tagging.tags import add_tag
from curate.tagging.trial import run
from flywheel.commands.console import Context
from flywheel.commands.tag import acceptance, tag
from ledger.database import tables
from ledger.errors import ConfigError
from ledger.records import Tag
from ledger.store import Store

pytestmark = pytest.mark.sqlite

NOW = time.time()


@pytest.fixture
def settings(tmp_path, ledger_url):
    return make_settings(tmp_path, url=ledger_url)


@pytest.fixture
def store(settings):
    store = Store.open(settings)
    yield store
    store.close()


def rule(name: str = "r", sample: float = 1.0, tag: str = "t", **when: Any) -> Rule:
    return Rule(name=name, tag=tag, sample=sample, when=when)


def matching(store: Store, *wanted: Rule) -> list[str]:
    with store.reading() as connection:
        rows = connection.execute(sa.select(*COLUMNS).order_by(tables.interactions.c.seq)).all()
    return Matcher(wanted, store).match(rows).rows[wanted[0].name]


def marks(store: Store, row_id: str) -> set[tuple[str, str]]:
    return {(tag.tag, tag.who) for tag in store.tags([row_id]).get(row_id, [])}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# -- reading -------------------------------------------------------------------------------------


def test_the_example_is_parsed():
    assert {one.name for one in load_rules(["configs/rules/example.yaml"])} >= {
        "cut-off",
        "declined",
    }


def test_all_errors_are_listed_with_file_and_rule(tmp_path):
    first = write(
        tmp_path / "first.yaml",
        """
- {name: one, when: {finish_reson: length}, tag: t}
- {name: two, when: {mean_logprob: {under: -1}}, tag: Two Words}
- {name: three, when: {question: {matches: "("}}, tag: t, sample: 2}
- {name: four, when: {}, tag: t}
- {when: {alias: support}, tag: t}
- {name: six, when: {latency_ms: {above: 3, below: 2}}, tag: t, colour: red}
- just words
""",
    )
    second = write(tmp_path / "second.yaml", "- {name: two, when: {alias: a}, tag: t}\n")
    other = write(tmp_path / "other.yaml", "- {name: two, when: {alias: a}, tag: t}\n")
    broken = write(tmp_path / "broken.yaml", "- {name: [\n")
    twice = write(tmp_path / "twice.yaml", "- {name: a, name: b, when: {alias: a}, tag: t}\n")
    with pytest.raises(ConfigError) as caught:
        load_rules([first, second, other, broken, twice, tmp_path / "absent.yaml"])
    said = str(caught.value)
    for part in (
        "first.yaml: rule one: when.finish_reson: no such key",
        "first.yaml: rule two: when.mean_logprob.under: no such key",
        "first.yaml: rule two: tag:",
        "first.yaml: rule three: when.question.matches: '(' is not a regular expression",
        "first.yaml: rule three: sample:",
        "first.yaml: rule four: when: no condition",
        "first.yaml: rule 5: name: Field required",
        "first.yaml: rule six: when.latency_ms: nothing is above 3 and below 2",
        "first.yaml: rule six: colour: no such key",
        "first.yaml: rule 7:",
        "other.yaml: rule 'two': the name is used already in",
        "broken.yaml: cannot be read as YAML",
        "twice.yaml: cannot be read as YAML: name: given twice",
        "absent.yaml: No such file",
    ):
        assert part in said


# -- matching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({"alias": "support"}, "abc"),
        ({"version": "support@*"}, "ac"),
        ({"version": "support@v1"}, "a"),
        ({"arm": "candidate"}, "c"),
        ({"api": "messages"}, "b"),
        ({"finish_reason": "length"}, "c"),
        ({"mean_logprob": {"below": -1}}, "b"),
        ({"mean_logprob": {"above": -1}}, "a"),  # `c` has none
        ({"min_logprob": {"above": -3, "below": -1}}, "b"),
        ({"completion_tokens": {"above": 10}}, "c"),
        ({"prompt_tokens": {"below": 5}}, "ab"),
        ({"latency_ms": {"above": 100}, "ttft_ms": {"below": 9}}, "c"),
        ({"hour": {"above": 11}}, "b"),
        ({"question": {"contains": "REFUND"}}, "b"),
        ({"question": {"matches": r"parcel \d+"}}, "c"),
        ({"answer": {"equals": "Delivery "}}, "a"),
        ({"answer": {"matches": "^re"}, "alias": "support"}, "b"),
        ({"metadata.plan": "pro"}, "c"),
        ({"metadata": {"seats": 3}}, "c"),
        ({"tagged": "vip"}, "a"),
        ({"not_tagged": "vip"}, "bcd"),
        ({"feedback": "negative"}, "b"),
        ({"feedback": "any"}, "bc"),
        ({"feedback": "none"}, "ad"),
        ({"cluster": 7}, "a"),
        ({"cluster": "cards / lost"}, "a"),
        ({"cluster": "cards / lost", "not_tagged": "vip"}, ""),
    ],
)
def test_conditions(store, when, fits):
    add_row(store, "a", "Where is it?", "delivery", ts=3600.0, min_logprob=-0.5)
    add_row(
        store, "b", "I want a refund", "refund", ts=12 * 3600.0, api="messages", version="base",
        mean_logprob=-2, min_logprob=-2,
    )  # fmt: skip
    add_row(
        store, "c", "Where is parcel 12?", "later", ts=3600.0, arm="candidate", mean_logprob=None,
        finish_reason="length", completion_tokens=99, prompt_tokens=50, latency_ms=300, ttft_ms=3,
        version="support@v2", metadata={"plan": "pro", "seats": 3},
    )  # fmt: skip
    add_row(
        store, "d", ts=3600.0, messages=None, response=None, stored_text=False, alias="other",
        version="other@v1", mean_logprob=-1, prompt_tokens=9,
    )  # fmt: skip
    store.add_tags([Tag(row_id="a", tag="vip", who="operator:op", ts=1.0)])
    add_feedback(store, "b", score=0.1)
    add_feedback(store, "c", rating="up")
    cluster = {"alias": "support", "cluster": 7, "ts": 1.0}
    rest = {"space": 1, "terms": "[]", "centroid": b"", "members": 1}
    with store.transaction() as connection:
        insert = sa.insert(tables.clusters)
        connection.execute(insert.values(**cluster, **rest, name="cards / lost"))
        member = {"row_id": "a", "traffic": True, "weight": 1.0}
        connection.execute(sa.insert(tables.cluster_rows).values(**cluster, **member))
    assert "".join(matching(store, rule(**when))) == fits


def test_a_sample_is_the_same_each_time_and_another_for_another_rule(store):
    for number in range(300):
        add_row(store, f"r{number}")
    [one] = run(store, [rule("one", 0.3, alias="support")], since=0.0)
    assert (one.matched, one.tagged) == (300, one.sampled)
    assert 60 < one.sampled < 120
    first, second = rule("one", 0.3, alias="support"), rule("two", 0.3, alias="support")
    ids = [f"r{number}" for number in range(300)]
    chosen = {row_id for row_id in ids if first.sampled(store, row_id)}
    assert len(chosen) == one.sampled
    assert chosen != {row_id for row_id in ids if second.sampled(store, row_id)}


def test_a_pattern_that_takes_too_long_is_counted(store, monkeypatch):
    monkeypatch.setattr(rules_module, "PATTERN_SECONDS", 0.02)
    add_row(store, "a", "a" * 60 + "!")
    add_row(store, "b", "aaa")
    slow = rule(question={"matches": "^(?:(a|a|a)|(a|a))*$"})
    [found] = run(store, [slow], since=0.0)
    assert (found.matched, found.timeouts) == (1, 1)
    assert found.examples == ["b"]


def test_text_is_opened_only_for_rows_that_fit_otherwise(store):
    opened = []

    class Watching(Store):
        def interactions(self, **fields):
            opened.extend(fields["row_ids"])
            return super().interactions(**fields)

    for number in range(4):
        add_row(store, f"r{number}", mean_logprob=-number)
    watching = Watching(store.engine, secrets=store._secrets, privacy=store._privacy)
    first = rule("columns", alias="support")
    second = rule("text", mean_logprob={"below": -2.5}, question={"contains": "parcel"})
    assert matching(watching, first, second) == ["r0", "r1", "r2", "r3"]
    assert opened == ["r3"]


# -- in a sweep ----------------------------------------------------------------------------------


def with_rules(tmp_path: Path, url: str, text: str) -> Any:
    path = write(tmp_path / "rules.yaml", text)
    return make_settings(tmp_path, url=url, rules=[str(path)])


def test_a_sweep_applies_rules_and_their_rows_wait(tmp_path, ledger_url, store):
    settings = with_rules(
        tmp_path,
        ledger_url,
        "- {name: cut, when: {finish_reason: length}, tag: cut-off, why: too long}\n",
    )
    add_row(store, "a", finish_reason="length")
    add_row(store, "b", finish_reason="stop")
    assert sweep(settings, store).tags == {"cut-off": 1}
    assert marks(store, "a") == {("cut-off", "rule:cut")}
    assert store.tags(["a"])["a"][0].why == "too long"
    assert [one.row_id for one in store.queued("support", 10)] == ["a"]
    assert sweep(settings, store).tags == {}


def test_rules_about_feedback_and_tags_are_asked_again_when_some_comes(tmp_path, ledger_url, store):
    settings = with_rules(
        tmp_path,
        ledger_url,
        """
- {name: bad, when: {feedback: negative, alias: support}, tag: bad}
- {name: vip-bad, when: {tagged: vip, feedback: negative}, tag: vip-bad}
- {name: chain, when: {tagged: vip-bad}, tag: call-them}
- {name: silent, when: {feedback: none, finish_reason: length}, tag: silent}
""",
    )
    add_row(store, "a")
    add_row(store, "b", finish_reason="length")
    assert sweep(settings, store).tags == {"silent": 1}
    add_feedback(store, "a", rating="up", subject="s9")
    assert sweep(settings, store).tags == {}
    add_feedback(store, "a", rating="down")
    assert sweep(settings, store).tags == {"user_negative": 1, "bad": 1}
    add_tag(store, "a", "vip", "operator:op")
    assert sweep(settings, store).tags == {"vip-bad": 1, "call-them": 1}
    assert sweep(settings, store).tags == {}


def test_a_rule_holds_for_what_comes_after_it(tmp_path, ledger_url, settings, store):
    add_row(store, "a", finish_reason="length")
    add_tag(store, "a", "vip", "operator:op")
    sweep(settings, store)
    later = with_rules(
        tmp_path,
        ledger_url,
        "- {name: cut, when: {finish_reason: length}, tag: cut}\n"
        "- {name: vip, when: {tagged: vip}, tag: seen}\n",
    )
    add_row(store, "b", finish_reason="length")
    assert sweep(later, store).tags == {"cut": 1}
    assert marks(store, "a") == {("vip", "operator:op")}


def test_rules_about_clusters_see_rows_that_were_clustered_later(tmp_path, ledger_url, store):
    settings = with_rules(
        tmp_path, ledger_url, "- {name: lost, when: {cluster: 3}, tag: lost-card}\n"
    )
    for name in "abc":
        add_row(store, name, ts=NOW - 60)
    assert sweep(settings, store).tags == {}
    with store.transaction() as connection:
        values = {"alias": "support", "ts": NOW - 60, "traffic": True, "weight": 1.0}
        for name, cluster in (("a", 3), ("b", 4), ("c", None)):
            row = {**values, "row_id": name, "cluster": cluster}
            connection.execute(sa.insert(tables.cluster_rows).values(row))
    assert sweep(settings, store).tags == {"lost-card": 1}
    assert marks(store, "a") == {("lost-card", "rule:lost")}
    assert sweep(settings, store).tags == {}


# -- on the past, by command ---------------------------------------------------------------------


def call(settings: Any, store: Store, command: Any, *words: str) -> Any:
    shared = Context(None)
    shared._loaded = (settings, "none")
    shared.store = store
    return CliRunner().invoke(command, list(words), obj=shared, catch_exceptions=False)


def everything(store: Store) -> dict[str, list[Any]]:
    with store.reading() as connection:
        return {
            name: [tuple(row) for row in connection.execute(sa.select(table))]
            for name, table in tables.metadata.tables.items()
        }


def test_a_dry_run_says_what_a_rule_would_do_and_writes_nothing(tmp_path, settings, store):
    path = write(
        tmp_path / "r.yaml",
        "- {name: cut, when: {finish_reason: length}, tag: cut-off}\n"
        "- {name: parcels, when: {question: {contains: parcel}}, tag: parcels, sample: 0.5}\n",
    )
    for number in range(40):
        reason = "length" if number % 4 == 0 else "stop"
        add_row(store, f"r{number}", finish_reason=reason, ts=NOW - 3600 * number)
    add_row(store, "old", finish_reason="length", ts=NOW - 30 * 86_400)
    store.add_tags([Tag(row_id="r0", tag="cut-off", who="rule:cut", ts=NOW)])
    before = everything(store)
    done = call(settings, store, tag, "--rule", str(path), "--dry-run", "--since", "2d")
    assert everything(store) == before
    assert done.output.splitlines()[:3] == [
        "cut: 10 rows match, 10 are in its sample, 1 have its tag already",
        "  9 would be tagged cut-off (4.5 a day), 9 would be new in the queue",
        "  such as r36, r32, r28, r24, r20",
    ]
    said = call(
        settings, store, tag, "--rule", str(path), "--dry-run", "--since", "2d", "--json"
    ).output
    half = json.loads(said)[1]
    assert (half["matched"], half["tagged"]) == (40, half["sampled"])
    assert 8 <= half["sampled"] <= 32
    # What was said is what happens.
    waited = sum(store.waiting().values())
    call(settings, store, tag, "--rule", str(path), "--since", "2d")
    assert store.tag_counts() == {"cut-off": 10, "parcels": half["sampled"]}
    again = json.loads(call(settings, store, tag, "--rule", str(path), "--json").output)
    assert [one["tagged"] for one in again] == [0, 0]
    assert sum(store.waiting().values()) > waited


def test_tags_by_command_on_a_row_and_on_a_window(settings, store):
    for number in range(5):
        add_row(store, f"r{number}", ts=1_700_000_000.0 + 3600 * number)
    add_row(store, "elsewhere", ts=1_700_000_000.0 + 3600, alias="other")
    assert call(settings, store, tag, "r0", "vip", "--because", "asked").output == (
        "r0 is tagged vip\n"
    )
    assert "already" in call(settings, store, tag, "r0", "vip").output
    window = ("--window", "2023-11-14T23:00", "2023-11-15T02:00")
    done = call(settings, store, tag, *window, "support", "drift_window")
    assert done.output == "3 rows of support are newly tagged drift_window\n"
    assert call(settings, store, tag, *window, "support", "drift_window").output.startswith("0 ")
    assert store.row_ids(tag="drift_window") == ["r1", "r2", "r3"]
    assert store.waiting() == {}  # too many for eyes
    for wrong in (("r0",), ("--dry-run", "r0", "x"), ("--window", "soon", "now", "x")):
        assert call(settings, store, tag, *wrong).exit_code == 2


def test_acceptance_by_command(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery", ts=NOW)
    sweep(settings, store)
    found = json.loads(call(settings, store, acceptance, "support", "--json").output)
    assert found["decisions"] == {"user": {"proposed": 1}}
    assert "new user" in call(settings, store, acceptance, "support", "--since", "1h").output
