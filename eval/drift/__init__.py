"""Watching whether a product, its users or its model change. docs/drift.md explains each signal.

`watch` takes in what came since the last look, appends alerts and does what follows from them;
`look` says how things stand. What is watched by the hour goes through `detector`, whose rules and
baselines are in `rules` and `calibration`; `reactions` and `answers` read the hours from the
ledger. Gold questions (`gold`), the kinds of questions (`questions`) and new clusters (`clusters`)
are looked at on a schedule.

All of it is derived from rows and can be derived again: what is remembered between looks is
in the table `watches`, and removing it only means to warm up anew.
"""

from eval.drift.gold import gold_asker
from eval.drift.signals import Signal
from eval.drift.watching import Watched, begin_anew, look, problems, watch

__all__ = ["Signal", "Watched", "begin_anew", "gold_asker", "look", "problems", "watch"]
