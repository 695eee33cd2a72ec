"""A writer whose clock goes an hour back whenever it is read."""

import itertools
import time

_real = time.time
_reads = itertools.count(1)
time.time = lambda: _real() - 3600.0 * next(_reads)

from ledger.writing import writer  # noqa: E402 - after the clock, which becomes a default in it

raise SystemExit(writer.main())
