"""Do people ask something else: can a classifier tell today's questions from those of the warm-up.

Once a UTC day. Both sides are samples that stand for all traffic, one question a person. The
classifier is a logistic regression on hashed TF-IDF of words and pairs of words, cross-validated;
its AUC is 0.5 where it can tell nothing. What it can tell between the days of the warm-up
themselves is what is usual.

Covers no reasons: which questions are new is told by clusters (`curate.clusters`). Texts are
opened, vectors live in memory only.

Sources:
    classifier two-sample test: Lopez-Paz & Oquab, ICLR 2017 (arXiv 1610.06545)
    variance of an AUC: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ledger.database import tables
from ledger.keeping.rollups import SECONDS, hour_of
from ledger.questions import question
from ledger.store import Store
from ledger.store.base import STREAM

_FOLDS = 5
_FEATURES = 2**16
_SEED = 17
_rows, _settled = tables.interactions, tables.settled


class Auc(NamedTuple):
    """How well questions are told apart, with an interval; `texts` of the smaller side."""

    value: float
    low: float
    high: float
    texts: int


def sample(store: Store, alias: str, since: int, until: int, most: int) -> list[str]:
    """Questions from the hours `since` up to `until`, the last one left out, one a person.

    The answers with the smallest sample keys. Of an hour that was decided on only those whose key
    is below its threshold: what was kept for certain is then as likely to be here as what was
    not, and days that were thinned out compare with days that were not.
    """
    hours = sa.select(_settled.c.hour, _settled.c.version, _settled.c.threshold).where(
        _settled.c.hour >= since, _settled.c.hour < until
    )
    query = (
        sa.select(
            _rows.c.row_id, _rows.c.ts, _rows.c.version, _rows.c.subject, _rows.c.session,
            _rows.c.sample_key, _rows.c.held,
        )
        .where(
            _rows.c.alias == alias,
            _rows.c.ts >= since * SECONDS,
            _rows.c.ts < until * SECONDS,
            _rows.c.stored_text,
        )
        .order_by(_rows.c.sample_key, _rows.c.row_id)
    )  # fmt: skip
    chosen: dict[str, str] = {}
    with store.reading() as connection:
        thresholds = {(hour, version): t for hour, version, t in connection.execute(hours)}
        for row in connection.execution_options(**STREAM).execute(query):
            threshold = thresholds.get((hour_of(row.ts), row.version), 1.0)
            if not row.held and row.sample_key >= threshold:
                continue
            chosen.setdefault(row.subject or row.session or row.row_id, row.row_id)
            if len(chosen) == most:
                break
    rows = store.interactions(row_ids=sorted(chosen.values()))
    return [text for row in rows if (text := question(row.messages))]


def told_apart(before: Sequence[str], after: Sequence[str], level: float) -> Auc | None:
    """The cross-validated AUC of a classifier between two sets of texts.

    Args:
        level: chance that the AUC is below `low` (and above `high`), 0 to 0.5.

    Returns:
        None where a side has fewer than two texts a fold, or no words.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    count = min(len(before), len(after))
    if count < 2 * _FOLDS:
        return None
    texts = [*before, *after]
    labels = np.array([0] * len(before) + [1] * len(after))
    hashed = HashingVectorizer(n_features=_FEATURES, ngram_range=(1, 2), alternate_sign=False)
    counts = hashed.transform(texts)
    if not counts.nnz:
        return None
    values, variances = [], []
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    for train, held_out in folds.split(np.zeros(len(texts)), labels):
        weigh = TfidfTransformer(sublinear_tf=True).fit(counts[train])
        model = LogisticRegression(
            C=1.0,
            max_iter=5000,
            solver="liblinear",
            dual=True,
            class_weight="balanced",
            random_state=_SEED,
        )
        model.fit(weigh.transform(counts[train]), labels[train])
        scores = model.decision_function(weigh.transform(counts[held_out]))
        value, variance = delong(scores[labels[held_out] == 1], scores[labels[held_out] == 0])
        values.append(value)
        variances.append(variance)
    value = float(np.mean(values))
    error = math.sqrt(sum(variances)) / _FOLDS
    reach = NormalDist().inv_cdf(1 - level) * error
    return Auc(value, max(value - reach, 0.0), min(value + reach, 1.0), count)


def delong(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> tuple[float, float]:
    """The AUC of scores and its variance, by placements."""
    ordered, reversed_ = np.sort(negatives), np.sort(positives)
    over = (
        np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    ) / (2 * len(negatives))
    under = 1 - (
        np.searchsorted(reversed_, negatives, "left")
        + np.searchsorted(reversed_, negatives, "right")
    ) / (2 * len(positives))
    variance: Any = np.var(over, ddof=1) / len(positives) + np.var(under, ddof=1) / len(negatives)
    # Where all are told apart nothing scatters; half an error on each side remains.
    least = 1 / (4 * len(positives) * len(negatives))
    return float(over.mean()), float(max(variance, least))
