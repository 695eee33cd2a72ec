"""Every check with answers that pass and answers that do not."""

import time

import pytest
from pydantic import TypeAdapter

from ledger.checking import run_check, score
from ledger.checks import Check, normalise
from ledger.gold import GoldQuestion

SCHEMA = {
    "$defs": {"queue": {"enum": ["cards", "refunds"]}},
    "type": "object",
    "properties": {"queue": {"$ref": "#/$defs/queue"}, "code": {"pattern": "^[A-Z]+$"}},
    "required": ["queue"],
}


def passes(kind, value, answer, **options):
    check = TypeAdapter(Check).validate_python({"type": kind, "value": value} | options)
    result = run_check(check, answer)
    assert result.passed == (result.reason == "")
    return result.passed


@pytest.mark.parametrize(
    ("kind", "value", "answer", "expected"),
    [
        ("exact", "Card", "Card", True),
        ("exact", "Card", "Card\n", True),
        ("exact", "Card", "Card\r\n", True),
        ("exact", "Card\n", "Card\n", True),
        ("exact", "Card", "Card\n\n", False),
        ("exact", "Card", " Card", False),
        ("exact", "Card", "card", False),
        ("exact", "", "", True),
        ("normalised", "card arrival", ' "Card   Arrival." \n', True),
        ("normalised", "card arrival", "**card\narrival**", True),
        ("normalised", "straße", "STRASSE", True),
        ("normalised", "ﬁne", "Fine！", True),
        ("normalised", "5", "-5", False),
        ("normalised", "5", ".5", False),
        ("normalised", "5", "5%", False),
        ("normalised", "card arrival", "card-arrival", False),
        ("normalised", "card arrival", "the card arrival", False),
        ("normalised", "card arrival", "", False),
        ("contains", "card", "a card!", True),
        ("contains", "card", "a CARD!", False),
        ("regex", r"\d{3}", "code 123", True),
        ("regex", r"^\d{3}$", "code 123", False),
        ("regex", r"(?i)CODE", "code", True),
        ("json_equal", {"a": 1, "b": [True, None]}, '{"b": [true, null], "a": 1.0}', True),
        ("json_equal", {"a": 1}, '{"a": true}', False),
        ("json_equal", {"a": False}, '{"a": 0}', False),
        ("json_equal", {"a": 1}, '{"a": 1, "b": 2}', False),
        ("json_equal", [1, 2], "[2, 1]", False),
        ("json_equal", [1], "[1, 2]", False),
        ("json_equal", "a", '"a"', True),
        ("json_equal", None, "null", True),
        ("json_equal", None, "", False),
        ("json_equal", {"a": 1}, '```json\n{"a": 1}\n```', False),
        ("json_equal", 1, "NaN", False),
        ("json_equal", 1, "[" * 100_000, False),
        ("json_equal", 1, "9" * 5000, False),
        ("json_schema", SCHEMA, '{"queue": "cards"}', True),
        ("json_schema", SCHEMA, '{"queue": "cards", "code": "AB"}', True),
        ("json_schema", SCHEMA, '{"queue": "cards", "code": "ab"}', False),
        ("json_schema", SCHEMA, '{"queue": "loans"}', False),
        ("json_schema", SCHEMA, "{}", False),
        ("json_schema", SCHEMA, "cards", False),
    ],
)
def test_a_check(kind, value, answer, expected):
    assert passes(kind, value, answer) is expected


@pytest.mark.parametrize("kind", ["json_equal", "json_schema"])
def test_a_fence_is_forgiven_where_it_was_said_so(kind):
    value = {"a": 1} if kind == "json_equal" else {"required": ["a"]}
    for fence in ('```json\n{"a": 1}\n```', '\n```\n{\n"a": 1\n}\n```\n', '{"a": 1}'):
        assert passes(kind, value, fence, fenced=True)
    assert not passes(kind, value, 'Here: ```json\n{"a": 1}\n```', fenced=True)


def test_contains_may_ignore_case():
    assert passes("contains", "STRASSE", "die straße", ignore_case=True)


@pytest.mark.parametrize("kind", ["regex", "json_schema"])
def test_a_pattern_that_backtracks_for_ever_fails_in_time(kind, monkeypatch):
    monkeypatch.setattr("ledger.checking.PATTERN_SECONDS", 0.05)
    pattern = r"^(a|aa)+$"
    value, answer = pattern, "a" * 60 + "!"
    if kind == "json_schema":
        value, answer = {"pattern": pattern}, f'"{answer}"'
    started = time.monotonic()
    check = TypeAdapter(Check).validate_python({"type": kind, "value": value})
    result = run_check(check, answer)
    assert not result.passed
    assert "took over" in result.reason
    assert time.monotonic() - started < 2


def test_a_question_scores_only_if_all_its_checks_pass():
    question = GoldQuestion.model_validate(
        {
            "id": "q",
            "messages": [{"role": "user", "content": "?"}],
            "checks": [{"type": "contains", "value": "a"}, {"type": "regex", "value": "^b"}],
        }
    )
    assert score(question, "ba").value == 1.0
    half = score(question, "a")
    assert half.value == 0.0
    assert [check.passed for check in half.checks] == [True, False]
    assert "^b" in half.checks[1].reason


def test_normalising_twice_changes_nothing_more():
    for text in ("", " ", "„Card“ !", "(a) (b)", "ǅ", "…", "x.»"):
        assert normalise(normalise(text)) == normalise(text)
