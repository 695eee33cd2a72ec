"""Which corrections need eyes: the acceptance policy.

    context = Acceptance.of(settings, store)              once a batch
    verdict = judge(context, row, text, "user", subject, ts)

Covers what decides about one correction: who wrote it, what its text looks like, what others said
(`reasons`). The caps of pairs per user and per cluster are applied where a dataset is built
(`curate.datasets.select`), since only there is known what else is in it.
"""

from curate.acceptance.policy import Acceptance, Verdict, judge

__all__ = ["Acceptance", "Verdict", "judge"]
