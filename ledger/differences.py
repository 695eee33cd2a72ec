"""What differs between two texts, by word: for pages that show one beside the other."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MOST_WORDS = 3000  # of both texts; longer ones are compared by line


class Piece(NamedTuple):
    """A part of two texts: in both, only in the first, or only in the second."""

    kind: Literal["same", "del", "ins"]
    text: str


def differences(one: str, other: str) -> list[Piece]:
    """What has to be taken out of a text, and put in, to make another of it.

    Words are compared; lines, where the texts are long.
    """
    a, b = _WORD.findall(one), _WORD.findall(other)
    if len(a) + len(b) > _MOST_WORDS:
        a, b = _LINE.findall(one), _LINE.findall(other)
    pieces: list[Piece] = []
    out, put = "", ""
    found = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for number, (kind, start, end, from_, to) in enumerate(found):
        gone, come = "".join(a[start:end]), "".join(b[from_:to])
        inside = 0 < number < len(found) - 1
        if kind == "equal" and not (inside and gone.isspace()):
            pieces += _change(out, put)
            out = put = ""
            pieces.append(Piece("same", gone))
        else:  # a space between two changes belongs to them: half sentences read better whole
            out, put = out + gone, put + come
    return pieces + _change(out, put)


def _change(out: str, put: str) -> list[Piece]:
    return [Piece("del", out)] * bool(out) + [Piece("ins", put)] * bool(put)
