"""Changing what is live: each change is one event in the ledger, with who and why.

    changes   by a person: shares, promotion, rollback; pause, resume and abort of a rollout
    stages    by the loop: beginning a rollout, and going a stage further or back
    shadow    the candidate answers live questions out of sight
    asking    telling a person that a stage does not come to an end
    shown     what a rollout waits for, for a person

A version gets traffic only when its last gate passed; `force` is recorded with its reason. Going
back needs neither gate nor training nor a server: only the ledger.
"""

from flywheel.rollout.changes import abort, operator, pause, promote, resume, rollback
from flywheel.rollout.stages import advance, begin

__all__ = [
    "abort",
    "advance",
    "begin",
    "operator",
    "pause",
    "promote",
    "resume",
    "rollback",
]
