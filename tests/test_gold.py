"""Gold sets: what is read, what is refused, and knowing a question again."""

import json
from pathlib import Path

import pytest

from ledger.errors import GoldError
from ledger.gold import GoldQuestion, gold_hash, load_gold, question_key


def user(text):
    return [{"role": "user", "content": text}]


def question(**fields):
    return {
        "id": "q1",
        "messages": user("Where is my card?"),
        "checks": [{"type": "exact", "value": "card arrival"}],
    } | fields


def write(path: Path, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def errors_of(*paths):
    with pytest.raises(GoldError) as caught:
        load_gold(paths)
    return str(caught.value)


def test_reads_all_fields_of_several_files_in_order(tmp_path):
    tools = [{"type": "function", "function": {"name": "refund"}}]
    one = write(tmp_path / "a.jsonl", question(slice="cards", max_tokens=8, tools=tools), "")
    two = write(tmp_path / "b.jsonl", "", question(id="q2"))
    first, second = load_gold([one, str(two)])
    assert (first.id, first.slice, first.max_tokens, first.tools) == ("q1", "cards", 8, tools)
    assert (second.id, second.slice, second.text) == ("q2", None, "Where is my card?")


def test_a_byte_order_mark_and_odd_line_separators_do_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    line = json.dumps(question(messages=user("one\u2028two\x85three")), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert load_gold([path])[0].text == "one\u2028two\x85three"


def test_all_broken_lines_of_all_files_are_named_at_once(tmp_path):
    one = write(
        tmp_path / "a.jsonl",
        question(),
        "{not json",
        question(id="q2", check=[]),
        question(id="q3", checks=[]),
        question(id="q4", messages=[*user("hi"), {"role": "assistant", "content": "hello"}]),
        question(id="q5", messages=[{"role": "robot", "content": "hi"}]),
        question(id="q6", messages=[{"role": "user"}]),
        question(id="q7", max_tokens=0),
        "[1]",
    )
    two = write(tmp_path / "b.jsonl", question())
    text = errors_of(one, two, tmp_path / "absent.jsonl")
    for expected in (
        "a.jsonl:2: not JSON",
        "a.jsonl:3: check: no such field",
        "a.jsonl:4: checks: an answer can only be scored by a check",
        "a.jsonl:5: messages: the last message is the assistant's",
        "a.jsonl:6: messages: message 1 has the role 'robot'",
        "a.jsonl:7: messages: message 1 (user) has no content",
        "a.jsonl:8: max_tokens: Input should be greater than or equal to 1",
        "a.jsonl:9: the line: ",
        f"b.jsonl:1: id 'q1' is used already at {one}:1",
        "absent.jsonl: No such file",
    ):
        assert expected in text
    assert "the gold set has 10 error(s)" in text


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ({"value": "x"}, "type"),
        ({"type": "similar", "value": "x"}, "'similar'"),
        ({"type": "exact"}, "value: Field required"),
        ({"type": "exact", "value": 3}, "valid string"),
        ({"type": "exact", "value": "x", "fold": True}, "fold: no such field"),
        ({"type": "contains", "value": ""}, "at least 1 character"),
        ({"type": "normalised", "value": " ?! "}, "nothing is left"),
        ({"type": "regex", "value": "(a"}, "not a regular expression"),
        ({"type": "json_schema", "value": {"type": "thing"}}, "not a JSON schema"),
        ({"type": "json_schema", "value": {"pattern": "(a"}}, "not a JSON schema"),
        ({"type": "json_schema", "value": {"$ref": "http://example.com/a"}}, "leaves the schema"),
        ({"type": "json_schema", "value": {"$ref": "#/$defs/a"}}, "leads nowhere"),
        ({"type": "json_schema", "value": {"$ref": "#"}}, "for ever"),
    ],
)
def test_a_check_that_cannot_work_is_refused_on_reading(tmp_path, check, expected):
    text = errors_of(write(tmp_path / "a.jsonl", question(checks=[check])))
    assert "a.jsonl:1: checks" in text
    assert expected in text


def test_files_that_hold_no_text_are_named(tmp_path):
    empty = write(tmp_path / "empty.jsonl", "", "  ")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(question()).encode() + b"\n{\xe9}\n")
    text = errors_of(empty, latin, tmp_path)
    assert "empty.jsonl: the file is empty" in text
    assert "latin.jsonl:2: not UTF-8 (byte 0xe9)" in text
    assert f"{tmp_path}: Is a directory" in text
    assert "gate.gold" in errors_of()


def test_what_is_not_really_json_is_refused(tmp_path):
    nan = '{"id": "n", "messages": [], "checks": [{"type": "json_equal", "value": NaN}]}'
    half = json.dumps(question(id="h", messages=user("\ud800")))
    deep = "[" * 100_000
    text = errors_of(write(tmp_path / "a.jsonl", nan, half, deep))
    assert "a.jsonl:1: not JSON: NaN" in text
    assert "a.jsonl:2: not JSON: half of a surrogate pair" in text
    assert "a.jsonl:3: not JSON" in text


def test_many_errors_are_counted_and_cut(tmp_path):
    text = errors_of(write(tmp_path / "a.jsonl", *["{"] * 150))
    assert "150 error(s)" in text
    assert "and 50 more" in text


def test_the_hash_is_of_the_content():
    one = GoldQuestion.model_validate(question())
    two = GoldQuestion.model_validate(question(id="q2"))
    null = question(checks=[{"type": "json_equal", "value": {"a": None}}])
    none = question(checks=[{"type": "json_equal", "value": {}}])
    assert gold_hash([one, two]) == gold_hash([two, one])
    assert gold_hash([one]) != gold_hash([two])
    assert gold_hash([one]) == gold_hash([GoldQuestion.model_validate(question(slice=None))])
    hashes = {gold_hash([GoldQuestion.model_validate(fields)]) for fields in (null, none)}
    assert len(hashes) == 2
    assert gold_hash([one]).startswith("fw1:gold:")


@pytest.mark.parametrize(
    "same",
    [
        user("  where IS my\ncard"),
        user("Where is my card?!"),
        user("“Where is my card?”"),
        user("Ｗhere is my ca\u200brd?"),
        [{"role": "system", "content": "Answer briefly."}, *user("Where is my card?")],
        [*user("Where is my card?"), {"role": "assistant", "content": "card arrival"}],
        [{"role": "user", "content": [{"type": "text", "text": "Where is my card?"}]}],
    ],
)
def test_a_question_is_known_in_other_clothes(same):
    assert question_key(same) == question_key(user("Where is my card?"))


@pytest.mark.parametrize(
    "other",
    [
        user("Where is my cart?"),
        user("Where is mycard?"),
        [*user("Hello"), {"role": "assistant", "content": "Hi"}, *user("Where is my card?")],
        [{"role": "tool", "content": "Where is my card?"}],
        [
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            *user("Where is my card?"),
        ],
    ],
)
def test_another_question_is_another(other):
    assert question_key(other) != question_key(user("Where is my card?"))


def test_punctuation_alone_and_numbers_are_told_apart():
    keys = {question_key(user(text)) for text in ("???", "!!!", "3.5", "35", "£5", "$5")}
    assert len(keys) == 6


def test_a_redacted_row_is_the_question_it_came_from():
    raw = user("Write to ann.lee@example.com or call +1 415 555 2671.")
    stored = user("Write to [EMAIL_1] or call [PHONE_3].")
    assert question_key(raw) == question_key(stored)
