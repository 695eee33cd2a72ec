"""One pass over all questions: every model, every set, every sample in one run on one server.

`ask` interleaves them, takes what is known already from the ledger, and keeps each answer while
it runs, so that a gate that was killed goes on where it was. `identities` says who a model is,
`Bar` shows how far it is. What is asked and what follows from the answers is `eval.gate`'s.
"""

from eval.asking.cache import Identities, identities
from eval.asking.load import concurrency
from eval.asking.progress import Bar, Told
from eval.asking.run import Pass, Wanted, ask

__all__ = ["Bar", "Identities", "Pass", "Told", "Wanted", "ask", "concurrency", "identities"]
