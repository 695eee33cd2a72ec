"""Numbers that identify a person or an account: cards, IBANs, social security, telephones.

Cards are checked by Luhn, IBANs by mod 97 and the length of their country. What has no check
digit goes by its shape: at `high` every row of 7 to 15 digits is taken for a telephone number, at
`balanced` only one that has a plus, an area code in brackets, a leading zero with gaps, the North
American 3-3-4, or a word such as "tel" before it.

Dates, times, decimal fractions and ranges of years stay at both levels. Every pattern is bounded
and no two repeats in one can match the same character, so the time is linear in the text.
"""

from __future__ import annotations

import functools
import re
import string

from ledger.redact.contact import Found
from ledger.redact.network import VERSION
from ledger.redact.phones import is_clear, phone_pieces

# -- check digits --------------------------------------------------------------------------


def luhn_valid(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1)."""
    total = 0
    for position, char in enumerate(reversed(digits)):
        value = int(char)
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


_VALUES = {ord(char): str(int(char, 36)) for char in string.ascii_letters}
_GAPS_OF_IBAN = str.maketrans("", "", " -.")


def iban_valid(text: str) -> bool:
    """Whether the check digits hold (ISO 13616, mod 97); spaces and hyphens do not count."""
    bare = text.translate(_GAPS_OF_IBAN)
    if not (15 <= len(bare) <= 34 and bare.isascii() and bare.isalnum()):
        return False
    if not (bare[:2].isalpha() and bare[2:4].isdigit()):
        return False
    return int((bare[4:] + bare[:4]).translate(_VALUES)) % 97 == 1


# Countries whose banks use IBANs without being in the registry.
_UNREGISTERED = {
    16: "BI",
    25: "AO CV GW MZ",
    26: "DZ IR",
    27: "CM CF TD KM CG DJ GQ GA MG",
    28: "BJ BF CI HN ML MA NE SN TG",
    32: "NI",
}


@functools.cache
def _iban_lengths() -> dict[str, int]:
    """Characters of an IBAN by country: python-stdnum's copy of the SWIFT registry, and others."""
    from stdnum import numdb

    registry = numdb.get("iban")
    lengths = {}
    for length, countries in _UNREGISTERED.items():
        lengths.update(dict.fromkeys(countries.split(), length))
    for first in string.ascii_uppercase:
        for second in string.ascii_uppercase:
            facts = registry.info(first + second)[0][1]
            parts = re.findall(r"(\d+)", facts.get("bban", ""))
            if parts:
                lengths[first + second] = 4 + sum(map(int, parts))
    return lengths


# -- IBANs -------------------------------------------------------------------------------------

_IBAN = re.compile(rb"[A-Za-z]{2}\d{2}(?:[ .-]?[A-Za-z0-9]){11,30}")
_WHOLE = re.compile(rb"[A-Za-z0-9]{15,34}(?![A-Za-z0-9])")
_IBAN_SHAPE = b"aa00"


def ibans(folded: bytes, shape: bytes) -> list[Found]:
    """IBANs, found by their first four characters."""
    found: list[Found] = []
    start = shape.find(_IBAN_SHAPE)
    while start >= 0:
        end = 0
        if not start or shape[start - 1] not in b"a0_":
            row = _IBAN.match(folded, start)
            end = start + _iban_end(row.group()) if row is not None else 0
        if end > start:
            found.append(Found(start, end, "IBAN"))
        start = shape.find(_IBAN_SHAPE, max(end, start + 2))
    return found


def _iban_end(row: bytes) -> int:
    """Where the IBAN at the start of a row of letters and digits ends; 0 where none does.

    Words may follow it in the same row, so it is cut to its country's length.
    """
    length = _iban_lengths().get(row[:2].decode("ascii").upper(), 0)
    end = count = 0
    while end < len(row) and count < length:
        count += row[end] not in b" .-"
        end += 1
    fits = count == length > 0 and row[end : end + 1] in (b"", b" ", b".", b"-")
    if fits and iban_valid(row[:end].decode("ascii")):
        return end
    # Without gaps the end is plain, and test data is not always of its country's length.
    whole = _WHOLE.match(row)
    return whole.end() if whole is not None and iban_valid(whole.group().decode("ascii")) else 0


# -- cards ---------------------------------------------------------------------------------

# First digits that issuers have (ISO/IEC 7812 and the schemes' own pages).
_ISSUER = re.compile(r"4|5[0-8]|2[2-7]|3[0-9]|6|8[12]|9792|(?:1800|2131)\d{11}$|1\d{14}$")
_MOST_GROUPS = 8  # that a card is written in
_NO_DIGIT = re.compile(rb"\D+")
_SHORT_CARD = re.compile(rb"(?:5[0678]|6)\d{10,11}")  # Maestro
_SAYS_CARD = re.compile(rb"(?:card|maestro|karte|carte|tarjeta|cart.o|carta|kaart|\bcc)\b", re.I)


