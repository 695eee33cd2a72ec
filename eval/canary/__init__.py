"""Judging a canary beside its concurrent control, as often as one likes.

    evidence   how much more often something happens with the canary: confidence sequences
    answers    the answers of a stage on both sides, read from the ledger
    signals    what is compared: negatives, edits, guards, the shadow comparison
    judging    expand, roll back, hold or ask

Decides nothing and writes nothing: `flywheel.rollout` does.
"""

from eval.canary.judging import Judgement, judge, judge_state, stage_of

__all__ = ["Judgement", "judge", "judge_state", "stage_of"]
