"""A writer that dies of every row whose id begins with `deadly`, as a bug in C code would do it."""

import os
import signal
from typing import Any

from ledger.store import Store
from ledger.writing import writer


class Deadly(Store):
    """A ledger in which some rows are fatal."""

    def add_prepared(self, rows: Any, connection: Any) -> int:
        if any(one.row.row_id.startswith("deadly") for one in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().add_prepared(rows, connection)


writer.Store = Deadly  # type: ignore[misc]
raise SystemExit(writer.main())