def card_spans(row: bytes, high: bool) -> list[tuple[int, int]]:
    """Cards in a row of digits and gaps, whatever numbers stand beside them in it.

    A card starts after a gap and ends before one. Sums of both parities from the left make each
    check of a stretch one subtraction, so the time is linear in the row.
    """
    places = [place for place, char in enumerate(row) if 48 <= char <= 57]
    even, odd = [0], [0]  # Luhn sums of a prefix, doubling the digits at even and at odd places
    for index, place in enumerate(places):
        digit = row[place] - 48
        doubled = digit * 2 - 9 if digit > 4 else digit * 2
        even.append(even[-1] + (digit if index % 2 else doubled))
        odd.append(odd[-1] + (doubled if index % 2 else digit))
    # Each stretch of digits without a gap, as the index of the first and the last of them.
    ends = [i for i in range(len(places) - 1) if places[i + 1] != places[i] + 1]
    ends.append(len(places) - 1)
    starts = [0, *(end + 1 for end in ends[:-1])]
    spans: list[tuple[int, int]] = []
    skip = 0
    for number, first in enumerate(starts):
        if first < skip:
            continue
        for last in ends[number : number + _MOST_GROUPS]:
            if last - first >= 19:
                break
            sums = odd if last % 2 == 0 else even  # the last digit itself is not doubled
            if last - first < 12 or (sums[last + 1] - sums[first]) % 10:
                continue
            digits = bytes(row[place] for place in places[first : last + 1]).decode("ascii")
            # Two telephone numbers side by side may pass the check; their gaps differ.
            gaps = _NO_DIGIT.findall(row, places[first], places[last])
            if gaps == [b"."]:
                continue  # a decimal fraction
            if len(set(gaps)) < 2 and digits[0] != "0" and (high or _ISSUER.match(digits)):
                skip = last + 1
        if skip > first:
            spans.append((places[first], places[skip - 1] + 1))
    return spans


# -- rows of digits ----------------------------------------------------------------------------

# A row never ends in a gap and has no gap of more than three signs.
_ROW = re.compile(rb"0(?:[ \-./()]{0,3}0)+")
_SSN = re.compile(rb"(?<![\d.-])(?!000|666)\d{3}[ .-]\d{2}[ .-]\d{4}(?![.-]?\d)")
_PLAIN_SSN = re.compile(rb"(?:ssn|social security)[^0-9]{0,20}$", re.IGNORECASE)
_LONG_NUMBER = range(16, 41)


def rows(text: str, folded: bytes, shape: bytes, high: bool) -> list[Found]:
    """Cards, social security numbers and telephones."""
    found: list[Found] = []
    for row in _ROW.finditer(shape):
        start, end = row.span()
        if end - start < 7 or (digits := row.group().count(b"0")) < 7:
            continue
        pieces = [(start, end)]
        if digits >= 13:
            pieces = _cards(folded, shape, start, end, high, found)
        for first, last in pieces:
            _social_and_phones(text, folded, shape, first, last, high, found)
    return found


def _cards(
    folded: bytes, shape: bytes, start: int, end: int, high: bool, found: list[Found]
) -> list[tuple[int, int]]:
    """Cards go into `found`; returned are the stretches of the row between them."""
    pieces, done = [], start
    for first, last in card_spans(folded[start:end], high):
        first, last = start + first, start + last
        glued = (first and shape[first - 1] in b"a_") or shape[last : last + 1] in (b"a", b"_")
        if glued and not high:
            continue
        found.append(Found(first, last, "CARD"))
        pieces.append((done, first))
        done = last
    pieces.append((done, end))
    return pieces


def _social_and_phones(
    text: str, folded: bytes, shape: bytes, start: int, end: int, high: bool, found: list[Found]
) -> None:
    done = start
    for match in _SSN.finditer(folded, start, end):
        _phones(text, folded, shape, done, match.start(), high, found)
        found.append(Found(match.start(), match.end(), "SSN"))
        done = match.end()
    _phones(text, folded, shape, done, end, high, found)


def _phones(
    text: str, folded: bytes, shape: bytes, start: int, end: int, high: bool, found: list[Found]
) -> None:
    if end - start < 7:
        return
    for first, last, digits in phone_pieces(folded, shape, start, end):
        before = folded[max(0, first - 30) : first]
        if b"." in folded[first:last] and VERSION.search(before):
            continue
        if digits == 9 and _PLAIN_SSN.search(before):
            found.append(Found(first, last, "SSN"))
        elif digits > 15:
            if high and digits in _LONG_NUMBER:
                found.append(Found(first, last, "NUMBER"))
        elif digits == 12 and _is_short_card(folded, first, last):
            found.append(Found(first, last, "CARD"))
        elif high or is_clear(text, folded, first, last):
            found.append(Found(first, last, "PHONE"))


def _is_short_card(folded: bytes, start: int, end: int) -> bool:
    """Whether twelve digits are a card, by their check digit and what stands before them."""
    digits = bytes(char for char in folded[start:end] if 48 <= char <= 57)
    return (
        _SHORT_CARD.fullmatch(digits) is not None
        and luhn_valid(digits.decode("ascii"))
        and _SAYS_CARD.search(folded[max(0, start - 40) : start]) is not None
    )
