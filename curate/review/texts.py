"""Texts as the page shows them: what differs between two, and how sure each token was."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MOST_WORDS = 3000  # of both texts; longer ones are compared by line

#: Least probability of each class of tokens, from sure to unlikely; the last has none.
CLASSES = (0.9, 0.5, 0.2, 0.05)
_BOUNDS = tuple(math.log(share) for share in CLASSES)


class Piece(NamedTuple):
    """A part of two texts: in both, only in the first, or only in the second."""

    kind: Literal["same", "del", "ins"]
    text: str


class Token(NamedTuple):
    """A token of an answer; `level` is 0 (sure) to 4 (unlikely), `logprob` in nats."""

    text: str
    logprob: float
    level: int

    @property
    def share(self) -> float:
        """Its probability."""
        return math.exp(self.logprob)


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


def tokens(answer: str, known: Sequence[tuple[int, float]] | None) -> list[Token] | None:
    """An answer cut into its tokens; None where they are not known, or do not make it up.

    Args:
        known: characters and logprob, nats, of each token.
    """
    if not known or sum(length for length, _ in known) != len(answer):
        return None
    found, at = [], 0
    for length, logprob in known:
        if length:
            level = sum(logprob < bound for bound in _BOUNDS)
            found.append(Token(answer[at : at + length], logprob, level))
        at += length
    return found
