"""Placeholders that hold through a conversation, detectors of names, and what fails."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time

import pytest

from ledger.errors import ConfigError
from ledger.redact import RedactionFailed, Redactor, redact, redact_text
from ledger.redact.names import Listed, detector_of
from ledger.settings import Privacy


def mac(value: bytes) -> str:
    return hmac.new(b"k" * 32, value, hashlib.sha256).hexdigest()


def test_numbered_in_order_of_first_appearance_and_the_same_everywhere() -> None:
    row = Redactor(mac=mac).conversation()
    messages = [
        {"role": "user", "content": "I am ada@example.com, call +49 30 123-456 or 0171 1234567"},
        {"role": "assistant", "content": "ADA@example.com? I will call +4930123456."},
    ]
    assert row.redact(messages) == [
        {"role": "user", "content": "I am [EMAIL_1], call [PHONE_1] or [PHONE_2]"},
        {"role": "assistant", "content": "[EMAIL_1]? I will call [PHONE_1]."},
    ]
    assert row.redact("bob@example.com, 01711234567, 0049 30 123456, +49 (0)30 123456") == (
        "[EMAIL_2], [PHONE_2], [PHONE_1], [PHONE_1]"
    )
    assert row.redact({"to": 4930123456}) == {"to": "[PHONE_1]"}


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("4111 1111 1111 1111", "4111-1111-1111-1111", "CARD"),
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000", "IBAN"),
        ("078-05-1120", "078 05 1120", "SSN"),
        ("2001:DB8::8a2e:1", "2001:db8::8A2E:1", "IP"),
        ("00:1A:2B:3C:4D:5E", "00:1a:2b:3c:4d:5e", "MAC"),
        ("12 Main Street", "12 main Street", "ADDRESS"),
    ],
)
def test_one_value_written_in_two_ways(one: str, other: str, kind: str) -> None:
    found = redact_text(f"{one} | {other}")
    assert found.startswith(f"[{kind}_1] | ")
    assert kind == "ADDRESS" or found == f"[{kind}_1] | [{kind}_1]"


def test_what_is_known_lets_a_later_correction_use_the_same_placeholder() -> None:
    row = Redactor(mac=mac).conversation()
    row.redact("ada@example.com and bob@example.com")
    assert set(row.known.values()) == {"[EMAIL_1]", "[EMAIL_2]"}
    assert not any("example" in hashed for hashed in row.known)
    later = Redactor(mac=mac).conversation(row.known)
    assert later.redact("Bob@example.com or eve@example.com") == "[EMAIL_2] or [EMAIL_3]"
    # Without the key nothing is known again, and no number is used twice.
    foreign = Redactor().conversation(row.known)
    assert foreign.redact("bob@example.com") == "[EMAIL_3]"


def test_placeholders_that_stand_in_the_text_keep_their_meaning() -> None:
    row = Redactor().conversation()
    history = ["my number is [PHONE_3]", "and 030 1234567 is new, [NAME_2]"]
    assert row.redact(history) == ["my number is [PHONE_3]", "and [PHONE_4] is new, [NAME_2]"]
    assert row.redact("030 1234567") == "[PHONE_4]"
    assert row.redact("[PHONE_9], 030 7654321") == "[PHONE_9], [PHONE_10]"
    assert (
        redact("[PHONE_4], [x], [PHONE_99999999999], []")
        == "[PHONE_4], [x], [PHONE_99999999999], []"
    )


def test_every_string_key_and_whole_number_of_a_value() -> None:
    value = {
        "ada@example.com": ["+1 202-555-0173", {"deep": ("4111111111111111",)}],
        "card": 4111111111111111,
        "as float": 4111111111111111.0,
        "phone": 4930901820123,
        "score": 0.8234567891,
        "when": 1712345678.123,
        "yes": True,
        "none": None,
        "small": 42,
        "inf": float("inf"),
        "huge": 10**80,
    }
    assert redact(value) == {
        "[EMAIL_1]": ["[PHONE_1]", {"deep": ["[CARD_1]"]}],
        "card": "[CARD_1]",
        "as float": "[CARD_1]",
        "phone": "[PHONE_2]",
        "score": 0.8234567891,
        "when": 1712345678.123,
        "yes": True,
        "none": None,
        "small": 42,
        "inf": float("inf"),
        "huge": 10**80,
    }
    nothing = {"role": "user", "content": ["nothing to hide"]}
    assert redact(nothing) is nothing


def test_a_key_may_say_that_a_value_is_a_secret() -> None:
    arguments = {"user": "ada", "password": "sunflower", "api-key": "abc", "token": "Hello"}
    expected = {"user": "ada", "password": "[SECRET_1]", "api-key": "[SECRET_2]", "token": "Hello"}
    assert redact(arguments) == expected
    assert redact(expected) == expected
    schema = {"properties": {"password": {"type": "string", "description": "The password"}}}
    assert redact(schema) == schema
    assert redact({"password": "the one of the user"}) == {"password": "the one of the user"}


def test_a_value_does_not_reach_into_the_next() -> None:
    assert redact(["4111 1111", "1111 1111"]) == ["[PHONE_1]", "[PHONE_2]"]
    assert redact(["ada", "@example.com"]) == ["ada", "@example.com"]
    assert redact(["nul \x00 ada@example.com", "x"]) == ["nul \x00 [EMAIL_1]", "x"]
    assert redact("lone \ud800 ada@example.com") == "lone \ud800 [EMAIL_1]"


# -- names ---------------------------------------------------------------------------------


def test_names_by_a_detector() -> None:
    redactor = Redactor("balanced", names=Listed(["Ada Lovelace", "Lovelace", "Bob"]))
    row = redactor.conversation()
    assert row.redact(
        ["Ada Lovelace wrote to bob@example.com.", "Bob?", "ada  lovelace", "Bobby"]
    ) == [
        "[NAME_1] wrote to [EMAIL_1].",
        "[NAME_2]?",
        "[NAME_1]",
        "Bobby",
    ]
    # A part of a name is the same person.
    assert row.redact("LOVELACE and [NAME_1]") == "[NAME_1] and [NAME_1]"
    assert redact_text("Ada Lovelace") == "Ada Lovelace"


def test_a_detector_that_fails_keeps_no_text_and_quotes_none() -> None:
    def broken(texts: list[str]) -> list[list[tuple[int, int]]]:
        raise RuntimeError(texts[0])

    def short(texts: list[str]) -> list[list[tuple[int, int]]]:
        return []

    def outside(texts: list[str]) -> list[list[tuple[int, int]]]:
        return [[(0, len(text) + 1)] for text in texts]

    for detector in (broken, short, outside):
        row = Redactor(names=detector).conversation()
        with pytest.raises(RedactionFailed) as failure:
            row.redact("a secret diary")
        assert "diary" not in str(failure.value)
        assert failure.value.__cause__ is None
        assert failure.value.__suppress_context__


def test_a_conversation_that_overruns_its_time_keeps_no_text() -> None:
    def slow(texts: list[str]) -> list[list[tuple[int, int]]]:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        return [[] for _ in texts]

    with pytest.raises(RedactionFailed, match="allows 5 ms"):
        Redactor(names=slow, limit_ms=5).conversation().redact("some text")
    # The time of a conversation counts, not that of a call.
    row = Redactor(names=slow, limit_ms=70).conversation()
    with pytest.raises(RedactionFailed, match="allows 70 ms"):
        list(map(row.redact, ["some text"] * 5))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(RedactionFailed, match="cannot redact a bytes"):
        redact({"x": b"ada@example.com"})
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(RedactionFailed, match="RecursionError"):
        redact(endless)


@pytest.mark.parametrize(("kind", "package"), [("spacy", "spaCy"), ("presidio", "presidio")])
def test_a_detector_that_is_not_there_is_named_with_what_to_do(kind, package: str) -> None:
    with pytest.raises(ConfigError, match=f"{package}|xx_no_such_model") as failure:
        detector_of(kind, "xx_no_such_model")
    assert failure.value.remedy
    assert detector_of("none", "xx_no_such_model") is None


def test_the_settings_make_the_redactor() -> None:
    assert Redactor.of(Privacy(redaction="none"), mac) is None
    made = Redactor.of(Privacy(redaction="balanced"), mac)
    assert made is not None
    assert made.level == "balanced"


def test_threads_share_a_redactor() -> None:
    redactor = Redactor(names=Listed(["Ada"]), mac=mac)
    failed = []

    def work(number: int) -> None:
        for step in range(50):
            row = redactor.conversation()
            found = row.redact(f"Ada, user{number}@example.com and 030 {number}{step:06}")
            if found != "[NAME_1], [EMAIL_1] and [PHONE_1]":
                failed.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
