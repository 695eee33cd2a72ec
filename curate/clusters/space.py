"""What turns questions into vectors without a model: hashed words and letters, TF-IDF, SVD.

A question becomes the counts of its words, pairs of words and runs of four letters,
each hashed to a number, weighted by how rare they are; and projected onto the main directions of
the questions that the space was fitted on (latent semantic analysis). What a space was not fitted
on it cannot see: the share of a question's length that survives the projection is returned beside
its vector, and tells.

A space holds no text and nothing of a single question: features that fewer than `LEAST` of the
questions had are dropped, and features are hashes. It is stored as plain arrays; nothing is ever
unpickled.

Sources:
    latent semantic analysis: Deerwester et al., JASIS 41 (1990), 391-407
    randomised SVD: Halko, Martinsson & Tropp, SIAM Review 53 (2011); scikit-learn's TruncatedSVD
    hashed features: Weinberger et al., ICML 2009; scikit-learn's HashingVectorizer
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Features of words, and as many of letters.
FEATURES = 2**16
#: Questions that must have a feature before the space keeps it.
LEAST = 3
#: Most dimensions, and how many questions one of them needs.
DIMENSIONS = 100
PER_DIMENSION = 4
#: Part of a question's length that its letters make; the rest is words'.
_LETTERS = 0.3
# A question is seen when at least half as much of it survives as of nearly all that were
# fitted on (their lowest twentieth): those are flattered, since the space was made for them.
_NEARLY_ALL = 0.05
_HALF = 0.5


class Seen(NamedTuple):
    """Questions in a space.

    Attributes:
        vectors: of shape (n, dimensions), each of length 1, or 0 where nothing is seen.
        energy: share of each question that the space sees, (n,), 0 to 1.
    """

    vectors: Floats
    energy: Floats


class Tfidf:
    """A fitted space.

    Args:
        counts: in how many questions each feature was, (2 * FEATURES,).
        questions: how many there were.
        kept: the features that are seen, ascending.
        axes: their places, (features kept, dimensions).
        floor: least energy of a question that counts as seen.
    """

    kind = "tfidf"

    def __init__(
        self,
        counts: NDArray[np.int32],
        questions: int,
        kept: NDArray[np.int32],
        axes: Floats,
        floor: float,
    ) -> None:
        self._counts, self._questions, self._kept, self._axes = counts, questions, kept, axes
        self.floor = floor
        self._rarity = (np.log((1 + questions) / (1 + counts)) + 1).astype(np.float32)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._axes.shape[1])

    @classmethod
    def fit(cls, questions: Sequence[str], below: Tfidf | None = None) -> Tfidf:
        """A space for questions; the same one for the same questions in the same order.

        Args:
            below: a space that saw other questions: what is common there is common here.
        """
        raw = counted(questions)
        here = np.bincount(raw.indices, minlength=raw.shape[1]).astype(np.int32)
        here[here < LEAST] = 0
        kept = np.flatnonzero(here).astype(np.int32)
        counts, number = here, len(questions)
        if below is not None:
            counts, number = counts + below._counts, number + below._questions
        made = cls(counts, number, kept, np.zeros((kept.size, 1), dtype=np.float32), 0.0)
        weighted = made._weighted(raw)
        most = max(1, min(DIMENSIONS, len(questions) // PER_DIMENSION))
        if kept.size > most + 1:
            from sklearn.decomposition import TruncatedSVD

            with one_thread():
                svd = TruncatedSVD(most, n_iter=2, random_state=0).fit(weighted[:, kept])
            made._axes = svd.components_.T.astype(np.float16).astype(np.float32)
        elif kept.size:
            made._axes = np.eye(kept.size, dtype=np.float32)
        energy = made._seen(weighted).energy
        made.floor = _HALF * float(np.quantile(energy, _NEARLY_ALL)) if energy.size else 0.0
        return made

    def see(self, questions: Sequence[str]) -> Seen:
        """Where questions lie."""
        return self.see_counted(counted(questions))

    def see_counted(self, raw: Any) -> Seen:
        """`see` of what `counted` found, for who asks several spaces."""
        return self._seen(self._weighted(raw))

    def _seen(self, weighted: Any) -> Seen:
        inside = np.asarray(weighted[:, self._kept] @ self._axes, dtype=np.float32)
        length = np.sqrt((inside**2).sum(axis=1))
        return Seen(inside / np.maximum(length, 1e-9)[:, None], (length**2).astype(np.float32))

    def _weighted(self, raw: Any) -> Any:
        """Counts as TF-IDF, each question of length 1: words and letters have fixed parts."""
        from scipy import sparse

        found = raw.copy()
        found.data = (1 + np.log(found.data)) * self._rarity[found.indices]
        parts = []
        for part, share in (
            (found[:, :FEATURES], 1 - _LETTERS),
            (found[:, FEATURES:], _LETTERS),
        ):
            length = np.sqrt(np.asarray(part.multiply(part).sum(axis=1)).ravel())
            scale = np.sqrt(share) / np.where(length > 0, length, 1)
            parts.append(sparse.diags_array(scale.astype(np.float32)) @ part)
        return sparse.csr_array(sparse.hstack(parts, format="csr"))

    def dump(self) -> bytes:
        """As bytes, without pickle."""
        common = np.flatnonzero(self._counts).astype(np.int32)
        return packed(
            questions=np.int64(self._questions),
            features=common,
            counts=self._counts[common],
            kept=self._kept,
            axes=self._axes.astype(np.float16),
            floor=np.float64(self.floor),
        )

    @classmethod
    def load(cls, data: bytes) -> Tfidf:
        """The inverse of `dump`."""
        found = unpacked(data)
        counts = np.zeros(2 * FEATURES, dtype=np.int32)
        counts[found["features"]] = found["counts"]
        axes = found["axes"].astype(np.float32)
        return cls(counts, int(found["questions"]), found["kept"], axes, float(found["floor"]))


def packed(**arrays: Any) -> bytes:
    """Arrays as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """The inverse of `packed`; refuses pickled objects."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


def one_thread() -> Any:
    """A context in which BLAS has one thread. Its threads wait for each other by spinning: where
    other processes want the cores too, two of them took fifty times as long as one.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(1)


@cache
def _hashers() -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    same: dict[str, Any] = {
        "n_features": FEATURES,
        "norm": None,
        "alternate_sign": False,
        "dtype": np.float32,
    }
    words = HashingVectorizer(ngram_range=(1, 2), **same)
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(4, 4), **same)
    return words, letters


def counted(questions: Sequence[str]) -> Any:
    """Counts of features, a sparse array (n, 2 * FEATURES)."""
    from scipy import sparse

    parts = [hasher.transform(questions) for hasher in _hashers()]
    return sparse.csr_array(sparse.hstack(parts, format="csr"))
