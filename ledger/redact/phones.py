"""Telephone numbers in rows of digits: where each begins and ends, and which are clearly one.

No table of numbering plans: a plan tells numbers that could be assigned from those that could
not, and people write both; the check of `phonenumbers` costs more than everything else here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_DAY, _MONTH, _YEAR = rb"(?:0?[1-9]|[12]\d|3[01])", rb"(?:0?[1-9]|1[0-2])", rb"(?:19|20)\d\d"
_TIME = rb"[0-2]?\d\.[0-5]\d"
_NOT_A_NUMBER = re.compile(
    rb"(?<![\d])(?<![A-Za-z_\d][-./])(?:"
    + rb"%b(?P<a>[-/.])%b(?P=a)%b" % (_YEAR, _MONTH, _DAY)
    + rb"|%b(?P<b>[-/.])%b(?P=b)%b" % (_DAY, _MONTH, _YEAR)
    + rb"|%b(?P<c>[-/.])%b(?P=c)%b" % (_MONTH, _DAY, _YEAR)
    + rb"|%b ?[-/] ?%b" % (_YEAR, _YEAR)  # a range of years
    + rb"|%b ?- ?%b" % (_TIME, _TIME)
    + rb")(?![-/.]?\d)"
)
_GROUP = re.compile(rb"\d+")
_COMPACT_DATE = re.compile(rb"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_AFTER_COMPACT = re.compile(rb"T\d\d")
_SECONDS = re.compile(rb"[0-5]\d\.\d{5,9}")
_AFTER_MINUTES = re.compile(rb":[0-5]\d:$")
_FRACTION = re.compile(rb"0\.\d{6,}|\d{1,3}\.\d{9,}")
_EXTENSION = re.compile(
    rb"[ ,;]{0,2}(?:x|ext(?:ension)?\b\.?|ext=|poste|durchwahl|anexo|ramal|int\.|#)"
    rb"[ :.=]{0,2}\d{1,6}(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_REST_OF_WORD = re.compile(rb"[A-Za-z0-9_]{1,40}")
_MOST = 15  # digits, E.164
_LEAST = 7


class Piece(NamedTuple):
    """A number in a row: characters `start` to `end`, and its digits without the extension."""

    start: int
    end: int
    digits: int


def phone_pieces(folded: bytes, shape: bytes, start: int, end: int) -> Iterator[Piece]:
    """Where numbers of seven digits or more stand in a row of digits and gaps.

    Dates and times are left out. A row of several numbers is cut between them.
    """
    done = start
    for kept in _NOT_A_NUMBER.finditer(folded, start, end):
        yield from _stretch(folded, shape, done, kept.start())
        done = kept.end()
    yield from _stretch(folded, shape, done, end)


def _stretch(folded: bytes, shape: bytes, start: int, end: int) -> Iterator[Piece]:
    if end - start < _LEAST:
        return
    groups = [match.span() for match in _GROUP.finditer(folded, start, end)]
    if groups and groups[0][0] and shape[groups[0][0] - 1] in b"a_":
        del groups[0]  # continues a Latin word; other scripts write without spaces
    if groups and _glued_after(folded, shape, groups[-1][1]):
        del groups[-1]
    if groups and _FRACTION.fullmatch(folded, groups[0][0], groups[-1][1]):
        return
    for first, last in _cut(folded, groups):
        piece = folded[first:last]
        if _SECONDS.fullmatch(piece) and _AFTER_MINUTES.search(folded[max(0, first - 4) : first]):
            continue
        if _COMPACT_DATE.fullmatch(piece) and _AFTER_COMPACT.match(folded, last):
            continue
        yield Piece(*_with_signs(folded, first, last), shape.count(b"0", first, last))


def _glued_after(folded: bytes, shape: bytes, end: int) -> bool:
    """Whether digits begin a longer word, as a hash does; "1234567kg" does not."""
    if shape[end : end + 1] not in (b"a", b"_") or _EXTENSION.match(folded, end):
        return False
    rest = _REST_OF_WORD.match(folded, end)
    word = rest.group() if rest is not None else b""
    return len(word) > 3 or any(char in b"0123456789" for char in word)


def _cut(folded: bytes, groups: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join groups of digits to numbers."""
    total = sum(end - start for start, end in groups)
    if total < _LEAST:
        return
    words = _words(folded, groups)
    if len(words) > 1 and all(sum(e - s for s, e in word) >= _LEAST for word in words):
        for word in words:
            yield word[0][0], word[-1][1]
        return
    if total <= _MOST:
        yield groups[0][0], groups[-1][1]
        return
    numbers: list[list[tuple[int, int]]] = []
    digits = 0
    for group in groups:
        length = group[1] - group[0]
        fresh = not numbers or digits + length > _MOST
        if not fresh and digits >= _LEAST:
            gap = folded[numbers[-1][-1][1] : group[0]]
            # A second area code: `030 1234567 030 7654321`, `(202) 555-0173 (202) 555-0199`.
            fresh = b" " in gap and (folded[group[0]] == 0x30 or b"(" in gap)
        if fresh:
            numbers.append([group])
            digits = length
        else:
            numbers[-1].append(group)
            digits += length
    if digits < _LEAST and len(numbers) > 1:  # the rest of the number before
        numbers[-2:] = [numbers[-2] + numbers[-1]]
    for number in numbers:
        if sum(end - start for start, end in number) >= _LEAST:
            yield number[0][0], number[-1][1]


