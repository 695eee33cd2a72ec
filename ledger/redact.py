"""Replacing personal data by placeholders before text reaches the disk.

Covers e-mail addresses, payment cards (Luhn), IBANs (mod 97), US social security numbers
and every telephone-like shape of 7 to 15 digits, in prompts, answers, tool calls,
corrections, reasons and metadata. It hides some harmless numbers too (order numbers, ISBNs):
losing one costs little, keeping a telephone number costs trust. Dates and ISO times stay.

Does not cover names, street addresses, passwords or anything without a shape.

Every pattern is bounded, and no two repeats in it can match the same character, so the time
is linear in the text. A failure raises; the caller then keeps no text at all.
"""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Any

# The part before the @ is found by hand (`_emails`): an unbounded `[\w.+-]+@` is quadratic on
# long runs of word characters. Combining accents stand in names and hosts of decomposed text.
_HOST = re.compile(r"@(?:[\w\u0300-\u036f-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}")
_LOCAL_SIGNS = "._+%'-"
_LONGEST_LOCAL = 64  # RFC 5321
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])")
_VALUES = {char: int(char, 36) for char in string.digits + string.ascii_letters}
_GAPS = " \\-\u00a0\u2009\u202f\u2010-\u2013."  # spaces, hyphens and dots as people write them
_DIGIT_RUN = re.compile(rf"\d(?:[{_GAPS}]?\d){{12,}}")
_SSN = re.compile(r"(?<!\d)\d{3}[ -]\d{2}[ -]\d{4}(?!\d)")
_DAY, _MONTH, _YEAR = "(?:0?[1-9]|[12]\\d|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)\\d\\d"
_DATE = (
    rf"(?:{_YEAR}(?P<a>[-/.]){_MONTH}(?P=a){_DAY}|{_DAY}(?P<b>[-/.]){_MONTH}(?P=b){_YEAR}"
    rf"|{_MONTH}/{_DAY}/{_YEAR})(?![-/.]?\d)"
)
# Not after a Latin letter, so that hashes and UUIDs stay; other scripts write without spaces.
_PHONE = re.compile(
    rf"(?<![A-Za-z0-9_])(?:(?P<date>{_DATE})|[+(]{{0,2}}\d(?:[{_GAPS}()/]{{0,3}}\d){{6,14}}(?!\d))"
)
_COMPACT_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_SECONDS = re.compile(r"[0-5]\d\.\d{5,9}")
_AFTER_MINUTES = re.compile(r":[0-5]\d:")
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
    """Whether the check digits hold (ISO 13616, mod 97); spaces and hyphens do not count."""
    return _IBAN.fullmatch(text) is not None and _iban_end(text) == len(text)


def _iban_end(text: str) -> int:
    """Where the longest IBAN at the start of a text ends, before a gap or the end; else 0.

    One pass: the remainder of the account part grows with each character, and the country and
    check digits, which the norm moves to the end, are added at each place where it may end.
    """
    if not text.isascii():
        return 0
    head = int(f"{_VALUES[text[0]]}{_VALUES[text[1]]}{text[2:4]}")
    remainder = found = 0
    length = 4
    for position in range(4, len(text)):
        char = text[position]
        if char in " -":
            continue
        value = _VALUES[char]
        remainder = (remainder * (10 if value < 10 else 100) + value) % 97
        length += 1
        ends = position + 1 == len(text) or text[position + 1] in " -"
        if ends and 15 <= length <= 34 and (remainder * 10**6 + head) % 97 == 1:
            found = position + 1
    return found


def _emails(text: str) -> str:
    """Find addresses from their `@`, so that a text without one costs one scan."""
    parts: list[str] = []
    done = 0
    at = text.find("@")
    while at >= 0:
        start = at
        while start > done and at - start < _LONGEST_LOCAL and _in_local(text[start - 1]):
            start -= 1
        match = _HOST.match(text, at) if start < at else None
        if match is not None:
            parts += (text[done:start], EMAIL)
            done = match.end()
        at = text.find("@", max(at + 1, done))
    parts.append(text[done:])
    return "".join(parts)


def _in_local(char: str) -> bool:
    return char.isalnum() or char in _LOCAL_SIGNS or unicodedata.category(char)[0] == "M"


def _ibans(text: str) -> str:
    parts: list[str] = []
    done, match = 0, _IBAN.search(text)
    while match is not None:
        # A word before it may look like its start ("Nr12 is DE89 …"), and one after it like
        # its end: try every start, and every gap as the end.
        end = match.start() + _iban_end(match.group())
        if end > match.start():
            parts += (text[done : match.start()], IBAN)
            done = end
        match = _IBAN.search(text, max(end, match.start() + 4))
    parts.append(text[done:])
    return "".join(parts)


def _cards(match: re.Match[str]) -> str:
    """Cards in a run of digits and gaps, whatever numbers stand beside them in the run.

    A card starts after a gap and ends before one. Sums of both parities from the left make
    each check of a stretch one subtraction, so the time is linear in the run.
    """
    run = match.group()
    places = [place for place, char in enumerate(run) if char.isdigit()]
    sums = ([0], [0])  # Luhn sums of a prefix, doubling the digits at even and at odd places
    for index, place in enumerate(places):
        digit = int(run[place])
        doubled = digit * 2 - 9 if digit > 4 else digit * 2
        for parity in (0, 1):
            sums[parity].append(sums[parity][-1] + (doubled if index % 2 == parity else digit))
    # Each stretch of digits without a gap, as the index of the first and the last of them.
    ends = [i for i, p in enumerate(places) if places[i + 1 : i + 2] != [p + 1]]
    starts = [0, *(end + 1 for end in ends[:-1])]
    parts: list[str] = []
    done = skip = 0
    for number, first in enumerate(starts):
        if first < skip:
            continue
        for last in ends[number : number + 19]:
            if last - first >= 19:
                break
            doubled_sums = sums[(last + 1) % 2]  # the last digit itself is not doubled
            if last - first >= 12 and (doubled_sums[last + 1] - doubled_sums[first]) % 10 == 0:
                skip = last + 1
        if skip > first:
            parts += (run[done : places[first]], CARD)
            done = places[skip - 1] + 1
    parts.append(run[done:])
    return "".join(parts)


def _phone(match: re.Match[str]) -> str:
    found = match.group()
    if match["date"]:
        return found
    before = match.string[max(0, match.start() - 4) : match.start()]
    if _SECONDS.fullmatch(found) and _AFTER_MINUTES.fullmatch(before):
        return found
    if _COMPACT_DATE.fullmatch(found) and re.match(r"T\d\d", match.string[match.end() :][:3]):
        return found
    return PHONE


def redact_text(text: str) -> str:
    """Replace personal data in one string. Time is linear in its length."""
    if "@" in text:
        text = _emails(text)
    if _ENOUGH_DIGITS.search(text) is None:
        return text
    text = _ibans(text)
    text = _DIGIT_RUN.sub(_cards, text)
    text = _SSN.sub(SSN, text)
    return _PHONE.sub(_phone, text)


def redact(value: Any) -> Any:
    """Replace personal data in every string, key and number of a JSON value.

    A whole number whose digits look like a card or a telephone becomes its placeholder, a
    string.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and not value.is_integer():
        return value  # a measure, a score, a time
    if isinstance(value, int | float):
        text = str(value)
        found = redact_text(text)
        return value if found == text else found
    if isinstance(value, dict):
        return {redact_text(str(key)): redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    raise TypeError(f"cannot redact a {type(value).__name__}: only JSON values are kept")
