"""The store: rows in, rows out. Opening it migrates it.

Every text that comes in passes the redaction here and is sealed with its user's key, whoever
brings it: the server's writer, a command, the demo. Where redaction fails no text is kept and
`redaction_failures` counts it. Where the key of a text is gone (somebody was forgotten) the row
comes back without text; where the text is damaged the row is named in the log, counted in
`damaged` and skipped. Deployments live in `ledger.deployments`, which uses the same engine.
"""

from __future__ import annotations

from ledger.clock import now
from ledger.store.alerts import Alert, Alerts
from ledger.store.corrections import Corrections
from ledger.store.datasets import Datasets, Frozen
from ledger.store.feedback import FeedbackRows
from ledger.store.firings import Firing, Firings, Outcome
from ledger.store.gate_answers import GateAnswer, GateAnswers
from ledger.store.interactions import Prepared
from ledger.store.leases import Held, Lease, Leases
from ledger.store.lines import Line, Lines
from ledger.store.packs import PackEvent, Packs
from ledger.store.queue import Queue, Review, Waiting
from ledger.store.shadows import ShadowAnswer, ShadowCounts, Shadows
from ledger.store.spending import Spending, Spent, SpentOn
from ledger.store.subjects import Subjects
from ledger.store.tags import Tags
from ledger.store.versions import VersionNote, VersionNotes
from ledger.store.watches import Watches

__all__ = [
    "Alert",
    "Firing",
    "Frozen",
    "GateAnswer",
    "Held",
    "Lease",
    "Line",
    "Outcome",
    "PackEvent",
    "Prepared",
    "Review",
    "ShadowAnswer",
    "ShadowCounts",
    "Spent",
    "SpentOn",
    "Store",
    "VersionNote",
    "Waiting",
    "now",
]


class Store(
    FeedbackRows,
    Corrections,
    Queue,
    Tags,
    Datasets,
    Subjects,
    Spending,
    GateAnswers,
    Shadows,
    Packs,
    Firings,
    VersionNotes,
    Leases,
    Alerts,
    Watches,
    Lines,
):
    """All that happened. One instance a process; threads may share it."""
