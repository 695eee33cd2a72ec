"""Corrections from a stronger model, behind any OpenAI-compatible endpoint.

    report = distill(settings, store, "support", accept="check", budget=2.0)

`choose` says which rows, `ask` asks over the network, `prices` keeps the budget, `compare` is the
judge, and `run` puts it together. What is sent is the text as the ledger has it: redacted.
"""

from curate.distill.report import Report
from curate.distill.run import Accept, distill

__all__ = ["Accept", "Report", "distill"]
