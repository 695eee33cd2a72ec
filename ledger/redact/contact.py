"""E-mail addresses, also as `name [at] host [dot] com`, and passwords in URLs beside them.

Each is found from its `@`. Time is linear: what stands before it is cut off by `rstrip` within
a fixed window, and the host's pattern is bounded.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ledger.redact.fold import LETTER, MARK


class Found(NamedTuple):
    """A stretch of text to hide: characters `start` to `end`."""

    start: int
    end: int
    kind: str


_LONGEST_LOCAL = 64  # RFC 5321
_ALNUM = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOCAL = _ALNUM + b"._+%'-" + bytes((LETTER, MARK))
_LABEL = rb"[0-9A-Za-z_\xc0\xc1-]{1,63}"
_HOST = re.compile(
    rb"(?:" + _LABEL + rb"\.){1,8}[A-Za-z\xc0][0-9A-Za-z_\xc0\xc1-]{1,62}"
    rb"|\[?(?:\d{1,3}\.){3}\d{1,3}\]?"
)
_AT_WORD = re.compile(
    rb" ?[\[({<] ?at ?[\])}>] ?|(?<=[0-9a-z]) at (?=[0-9a-z-]{1,63} (?:dot|punkt) )"
)
_DOT_WORD = rb" ?[\[({<] ?(?:dot|punkt) ?[\])}>] ?| (?:dot|punkt) |\."
_SPELT_HOST = re.compile(
    rb"[0-9a-z_\xc0\xc1-]{1,63}(?:(?:" + _DOT_WORD + rb")[0-9a-z_\xc0\xc1-]{1,63}){1,5}"
)
# Scripts that are written without spaces: a word of these touches an address without being of it.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_SCHEME = b"://"


def emails(text: str, folded: bytes) -> list[Found]:
    """Addresses, and the user and password of URLs, in order."""
    found: list[Found] = []
    done = 0
    at = folded.find(b"@")
    while at >= 0:
        login = _login(folded, done, at)
        if login is not None:
            found.append(login)
            done = at + 1
        else:
            span = _around(text, folded, done, at, at + 1)
            if span is not None:
                found.append(span)
                done = span.end
        at = folded.find(b"@", max(at + 1, done))
    return found


def disguised_emails(text: str, folded: bytes, lower: bytes) -> list[Found]:
    """Addresses with their signs as words or percent codes."""
    found: list[Found] = []
    done = 0
    at = folded.find(b"%40") if b"%" in folded else -1
    while at >= 0:
        span = _around(text, folded, done, at, at + 3)
        if span is not None:
            found.append(span)
            done = span.end
        at = folded.find(b"%40", max(at + 3, done))
    if not _may_be_spelt(lower):
        return found
    done = 0
    for sign in _AT_WORD.finditer(lower):
        start = _local_start(lower, done, sign.start())
        host = _SPELT_HOST.match(lower, sign.end())
        if start < sign.start() and host is not None:
            found.append(Found(start, host.end(), "EMAIL"))
            done = host.end()
    return found


def _may_be_spelt(lower: bytes) -> bool:
    if b" dot " in lower or b" punkt " in lower:
        return True
    # One sign is found at once, so it is looked for first.
    return any(
        sign in lower and (b"at" + sign in lower or b"at " + sign in lower)
        for sign in (b"]", b")", b"}", b">")
    )


def _login(folded: bytes, done: int, at: int) -> Found | None:
    """`user:password` of `scheme://user:password@host`."""
    window = folded[max(done, at - 200) : at]
    scheme = window.rfind(_SCHEME)
    if scheme < 0:
        return None
    login = window[scheme + 3 :]
    if b":" not in login or any(sign in login for sign in b" \n\t\"'<>?[]/"):
        return None
    return Found(at - len(login), at, "SECRET")


def _local_start(folded: bytes, done: int, at: int) -> int:
    window = folded[max(done, at - _LONGEST_LOCAL) : at]
    kept = window[len(window.rstrip(_LOCAL)) :]
    start = at - len(kept)
    return start + len(kept) - len(kept.lstrip(b"'-.%"))


def _around(text: str, folded: bytes, done: int, at: int, after: int) -> Found | None:
    """The address whose at sign is `at` to `after`."""
    host = _HOST.match(folded, after)
    if host is None:
        return None
    if folded[at - 1 : at] == b'"':  # "john doe"@example.com
        start = folded.rfind(b'"', max(done, at - _LONGEST_LOCAL), at - 1)
        start = start if start >= 0 and b"\n" not in folded[start:at] else at
    else:
        start = _local_start(folded, done, at)
    if start == at:
        return None
    end = host.end()
    local, name = text[start:at], text[after:end]
    if not local.isascii() and local[-1].isascii():
        others = [match.end() for match in _UNSPACED.finditer(local)]
        start += others[-1] if others else 0
    if not name.isascii() and name[0].isascii() and (other := _UNSPACED.search(name)):
        end = after + other.start()
        if _HOST.fullmatch(folded, after, end) is None:
            end = host.end()
    return Found(start, end, "EMAIL")
