"""Every finder over one text, the surest first; what one takes the later ones do not see."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.redact.address import street_addresses
from ledger.redact.contact import Found, disguised_emails, emails
from ledger.redact.fold import CLASSES, TAKEN, blank
from ledger.redact.ids import national_ids
from ledger.redact.network import addresses
from ledger.redact.numbers import ibans, rows
from ledger.redact.secrets import secrets


def scan(text: str, folded: bytes, *, high: bool) -> list[Found]:
    """Personal data and secrets in a text, in order, none overlapping another.

    Args:
        text: what is searched.
        folded: the same, of `ledger.redact.fold`.
        high: whether shapes without a check digit or a marker count too.
    """
    found: list[Found] = []

    def take(spans: Iterable[Found]) -> bytes:
        kept = apart(spans, folded)
        found.extend(kept)
        return blank(folded, [(span.start, span.end) for span in kept]) if kept else folded

    lower = folded.lower()
    if b"@" in folded:
        folded = take(emails(text, folded))
    folded = take(disguised_emails(text, folded, lower))
    shape = folded.translate(CLASSES)
    numbers = b"0" in shape
    if numbers:
        folded = take(ibans(folded, shape))
    folded = take(secrets(folded, lower, high))
    folded = take(addresses(folded, high))
    if numbers:
        shape = folded.translate(CLASSES) if found else shape
        folded = take(national_ids(folded, shape, high))
        shape = folded.translate(CLASSES) if found else shape
        folded = take(rows(text, folded, shape, high))
        if high:
            shape = folded.translate(CLASSES) if found else shape
            left = _without(text, found) if found else text
            take(street_addresses(left, shape, lower))
    found.sort()
    return found


def _without(text: str, found: list[Found]) -> str:
    """A text with what was found overwritten, as `blank` does with folded text."""
    parts: list[str] = []
    done = 0
    for start, end, _ in sorted(found):
        parts += (text[done:start], "]" * (end - start))
        done = end
    return "".join(parts) + text[done:]


def apart(spans: Iterable[Found], folded: bytes) -> list[Found]:
    """Spans in order without those that overlap an earlier one or what is taken already."""
    kept: list[Found] = []
    done = 0
    for span in sorted(spans):
        start, end, kind = span
        taken = folded.find(TAKEN, max(start, done), end)
        if start < done:
            continue
        if taken >= 0:
            # An address around a post code that went as a number: what is left of it.
            start, end = start, taken
        while end > start and folded[end - 1] in b" ,([":
            end -= 1
        if end > start:
            kept.append(Found(start, end, kind))
            done = end
    return kept
