"""The answers of one stage, on both sides, with what users made of them. Reads the ledger only.

Both sides are those that were routed by the event that began the stage, or a later one: the
control answered other users in the same hours. An answer belongs to the side that it names
(`arm`), whenever its feedback comes; feedback is as late on both sides. Answers that named a
version instead of the alias belong to none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ledger.database import tables
from ledger.deployments import Deployment
from ledger.records import is_negative
from ledger.store import Store

Floats = NDArray[np.float64]

_DAY = 86_400.0
# A server's clock and the ledger's may differ; the event's number is what decides.
_SLACK = 300.0
#: Endings that are no answer: `disconnected`, the client went away before it had one.
_FAILED = ("abort", "error", "disconnected")
_rows, _feedback = tables.interactions, tables.feedback
_COLUMNS = (
    *(_rows.c.row_id, _rows.c.ts, _rows.c.arm, _rows.c.subject, _rows.c.session),
    *(_rows.c.finish_reason, _rows.c.mean_logprob, _rows.c.completion_tokens),
    *(_rows.c.latency_ms, _rows.c.inclusion_probability),
)


class Side(NamedTuple):
    """The answers of one side; arrays of shape (answers,).

    Attributes:
        users: the user, else the session, else the answer itself.
        weights: what each counts for, 0 to 1: less where its user has many that day.
        probabilities: with which each was kept.
        negative, edited, spoken: whether somebody was not content, said what it should have
            been, said anything.
        failed: whether it came to no end.
        empty: whether it says nothing.
        latency: ms; NaN where unknown.
        tokens: of the answer.
        confidence: mean logprob, nats; NaN where unknown.
    """

    users: NDArray[Any]
    weights: Floats
    probabilities: Floats
    negative: NDArray[np.bool_]
    edited: NDArray[np.bool_]
    spoken: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    latency: Floats
    tokens: Floats
    confidence: Floats

    @property
    def total(self) -> float:
        """How many answers there were, sampled ones included."""
        return float((1 / self.probabilities).sum())


class Answers(NamedTuple):
    """Both sides of a stage."""

    canary: Side
    control: Side


def read(store: Store, state: Deployment, *, user_day: float) -> Answers:
    """The answers of the stage that is running.

    Args:
        user_day: answers that one user counts for, at most, a day.
    """
    query = sa.select(*_COLUMNS).where(
        _rows.c.alias == state.alias,
        _rows.c.ts >= state.stage_since - _SLACK,
        _rows.c.deployment >= state.stage_seq,
        _rows.c.arm.in_(("live", "candidate")),
    )
    with store.reading() as connection:
        found = connection.execute(query).all()
    said = _said(store, state)
    return Answers(
        _side([row for row in found if row.arm == "candidate"], said, user_day),
        _side([row for row in found if row.arm == "live"], said, user_day),
    )


def _said(store: Store, state: Deployment) -> dict[str, tuple[bool, bool]]:
    """Of rows of the stage with feedback: whether it was negative, and whether it is an edit."""
    query = (
        sa.select(_feedback.c.row_id)
        .join(_rows, _rows.c.row_id == _feedback.c.row_id)
        .where(
            _rows.c.alias == state.alias,
            _rows.c.ts >= state.stage_since - _SLACK,
            _rows.c.deployment >= state.stage_seq,
        )
        .distinct()
    )
    with store.reading() as connection:
        rows = list(connection.scalars(query))
    found: dict[str, tuple[bool, bool]] = {}
    for _, one in store.feedback(row_ids=rows):
        negative, edited = found.get(one.row_id, (False, False))
        found[one.row_id] = (negative or is_negative(one), edited or one.correction is not None)
    return found


def _side(rows: list[Any], said: dict[str, tuple[bool, bool]], user_day: float) -> Side:
    users = np.array([row.subject or row.session or row.row_id for row in rows], dtype=object)
    probabilities = np.array([row.inclusion_probability for row in rows], dtype=np.float64)
    user_days = [f"{user}@{row.ts // _DAY:.0f}" for user, row in zip(users, rows, strict=True)]
    reactions = [said.get(row.row_id) for row in rows]
    return Side(
        users=users.astype(str),
        weights=_weights(user_days, user_day),
        probabilities=probabilities,
        negative=np.array([bool(one and one[0]) for one in reactions], dtype=bool),
        edited=np.array([bool(one and one[1]) for one in reactions], dtype=bool),
        spoken=np.array([one is not None for one in reactions], dtype=bool),
        failed=np.array([row.finish_reason in _FAILED for row in rows], dtype=bool),
        # One token: the end of the turn alone.
        empty=np.array(
            [row.completion_tokens <= 1 and row.finish_reason == "stop" for row in rows], dtype=bool
        ),
        latency=_floats([row.latency_ms for row in rows]),
        tokens=_floats([row.completion_tokens for row in rows]),
        confidence=_floats([row.mean_logprob for row in rows]),
    )


def _floats(values: list[Any]) -> Floats:
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)


def _weights(user_days: list[str], most: float) -> Floats:
    """1, and less where a user has more than `most` rows that day.

    Rows, not the answers that they stand for: one row kept of twenty is no sign of a user who
    writes much, and to shrink it would make what is said about others weigh more.
    """
    if not user_days:
        return np.empty(0)
    _, of, rows = np.unique(np.array(user_days), return_inverse=True, return_counts=True)
    weights: Floats = np.minimum(1.0, most / rows)[of]
    return weights
