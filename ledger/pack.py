"""How the text fields of a record become the bytes of one column, and back.

One leading byte names the form, so that a later form (compressed, sealed) can stand beside
this one in the same ledger.
"""

from __future__ import annotations

import json
from typing import Any

from ledger.errors import LedgerError

_JSON = b"j"


def pack(fields: dict[str, Any]) -> bytes:
    """Serialise text fields, leaving out those that are None."""
    kept = {key: value for key, value in fields.items() if value is not None}
    return _JSON + json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", errors="surrogatepass"
    )


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of `pack`.

    Raises:
        LedgerError: the bytes are damaged or of a form this program does not know.
    """
    try:
        if data[:1] != _JSON:
            raise ValueError(f"unknown form {data[:1]!r}")
        fields = json.loads(data[1:].decode("utf-8", errors="surrogatepass"))
        if not isinstance(fields, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise LedgerError(f"the text of a row cannot be read: {error}") from error
    return fields
