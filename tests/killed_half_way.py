"""Does something to copies of a ledger, killed at its first statement, at its second, and so on.

    python tests/killed_half_way.py migrate|housekeep CONFIG FOLDER NOW STRIDE

`FOLDER/0` holds a closed ledger. `FOLDER/<n>` is a copy after a process that was killed before
its n-th statement, n being 1, 1 + STRIDE and so on; the last one got through.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import alembic.command  # before the first fork, so that not every child does it
import sqlalchemy as sa

from ledger.database.engine import open_engine
from ledger.keeping import retention, settle
from ledger.settings import Settings, load
from ledger.store import Store

assert alembic.command


def at(settings: Settings, file: Path) -> Settings:
    """The same settings for a ledger elsewhere."""
    ledger = settings.ledger.model_copy(update={"url": f"sqlite:///{file}"})
    return settings.model_copy(update={"ledger": ledger})


def housekeep(settings: Settings, now: float) -> None:
    """Decide on what is held, then retention, each to its end."""
    store = Store.open(settings)
    for _ in settle.Settle(store, settings, lambda: now).steps():
        pass
    for _ in retention.retention(store, settings, lambda: now):
        pass
    store.close()


def _killed_at(last: int) -> None:
    count = itertools.count(1)

    def before(*_: Any) -> None:
        if next(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", before)
    sa.event.listen(sa.Engine, "commit", before)


def main(what: str, settings: Settings, folder: Path, now: float, stride: int) -> None:
    settle.CHUNK = retention.CHUNK = 8  # so that there are several of each
    for number in itertools.count(1, stride):
        copy = folder / str(number)
        shutil.copytree(folder / "0", copy)
        file = copy / "ledger.db"
        child = os.fork()
        if not child:
            _killed_at(number)
            if what == "migrate":
                open_engine(f"sqlite:///{file}", lock_seconds=5).dispose()
            else:
                housekeep(at(settings, file), now)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    what, config, folder, now, stride = sys.argv[1:]
    main(what, load(Path(config)), Path(folder), float(now), int(stride))
