"""Replacing personal data by placeholders before text reaches the disk.

Covers e-mail addresses, payment cards (Luhn), IBANs (mod 97), US social security numbers
and every telephone-like shape of 7 to 15 digits, in prompts, answers, tool calls,
corrections, reasons and metadata. It hides some harmless numbers too (order numbers, ISBNs):
losing one costs little, keeping a telephone number costs trust.

Does not cover names, street addresses, passwords or anything without a shape.

Every pattern is bounded, and no two repeats in it can match the same character, so the time
is linear in the text. A failure raises; the caller then keeps no text at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# An unbounded `[\w.+-]+@` is quadratic on long runs of word characters; 64 is the longest
# local part that RFC 5321 allows, and the lookbehind lets a run be entered only at its start.
_EMAIL = re.compile(r"[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}", re.UNICODE)
_EMAIL_HINT = "@"
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<!\d)\d(?:[ .-]?\d){12,18}(?!\d)")
_SSN = re.compile(r"(?<!\d)\d{3}[ -]\d{2}[ -]\d{4}(?!\d)")
_PHONE = re.compile(r"(?<![\w])[+(]{0,2}\d(?:[ .\-()/]{0,3}\d){6,14}(?!\d)")
_DATE = re.compile(r"(?:19|20)\d\d-(?:0\d|1[0-2])-[0-3]\d(?!\d)")
_ENOUGH_DIGITS = re.compile(r"\d(?:\D{0,4}\d){6}")

EMAIL, CARD, IBAN, SSN, PHONE = "[EMAIL]", "[CARD]", "[IBAN]", "[SSN]", "[PHONE]"


def luhn_valid(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1)."""
    total = 0
    for position, char in enumerate(reversed(digits)):
        value = int(char)
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def iban_valid(text: str) -> bool:
    """Whether the check digits hold (ISO 13616, mod 97)."""
    compact = text.replace(" ", "").replace("-", "").upper()
    if not compact.isascii() or not 15 <= len(compact) <= 34:
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdigit())


def _emails(text: str) -> str:
    """Find addresses from their `@`, so that a text without one costs one scan."""
    parts: list[str] = []
    done = 0
    at = text.find(_EMAIL_HINT)
    while at >= 0:
        start = at
        while (
            start > done
            and at - start < 64
            and (text[start - 1].isalnum() or text[start - 1] in "._+%'-")
        ):
            start -= 1
        match = _EMAIL.match(text, start)
        if match is not None:
            parts += (text[done:start], EMAIL)
            done = match.end()
        at = text.find(_EMAIL_HINT, max(at + 1, done))
    parts.append(text[done:])
    return "".join(parts)


def _checked(placeholder: str, valid: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
    return lambda match: placeholder if valid(match.group()) else match.group()


def _iban(match: re.Match[str]) -> str:
    """An IBAN may be followed by a word that looks like more of it: try shorter endings."""
    text = match.group()
    for end in range(len(text), 14, -1):
        if (end == len(text) or text[end] in " -") and iban_valid(text[:end]):
            return IBAN + text[end:]
    return text


def _phone(match: re.Match[str]) -> str:
    return match.group() if _DATE.match(match.group()) else PHONE


def redact_text(text: str) -> str:
    """Replace personal data in one string. Time is linear in its length."""
    if _EMAIL_HINT in text:
        text = _emails(text)
    if _ENOUGH_DIGITS.search(text) is None:
        return text
    text = _IBAN.sub(_iban, text)
    text = _CARD.sub(_checked(CARD, lambda found: luhn_valid(_digits(found))), text)
    text = _SSN.sub(SSN, text)
    return _PHONE.sub(_phone, text)


def redact(value: Any) -> Any:
    """Replace personal data in every string, key and number of a JSON value.

    A number whose digits look like a card or a telephone becomes its placeholder, a string.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        text = str(value)
        found = redact_text(text)
        return value if found == text else found
    if isinstance(value, dict):
        return {redact_text(str(key)): redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    raise TypeError(f"cannot redact a {type(value).__name__}: only JSON values are kept")
