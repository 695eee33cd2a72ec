"""Changing the master key.

With a key file: a new key is added to it, every user's key is wrapped anew in one transaction,
and the old key is removed. Running servers read the file again when they meet a key that they do
not know, so nothing restarts.

With the variable or a command, which only their owner can change: give both keys first (comma
between them, the new one last) to every process, rotate, then give the new one alone.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ledger.errors import UsageError
from ledger.keys import master
from ledger.keys.master import MasterKeys
from ledger.settings import MASTER_VARIABLE, Settings
from ledger.store import Store


class Rotated(NamedTuple):
    """What a rotation did."""

    before: str | None
    after: str
    keys: int
    old_removed: bool

    def text(self) -> str:
        """For a person."""
        lines = [f"master key {self.before or 'none'} → {self.after}; {self.keys} key(s) wrapped"]
        if self.before is None:
            lines.append("It is the first one: nothing had been sealed yet.")
        elif self.old_removed:
            lines.append("The old key is gone from the key file: copies of the ledger made before")
            lines.append("cannot be read any more, unless somebody kept it.")
        else:
            lines.append("The old key still opens copies of the ledger made before: remove it.")
        return "\n".join(lines)


def describe(settings: Settings, store: Store) -> dict[str, Any]:
    """Which master key is in use, and where this process takes it from."""
    current = store.master()
    if current is None:
        return {"in use": None, "source": None, "known here": None}
    known = MasterKeys.open(settings.privacy, create=False)
    return {"in use": current, "source": known.source, "known here": current in known}


def described(found: dict[str, Any]) -> str:
    """The same for a person."""
    if found["in use"] is None:
        return "No master key is in use yet: it is made when the first text is stored."
    known = "knows it" if found["known here"] else "does NOT hold it"
    return f"master key {found['in use']}; {found['source']} {known}"


def rotate(settings: Settings, store: Store, *, who: str, keep_old: bool) -> Rotated:
    """Change the master key.

    Raises:
        UsageError: the keys come from a variable or a command that gives no new one.
        ConfigError: the key in use is not known here.
        LedgerError: privacy.seal is off.
    """
    before, privacy = store.master(), settings.privacy
    from_file = not os.environ.get(MASTER_VARIABLE) and not privacy.master_key_command
    if from_file:
        # A rotation that was cut off left the new key in the file: it is taken up again.
        known = MasterKeys.open(privacy, create=before is None)
        new = known.newest if known.newest != before else master.add_to_file(privacy)
    else:
        new = MasterKeys.open(privacy, create=False).newest
        if new == before:
            raise UsageError(
                f"the newest master key given is the one in use, {before}",
                remedy="Give both keys, the new one last, to every process; then rotate.",
            )
    count = store.rotate_master(new, who=who)
    removed = from_file and not keep_old and master.keep_in_file(privacy, new) > 0
    return Rotated(before, new, count, removed)
