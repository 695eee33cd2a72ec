"""Why a row with an accepted correction, or with a good answer, is not in a dataset."""

from __future__ import annotations

NO_TEXT = "text not stored"
COMPLETION = "text completion without a chat template"
PREFILLED = "prompt ends with the start of an answer"
BROKEN = "text with half of a surrogate pair"
EMPTY = "empty correction"
NAMES = "the detector of names failed"
GOLD = "gold question"
NEAR_GOLD = "near-duplicate of a gold question"
DUPLICATE = "same question and answer as another pair"
NEAR = "nearly the same question, and the same answer, as another pair"
CONTRADICTED = "another correction of the same question holds"
SUBJECT = "its user has as many new pairs as one may bring in"
SUBJECT_EVER = "its user has as many pairs as one may have"
CLUSTER = "its cluster has as many new pairs of users and teachers as one may get"
FORGOTTEN = "somebody was forgotten"
NOT_REJECTED = "no answer was rejected"  # in exports of preferences only
DISLIKED = "voted down: what should have been said is not known"  # in exports only
