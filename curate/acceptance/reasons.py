"""Why a correction waits or is rejected: the words that stand in its `why` and in summaries.

A reason may go on after a colon with what was found (`language: en, its question is de`); what
stands before the colon is one of these words, and that is what summaries count (`word_of`).
Why an accepted correction is not in a dataset is `curate.datasets.reasons`; its caps are named
here, too, so that a summary can list who reached them.
"""

from __future__ import annotations

from curate.datasets.reasons import CLUSTER as CAP_CLUSTER
from curate.datasets.reasons import SUBJECT as CAP_SUBJECT
from curate.datasets.reasons import SUBJECT_EVER as CAP_SUBJECT_EVER

# -- nobody needs to look: rejected -----------------------------------------------------------

TOO_LONG = "too long"
SECRET = "holds a secret"
EMPTY = "empty"
CHECK = "fails a check of the alias"

# -- somebody has to look: proposed -----------------------------------------------------------

UNTRUSTED = "source not trusted"
NEW_SUBJECT = "new user"
BURST = "burst of one user"
SAME_TEXT = "same text from several users"
CONTRADICTS = "contradicts another correction"
LANGUAGE = "language"
REFUSAL = "refuses to answer"
PLACEHOLDERS = "personal data left over"
GOOD = "somebody called the answer good"
HARMED = "new in a version that harmed users"
CONTROL = "control tokens of a model"
TOO_CLOSE = "too close to the answer"
TOO_FAR = "too far from the answer"

REJECTS = (TOO_LONG, SECRET, EMPTY, CHECK)
WAITS = (
    UNTRUSTED,
    NEW_SUBJECT,
    BURST,
    SAME_TEXT,
    CONTRADICTS,
    LANGUAGE,
    REFUSAL,
    PLACEHOLDERS,
    GOOD,
    HARMED,
    CONTROL,
    TOO_CLOSE,
    TOO_FAR,
)
CAPS = (CAP_SUBJECT, CAP_SUBJECT_EVER, CAP_CLUSTER)


def word_of(reason: str) -> str:
    """The word that a reason begins with: what summaries count."""
    return reason.partition(":")[0]
