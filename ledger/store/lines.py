"""Lines of files that hold text of the ledger: frozen datasets, the training data of a version.

A line names its row and is sealed with the keys that the row is sealed with. So who is forgotten
is forgotten in these files too, and in every copy of them, wherever it lies.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

from ledger.clock import now
from ledger.errors import LedgerError
from ledger.keys.keyring import owner_of
from ledger.keys.pack import key_of
from ledger.store.interactions import Interactions

_SEALED = "sealed"


class Line(NamedTuple):
    """What goes into a line.

    Attributes:
        user: the subject who wrote the correction, where a user did.
        fields: JSON values; all of them are sealed.
    """

    row_id: str
    user: str | None
    fields: dict[str, Any]


class Lines(Interactions):
    """Sealing and opening lines."""

    def sealed_lines(self, lines: Iterable[Line], file: str) -> list[dict[str, Any]]:
        """JSON values to write, `{"row_id": …, "sealed": …}`; open ones where privacy.seal is off.

        Args:
            file: the kind of file; a line opens only in that kind.
        """
        if self._keyring is None:
            return [{"row_id": line.row_id, **line.fields} for line in lines]
        lines, found = list(lines), []
        with self.transaction() as connection:
            known = self.owners([line.row_id for line in lines], connection)
            nobody = owner_of(None, None, now())
            for line in lines:
                owners = [known.get(line.row_id, nobody)]
                owners += [line.user] if line.user else []
                name = f"{file}:{line.row_id}"
                data = self._packed(line.fields, name, owners, connection)
                sealed = base64.b64encode(data).decode()
                found.append({"row_id": line.row_id, _SEALED: sealed})
        return found

    def opened_lines(
        self, lines: Iterable[dict[str, Any]], file: str
    ) -> list[dict[str, Any] | None]:
        """The inverse; None for a line whose key is gone.

        Raises:
            LedgerError: a line is damaged, or privacy.seal is off.
        """
        lines = list(lines)
        data = [base64.b64decode(line[_SEALED]) if _SEALED in line else b"" for line in lines]
        found: list[dict[str, Any] | None] = []
        with self.reading() as connection:
            keys = self._keys((one for one in data if key_of(one)), connection)
            for line, one in zip(lines, data, strict=True):
                if _SEALED not in line:
                    found.append(line)
                    continue
                text = self._text(one, f"{file}:{line['row_id']}", keys, connection)
                if text is None:
                    raise LedgerError(f"the line of row {line['row_id']} is damaged or sealed")
                opened = None if text.gone else {"row_id": line["row_id"], **text.fields}
                found.append(opened)
        return found
