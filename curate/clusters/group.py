"""Groups of vectors that are alike, and the names they had before.

Average-linkage clustering (UPGMA) of cosines: two groups are joined while the mean cosine between
their members is at least the square of `similarity`. For a group whose members have that mean
cosine with each other, a member's cosine with the centre is its root: so groups reach just as far
as the assignment of later questions, `similarity` from the centre. No number of groups is asked
for, and a question that is like no other stays alone.

Its cost grows with the square of the number, so a few thousand are grouped at once; the others go
to the nearest centre, and what is near none is grouped in a further round.

Sources:
    Sokal & Michener, "A statistical method for evaluating systematic relationships" (1958);
    scikit-learn's AgglomerativeClustering
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.clusters.space import Floats

#: Vectors grouped at once, and how often what is left over is tried again.
AT_ONCE = 3000
ROUNDS = 4
Labels = NDArray[np.int64]
#: The label of what is in no group.
ALONE = -1


def grouped(vectors: Floats, known: NDArray[np.bool_], similarity: float, least: int) -> Labels:
    """Group vectors; labels 0, 1, … of shape (n,), `ALONE` for what is like too few others.

    Args:
        vectors: (n, dimensions), of length 1.
        known: which of them may be grouped.
        similarity: least cosine to the centre.
        least: fewest members.
    """
    labels = np.full(len(vectors), ALONE, dtype=np.int64)
    centres = np.zeros((0, vectors.shape[1]), dtype=np.float32)
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        left = np.flatnonzero(known & (labels == ALONE))
        if left.size < least:
            break
        part = left if left.size <= AT_ONCE else np.sort(rng.choice(left, AT_ONCE, replace=False))
        found = _joined(vectors[part], similarity, least)
        if not len(found):
            break
        centres = np.concatenate([centres, found])
        labels = _nearest(vectors, known, centres, similarity)
    # Centres of all members, not only of those that were grouped; then small ones go.
    for _ in range(2):
        sizes = np.bincount(labels[labels >= 0], minlength=len(centres))
        centres = centroids(vectors, labels, np.flatnonzero(sizes >= least))
        labels = _nearest(vectors, known, centres, similarity)
    sizes = np.bincount(labels[labels >= 0], minlength=len(centres))
    kept = np.full(len(centres) + 1, ALONE, dtype=np.int64)  # the last one stands for ALONE
    large = np.flatnonzero(sizes >= least)
    kept[large] = np.arange(len(large))
    return kept[labels]


def centroids(vectors: Floats, labels: Labels, which: Sequence[int] | NDArray[np.int64]) -> Floats:
    """The centres of groups, of length 1, (len(which), dimensions)."""
    sums = np.zeros((len(which), vectors.shape[1]), dtype=np.float32)
    for place, label in enumerate(which):
        sums[place] = vectors[labels == label].sum(axis=0)
    length = np.sqrt((sums**2).sum(axis=1))
    return np.asarray(sums / np.maximum(length, 1e-9)[:, None], dtype=np.float32)


def matched(new: Labels, old: Sequence[int | None]) -> dict[int, int]:
    """Which old group each new one is, by its members; a new group that is none is left out.

    The pairs with most members in common come first; they must be more than half of one of the two
    groups. No old group is two new ones.

    Args:
        new: labels of rows, (n,).
        old: numbers of the groups that the same rows were in.
    """
    common = Counter(
        (int(label), number)
        for label, number in zip(new, old, strict=True)
        if label != ALONE and number is not None
    )
    here = Counter(int(label) for label in new)
    there = Counter(number for number in old if number is not None)
    found: dict[int, int] = {}
    for (label, number), count in sorted(common.items(), key=lambda one: (-one[1], one[0])):
        half = 2 * count > min(here[label], there[number])
        if half and label not in found and number not in found.values():
            found[label] = number
    return found


def _joined(vectors: Floats, similarity: float, least: int) -> Floats:
    """Centres of the groups among some vectors."""
    from sklearn.cluster import AgglomerativeClustering

    if len(vectors) < 2:
        return vectors[:0]
    labels = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=1 - similarity**2
    ).fit_predict(vectors)
    sizes = np.bincount(labels)
    return centroids(vectors, labels, np.flatnonzero(sizes >= least))


def _nearest(
    vectors: Floats, known: NDArray[np.bool_], centres: Floats, similarity: float
) -> Labels:
    labels = np.full(len(vectors), ALONE, dtype=np.int64)
    if len(centres):
        cosines = vectors @ centres.T
        near = known & (cosines.max(axis=1) >= similarity)
        labels[near] = cosines.argmax(axis=1)[near]
    return labels