def _words(folded: bytes, groups: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Groups by the spaces between them."""
    words = [[groups[0]]]
    for group in groups[1:]:
        if folded[words[-1][-1][1] : group[0]] == b" ":
            words.append([group])
        else:
            words[-1].append(group)
    return words


def _with_signs(folded: bytes, start: int, end: int) -> tuple[int, int]:
    """A number with its plus, the bracket that it closes, and its extension."""
    piece = folded[start:end]
    opened = piece.count(b")") - piece.count(b"(")
    first = start
    while first and start - first < 3:
        before = folded[first - 1]
        if before == 0x2B and folded[first] != 0x2B:
            first -= 1
        elif before == 0x28 and opened > 0:
            first, opened = first - 1, opened - 1
        else:
            break
    extension = _EXTENSION.match(folded, end)
    return first, extension.end() if extension is not None else end


_NORTH_AMERICA = re.compile(rb"(?:\+?1[ .-]?)?\(?[2-9]\d\d\)?[ .-]{1,2}\d{3}[ .-]\d{4}")
_AREA_IN_BRACKETS = re.compile(rb"\+?\(\+?\d{1,5}\)[ ./-]{0,3}\d")
_TRUNK = re.compile(rb"0[1-9]\d{0,4}(?:[ /-]{1,3}\d{2,9}){1,5}|0[1-9](?:[. -]\d\d){4}")
_ABROAD = re.compile(rb"00[1-9]\d{0,2}[ ()./-]{0,3}\d[\d ()./-]{6,18}")
_SAYS_PHONE = re.compile(
    r"(?:\b(?:tele?ph?[oó]n\w*|tel|phone|mobil\w*|mob|cell(?:ular)?|fax|call(?:ed|ing)?|ring|dial"
    r"|whats?app|sms|texte?d?|text me|handy|numéro|numero de tel\w*|celular|t[eé]l|portable"
    r"|reach (?:me|us|him|her|them)|contact)\b|тел|телефон|电话|電話|手机|携帯|전화|هاتف|جوال|फ़?ोन)"
    r"[^\w\d]{0,3}(?:(?:me|us|him|her|them|is|at|on|no|nr|number|nummer|num|ist|unter|au|al|en|是|:)"
    r"[^\w\d]{0,3}){0,4}$"
)


def is_clear(text: str, folded: bytes, start: int, end: int) -> bool:
    """Whether a number of 7 to 15 digits is a telephone without a doubt."""
    piece = folded[start:end]
    digits = sum(48 <= char <= 57 for char in piece)
    if (piece[:1] == b"+" and digits >= 8) or _EXTENSION.search(piece):
        return True
    if 9 <= digits <= 15 and (
        _NORTH_AMERICA.fullmatch(piece)
        or _AREA_IN_BRACKETS.match(piece)
        or _TRUNK.fullmatch(piece)
        or _ABROAD.fullmatch(piece)
    ):
        return True
    return _SAYS_PHONE.search(text[max(0, start - 32) : start].lower()) is not None
