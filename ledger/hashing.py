"""Identity of content: a tagged hash of canonical JSON, and of files.

The tag says what was hashed and how, so that a hash can be recognised and derived again
years later (`fw1:dataset:…`). Two values that are equal as JSON hash alike whatever the
order of their keys.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

SCHEME = "fw1"


def canonical_json(value: Any) -> bytes:
    """Serialise to the one canonical form: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: the value holds NaN or an infinity.
        TypeError: the value is not JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", errors="surrogatepass")


def content_hash(kind: str, value: Any) -> str:
    """`fw1:<kind>:<64 hex digits>`, SHA-256 over the kind and the canonical JSON."""
    digest = hashlib.sha256(kind.encode() + b"\0" + canonical_json(value)).hexdigest()
    return f"{SCHEME}:{kind}:{digest}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits, read in 1 MiB steps."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
