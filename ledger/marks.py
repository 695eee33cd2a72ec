"""The tags that Flywheel itself puts on rows, and which marks bring a row before eyes first.

Anything else may be a tag, too: by hand, by API, by a rule.
"""

from __future__ import annotations

USER_NEGATIVE = "user_negative"
USER_EDIT = "user_edit"
LOW_CONFIDENCE = "low_confidence"
DRIFT_WINDOW = "drift_window"  # answered in the window before a drift alert
NEW_CLUSTER = "new_cluster"  # asks what the training data knows nothing of
GOLD_MISS = "gold_miss"  # a gold question, answered wrongly to a user
OPERATOR_REVIEW = "operator_review"
IMPORTED = "imported"
#: On rows of users' corrections that the acceptance policy lets wait, or rejects; why says why.
CORRECTION_WAITS, CORRECTION_REJECTED = "correction_waits", "correction_rejected"
CONTRADICTED = "contradicted"  # somebody else corrected this row, or its question, otherwise
#: Tags that say what Flywheel found; a client cannot put them on a row.
OURS = frozenset({
    USER_NEGATIVE, USER_EDIT, LOW_CONFIDENCE, DRIFT_WINDOW, NEW_CLUSTER, GOLD_MISS, IMPORTED,
    CORRECTION_WAITS, CORRECTION_REJECTED, CONTRADICTED, "reviewed",
})  # fmt: skip

#: Rank in the queue of a row with a proposed correction; the smallest rank is shown first.
PROPOSED = 0
#: Rank of a row by the tag that it carries. `user_edit` comes with a correction, and a drift
#: window has too many rows for eyes: rules may choose among them.
RANKS = {
    OPERATOR_REVIEW: 1,
    GOLD_MISS: 2,
    USER_NEGATIVE: 3,
    NEW_CLUSTER: 5,
    LOW_CONFIDENCE: 6,
}
_BY_RULE = 4
#: A mark of at most this rank brings back a row that was judged before.
REOPENS = 1
_NOT_BY_RULE = (USER_EDIT, DRIFT_WINDOW, IMPORTED)


def by_user(subject: str | None) -> str:
    """Who tagged, as in `Tag.who`, where a user did; None: one of whom nothing is known."""
    return f"user:{subject or 'unknown'}"


def rank_name(rank: int) -> str:
    """What brought rows of a rank into the queue, in words."""
    names = {PROPOSED: "proposed correction", _BY_RULE: "rule"}
    names |= {rank: tag for tag, rank in RANKS.items()}
    return names.get(rank, f"rank {rank}")


def queue_rank(tag: str, who: str) -> int | None:
    """Rank that a tag gives its row in the queue; None where it does not bring it there.

    Args:
        who: who tagged, as in `Tag.who`. Whatever a rule of the configuration tags is queued.
    """
    if tag in RANKS:
        return RANKS[tag]
    return _BY_RULE if who.startswith("rule:") and tag not in _NOT_BY_RULE else None
