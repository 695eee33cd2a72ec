"""Questions that are nearly the same: MinHash signatures and groups of them.

A signature estimates the Jaccard similarity of two sets of character 5-grams (Broder, "On the
resemblance and containment of documents", 1997), as `datasketch` computes it. What is asked last
and what was said before are signed apart, and two questions are as alike as the less alike of
the two: a long history that is the same does not make two questions one, nor do two words at the
end of different conversations.

The 5-grams are hashed with a key of the ledger, so that nobody without it can try a guessed text.

Covers no meaning: two ways to ask the same in other words are not near.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from ledger.store import Store

#: Names the way in which signatures are made; another one makes all of them anew.
SCHEME = "minhash-5gram-128-64-affine32"
_GRAM = 5
_LAST, _BEFORE = 128, 64  # permutations: what is asked last, and what was said before
_PAGE = 4096  # 5-grams hashed at once: bounds the memory that a long text takes
_COMPARED = 64  # questions of a band that the others in it are compared with
_PAIRS = 1 << 14  # compared at once
_WIDTH = 4  # bytes of a hash value


class Signer:
    """Makes signatures with the key of a ledger."""

    def __init__(self, store: Store) -> None:
        self._key = store.mac("signature", b"5-grams").encode()

    def sign(self, turns: Sequence[Sequence[Any]]) -> bytes:
        """The signature of a question.

        Args:
            turns: of `ledger.gold.question_turns`.

        Returns:
            192 unsigned 32-bit integers, little-endian: 128 of the turns from the last one of the
            user on, 64 of those before it.
        """
        start = max((n for n, turn in enumerate(turns) if turn[0] == "user"), default=0)
        parts = (self._values(turns[start:], _LAST), self._values(turns[:start], _BEFORE))
        return b"".join(part.astype("<u4").tobytes() for part in parts)

    def _values(self, turns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        blank = self._blank[count]
        if not turns:
            return np.array(blank.hashvalues)
        text = "\n".join(f"{said} {calls if calls else ''}" for _, said, calls in turns)
        made = MinHash(
            count, hashfunc=self._hash, permutations=blank.permutations, scheme=blank.scheme
        )
        grams = sorted({text[at : at + _GRAM] for at in range(max(1, len(text) - _GRAM + 1))})
        for at in range(0, len(grams), _PAGE):
            page = grams[at : at + _PAGE]
            made.update_batch([gram.encode("utf-8", "surrogatepass") for gram in page])
        values: np.ndarray = made.hashvalues
        return values

    def _hash(self, gram: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(gram, key=self._key, digest_size=_WIDTH).digest())

    @cached_property
    def _blank(self) -> dict[int, MinHash]:
        """Empty signatures, whose permutations all share."""
        return {count: MinHash(count) for count in (_LAST, _BEFORE)}


class Links(NamedTuple):
    """Which questions are near: for each the numbers of others, with the similarity."""

    of: dict[int, dict[int, float]]

    def near(self, number: int) -> dict[int, float]:
        """Numbers and similarities of the questions that are near to one."""
        return self.of.get(number, {})


def links(signatures: Sequence[bytes], threshold: float, *, only: int | None = None) -> Links:
    """Find the questions that are near to each other.

    Locality-sensitive hashing: signatures are cut into bands, and only questions that are equal
    in a band are compared. In a band with many equal ones each is compared with the first 64, so
    give first what matters most; the time stays linear however much alike the questions are.
    At the threshold about one pair in eight is missed, well above it hardly any.

    Args:
        signatures: of `Signer.sign`.
        threshold: least similarity at which two questions are near, above 0 and below 1.
        only: compare with the first so many questions alone.
    """
    if len(signatures) < 2:
        return Links({})
    values = np.frombuffer(b"".join(signatures), dtype="<u4").reshape(len(signatures), -1)
    found: dict[int, dict[int, float]] = {}
    pairs = _candidates(values, threshold, len(values) if only is None else only)
    for start in range(0, len(pairs), _PAIRS):
        left, right = np.divmod(pairs[start : start + _PAIRS], len(values))
        same = values[left] == values[right]
        alike = np.minimum(same[:, :_LAST].mean(1), same[:, _LAST:].mean(1))
        for place in np.flatnonzero(alike >= threshold):
            one, other, how = int(left[place]), int(right[place]), float(alike[place])
            found.setdefault(one, {})[other] = how
            found.setdefault(other, {})[one] = how
    return Links(found)


def _candidates(values: np.ndarray, threshold: float, only: int) -> np.ndarray:
    """Pairs of rows that share a band, each as `first * rows + second`; `first` below `only`."""
    bands = MinHashLSH(threshold, _LAST, weights=(0.1, 0.9))  # only for how many, and how wide
    rows = len(values)
    found = []
    for band in range(bands.b):
        part = np.ascontiguousarray(values[:, band * bands.r : (band + 1) * bands.r])
        keys = part.view(np.dtype((np.void, part.shape[1] * part.itemsize))).ravel()
        _, group = np.unique(keys, return_inverse=True)
        order = np.argsort(group, kind="stable")
        sizes = np.bincount(group)
        starts = (np.cumsum(sizes) - sizes)[group[order]]
        rank = np.arange(rows) - starts
        for leader in range(_COMPARED):
            after = np.flatnonzero(rank > leader)
            if not len(after):
                break
            first = order[starts[after] + leader]
            kept = first < only
            found.append(first[kept] * rows + order[after[kept]])
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
