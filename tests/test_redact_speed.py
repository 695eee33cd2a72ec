"""No text makes redaction slow, and ordinary text costs little."""

from __future__ import annotations

import random
import time

import pytest

from ledger.redact import Redactor

SIZE, SECONDS = 100_000, 0.3
HOST = ("b" * 63 + ".") * 9
ATTACKS = {
    "digits": "1",
    "digits and spaces": "1 ",
    "pairs": "12 ",
    "sevens": "1234567 ",
    "almost cards": "4111111111111112 ",
    "cards": "4111111111111111 ",
    "arabic digits": "\u0661",
    "unseen gaps": "1\u200b",
    "dots": "1.",
    "dashes": "1-",
    "dashes alone": "-",
    "brackets": "(1)",
    "nested brackets": "[{(<",
    "deep brackets": "((((1",
    "plus": "+1",
    "letters": "a",
    "letters and digits": "a1",
    "underscores": "_",
    "quotes": '"',
    "nul": "\x00",
    "lines": "\n1",
    "escaped lines": "\\n1234567",
    "escapes": "\\u00e9",
    "at": "@",
    "a@": "a@",
    "after an at": "b.",
    "long local parts": "a." * 32 + "@",
    "accents": "e\u0301" * 32 + "@",
    "accents alone": "\u0301",
    "long hosts": "x@" + HOST,
    "percent": "a%40b.co",
    "spelt": "a[at]b.",
    "spelt dots": " at a dot b",
    "almost IBANs": "AB12 ",
    "almost German IBANs": "DE12 ",
    "long almost IBANs": "AB12-" + "ABCD-" * 7,
    "dates": "2024-05-06 ",
    "short dates": "1/1/2024 ",
    "years": "2019-2024 ",
    "seconds": ":00:00.00000 ",
    "social": "123-45-678 ",
    "hex": "1e",
    "hex and colons": "ab:",
    "colons": ":",
    "IPv6": "2001:db8:",
    "IPv4": "1.1.1.",
    "MACs": "00-11-22-",
    "dotted MACs": "aabb.ccdd.",
    "AKIA": "AKIA",
    "base64": "aB3/dE5+",
    "tokens": "a1b2c3d4e5f6g7h8 ",
    "slashes": "a1" * 8 + "/",
    "UUIDs": "550e8400-e29b-41d4-a716-446655440000 ",
    "JWT": "eyJaaaaaaaa.",
    "key blocks": "-----BEGIN PRIVATE KEY-----",
    "begins": "-----BEGIN ",
    "password": "password: ",
    "password for": "password for a ",
    "bearer": "authorization: bearer aaaaaaaaaaaaa ",
    "logins": "://a:b@",
    "streets": "A 1 ",
    "numbers first": "12 Main ",
    "French streets": "12 rue a ",
    "ids": "AB123456 ",
    "CPF": "123.456.789-01 ",
    "extensions": "1234567 ext ",
    "placeholders": "[PHONE_1]",
    "Chinese": "电话1",
}


def _fastest(text: str, level) -> float:
    """Seconds of processor time, the best of three: others may be busy on this machine."""
    best = float("inf")
    for _ in range(3):
        redactor = Redactor(level)
        started = time.process_time()
        redactor.conversation().redact(text)
        best = min(best, time.process_time() - started)
        if best < SECONDS:
            break
    return best


@pytest.mark.parametrize("level", ["balanced", "high"])
@pytest.mark.parametrize("unit", ATTACKS.values(), ids=ATTACKS.keys())
def test_no_text_makes_it_slow(unit: str, level) -> None:
    text = ("a@" if unit == "b." else "") + unit * (SIZE // len(unit))
    assert _fastest(text, level) < SECONDS


def test_no_mixture_makes_it_slow() -> None:
    draw = random.Random(3)
    alphabet = "0123456789 -.()+@abAB/\n:_=[]\u0301"
    for _ in range(20):
        weights = [draw.random() ** 3 for _ in alphabet]
        assert _fastest("".join(draw.choices(alphabet, weights, k=SIZE // 4)), "high") < SECONDS / 3


def test_many_short_strings_cost_as_one_long() -> None:
    rows = [{"role": "user", "content": f"call 030 {number:07}"} for number in range(2500)]
    started = time.process_time()
    Redactor().conversation().redact(rows)
    assert time.process_time() - started < SECONDS


# Measured on a 2-core virtual machine: .07 and .3 ms. Three times that is for slower machines;
# benchmarks/redaction.py gives the figures.
def test_ordinary_text_costs_little() -> None:
    plain = "Thanks for getting in touch. We shipped it on Tuesday: it is on its way, have a look. "
    plain = (plain * 60)[:4096]
    some = plain
    for place, value in enumerate(["ada@example.com", "+49 30 901820", "4111 1111 1111 1111"] * 3):
        at = some.index(" ", place * 400)
        some = f"{some[:at]} {value}{some[at:]}"
    redactor = Redactor("high")
    for text, limit in ((plain, 0.25e-3), (some[:4096], 1e-3)):
        best = float("inf")
        for _ in range(50):
            started = time.process_time()
            redactor.conversation().redact(text)
            best = min(best, time.process_time() - started)
        assert best < limit
