"""The same program in several processes that start their work together."""

from __future__ import annotations

import subprocess
import sys


def at_once(code: str, argument: str, processes: int = 3) -> list[str]:
    """What each printed; all must end well and without a word on standard error.

    Args:
        code: waits with `sys.stdin.readline()` for its start; `argument` is `sys.argv[1]`.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = []
    for process in started:
        out, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
        printed.append(out)
    return printed


#: Opens a ledger, which migrates it.
OPENING = (
    "import sys; from ledger.database.engine import open_engine; sys.stdin.readline();"
    "open_engine(sys.argv[1], lock_seconds=10).dispose()"
)
