"""One turn of the wheel: curate → train → publish → load → gate.

run       the turn, under the lease `retrain/<alias>`: one at a time, on any machine
steps     each step is a process that ends with us and is done once
folder    the run's folder, in which a killed turn is found again
sharing   what becomes of the server while a training needs its GPU

Killed at any moment, the same command resumes: a finished step is not done again, a training
goes on from its last whole checkpoint, a dataset that was frozen stays as it is whatever came in
since, and what was published is found. Only a build of the dataset that was cut off begins anew,
on what the ledger has then. The gate talks to the server that users talk to. A version that
passes stays loaded with 0 % of the traffic: giving it some is `flywheel promote`'s business.
"""

from flywheel.retrain.folder import unfinished
from flywheel.retrain.run import Outcome, retrain

__all__ = ["Outcome", "retrain", "unfinished"]
