"""How the text fields of a record become the bytes of one column, and back.

One leading byte names the form, so that all of them can stand in one ledger:

    j  JSON
    z  JSON, compressed with zstd
    s  sealed: 8 bytes of key id, 12 of nonce, AES-256-GCM of one of these forms

What is sealed is bound to its record's name (associated data): a blob that is moved to another
row does not open there. A text that two people typed in is sealed twice, inside with the one's
key and outside with the other's: who of them is forgotten takes it along.
"""

from __future__ import annotations

import json
import secrets
import threading
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.errors import LedgerError

KEY_ID_BYTES = 8
_JSON, _ZSTD, _SEALED = b"j", b"z", b"s"
_NONCE = 12
_LEVEL = 3
_WORTH_COMPRESSING = 128  # bytes; below it zstd's frame costs more than it saves
_MOST = 1 << 30  # bytes of one text, unpacked
_local = threading.local()


def pack(fields: dict[str, Any]) -> bytes:
    """Serialise text fields, leaving out those that are None, and compress them."""
    kept = {key: value for key, value in fields.items() if value is not None}
    data = json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", errors="surrogatepass"
    )
    if len(data) < _WORTH_COMPRESSING:
        return _JSON + data
    if not hasattr(_local, "compressor"):  # one a thread: it is not safe to share
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    packed: bytes = _local.compressor.compress(data)
    return _ZSTD + packed


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of `pack`.

    Raises:
        LedgerError: the bytes are damaged, sealed, or of a form this program does not know.
    """
    try:
        if data[:1] == _ZSTD:
            text = zstandard.ZstdDecompressor().decompress(data[1:], max_output_size=_MOST)
        elif data[:1] == _JSON:
            text = data[1:]
        else:
            raise ValueError(f"unknown form {data[:1]!r}")
        fields = json.loads(text.decode("utf-8", errors="surrogatepass"))
        if not isinstance(fields, dict):
            raise ValueError("not an object")
    except (ValueError, zstandard.ZstdError) as error:
        raise LedgerError(f"the text of a row cannot be read: {error}") from error
    return fields


def seal(data: bytes, key_id: bytes, key: AESGCM, name: str) -> bytes:
    """Encrypt packed text.

    Args:
        name: of the record, authenticated with it.
    """
    nonce = secrets.token_bytes(_NONCE)
    return _SEALED + key_id + nonce + key.encrypt(nonce, data, name.encode())


def key_of(data: bytes) -> bytes | None:
    """Id of the key that the text is sealed with; None where it is not sealed."""
    return data[1 : 1 + KEY_ID_BYTES] if data[:1] == _SEALED else None


def unseal(data: bytes, key: AESGCM, name: str) -> bytes:
    """The inverse of `seal`; what it returns may be sealed again.

    Raises:
        LedgerError: the text was changed, or belongs to another record.
    """
    start = 1 + KEY_ID_BYTES + _NONCE
    try:
        return key.decrypt(data[1 + KEY_ID_BYTES : start], data[start:], name.encode())
    except (InvalidTag, ValueError):
        raise LedgerError(f"the sealed text of {name} is damaged") from None
