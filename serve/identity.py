"""Who asks: the user, the session, and the key that keeps both on one side of a canary.

Raw identities stay in memory; the writer hashes them before anything reaches the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def user_of(body: Mapping[str, Any]) -> str | None:
    """OpenAI's `user` or `safety_identifier`, Anthropic's `metadata.user_id`."""
    metadata = body.get("metadata")
    named = metadata.get("user_id") if isinstance(metadata, dict) else None
    return _text(body.get("user")) or _text(body.get("safety_identifier")) or _text(named)


def session_of(body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """The field `session_id` or the header `X-Session-ID`."""
    return _text(body.get("session_id")) or _text(headers.get("x-session-id"))


def routing_key(
    session: str | None, user: str | None, request: Any, headers: Mapping[str, str]
) -> str | None:
    """The session, else the user, else the request's id where there is one already."""
    known = session or user or _text(headers.get("x-request-id"))
    return known or _text(getattr(request, "request_id", None))


def _text(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None
