"""One byte for every character, so that patterns see what a reader sees.

The finders search bytes of the same length as the text: full-width and other scripts' digits
are digits, every kind of space, hyphen and dot is the plain one, so no pattern has to list them,
and bytes are quicker to search. It does not fold letters that only look alike (Cyrillic, Greek).
"""

from __future__ import annotations

import functools
import re
import unicodedata

import numpy as np

LETTER, MARK, OTHER = 0xC0, 0xC1, 0xC2  # what is not ASCII and no digit, gap or sign of it
TAKEN = 0xC3  # what a finder has found
_UNICODE = 0x110000
_SPACES = (0x00A0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
# Nobody sees these: soft hyphen, zero widths, and the marks of direction that phones put round
# the numbers they copy.
_UNSEEN = (0x00AD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
_DASHES = (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63)
_DOTS = (0x00B7, 0x2024, 0x2027, 0x30FB)
_SLASHES = (0x2044, 0x2215)

_CODE_POINT = re.compile(rb"\\u([0-9a-fA-F]{4})")

_DIGITS, _LOWER, _UPPER = b"0123456789", bytes(range(97, 123)), bytes(range(65, 91))
CLASSES = bytes.maketrans(_DIGITS + _LOWER + _UPPER, b"0" * 10 + b"a" * 52)
"""Maps folded text to its shape: `0` for a digit, `a` for a Latin letter, signs as they are."""
WORDS = bytes.maketrans(_DIGITS + _LOWER + _UPPER + b"_-", b"a" * 64)
"""Maps folded text so that what a key or token is made of is a run of `a`."""


@functools.cache
def _table() -> np.ndarray:
    """The byte of every code point; made for the first text that is not ASCII (50 ms)."""
    table = np.full(_UNICODE, OTHER, np.uint8)
    table[:128] = np.arange(128)
    everything = np.arange(_UNICODE, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for run in re.finditer(r"[^\W\d]+", everything[128:]):
        table[run.start() + 128 : run.end() + 128] = LETTER
    for run in re.finditer(r"\d+", everything[128:]):
        for place, char in enumerate(run.group(), run.start() + 128):
            table[place] = ord("0") + unicodedata.decimal(char)
    for place in range(0x300, 0x20000):
        if table[place] == OTHER and unicodedata.category(chr(place))[0] == "M":
            table[place] = MARK
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)  # full-width forms
    for places, char in (
        (_SPACES + _UNSEEN, " "),
        (_DASHES, "-"),
        (_DOTS, "."),
        (_SLASHES, "/"),
    ):
        table[list(places)] = ord(char)
    return table


def fold(text: str) -> bytes:
    """One byte for each character of a text."""
    if text.isascii():
        folded = text.encode("ascii")
    else:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        folded = _table().take(points).tobytes()
    return _unescaped(folded) if b"\\" in folded else folded


def _unescaped(folded: bytes) -> bytes:
    """Escapes of JSON, as the arguments of a tool call have them, as what they stand for.

    Their letters would else seem to be a part of the word behind: `\\n030 1234567`.
    """
    for escape in (b"\\n", b"\\r", b"\\t"):
        folded = folded.replace(escape, b"\n\n")
    return _CODE_POINT.sub(_letter, folded)


def _letter(escape: re.Match[bytes]) -> bytes:
    return bytes([LETTER if chr(int(escape[1], 16)).isalpha() else 0x0A]) * 6


def blank(folded: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Folded text with spans overwritten, so that no later finder reads what is taken.

    To the finders they are as the brackets of the placeholders that will stand there, so that
    what is found beside them is the same in a text that was redacted already.
    """
    parts: list[bytes] = []
    done = 0
    for start, end in spans:
        parts += (folded[done:start], bytes([TAKEN]) * (end - start))
        done = end
    parts.append(folded[done:])
    return b"".join(parts)
