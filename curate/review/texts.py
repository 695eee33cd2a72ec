"""Texts as the page shows them: what differs between two, and how sure each token was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ledger.differences import Piece, differences

__all__ = ["CLASSES", "Piece", "Token", "differences", "tokens"]

#: Least probability of each class of tokens, from sure to unlikely; the last has none.
CLASSES = (0.9, 0.5, 0.2, 0.05)
_BOUNDS = tuple(math.log(share) for share in CLASSES)


class Token(NamedTuple):
    """A token of an answer; `level` is 0 (sure) to 4 (unlikely), `logprob` in nats."""

    text: str
    logprob: float
    level: int

    @property
    def share(self) -> float:
        """Its probability."""
        return math.exp(self.logprob)


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
