"""Which placeholder stands for which value of a conversation.

`[PHONE_1]` is the first telephone number of a conversation wherever it appears and however it is
written, so that a model trained on the text still sees who is who. Values are remembered as a
keyed hash: what a row keeps of this can be compared with a value, not turned back into one.

It does not see that `030 1234567` and `+49 30 1234567` are one number: that needs to know the
country.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from hashlib import blake2b

PLACEHOLDER = re.compile(r"\[([A-Z]{2,16})_(\d{1,6})\]")
_IN_SIGNS = re.compile(r"[\W_]+")
_SIGNS = bytes(place for place in range(256) if place > 127 or not chr(place).isalnum())
_TRUNK_ZERO = re.compile(rb"\( ?0 ?\)")
_NUMBERS = frozenset({"PHONE", "CARD", "SSN", "NUMBER", "ID", "IBAN"})
_FOLDED = frozenset({"EMAIL", "IP", "MAC", "NAME"})  # upper case means nothing in these


def normal(kind: str, text: str, folded: bytes) -> str:
    """What two ways to write one value have in common.

    Args:
        kind: of the value, as in its placeholder.
        text: as it was written.
        folded: the same as `ledger.redact.fold` made it.
    """
    if kind in _NUMBERS:
        if kind == "PHONE" and b"(" in folded:
            folded = _TRUNK_ZERO.sub(b"", folded)
        bare = folded.translate(None, _SIGNS).upper().decode("ascii")
        return "#" + (bare[2:] if kind == "PHONE" and bare.startswith("00") else bare)
    if kind == "ADDRESS":
        return "a" + _IN_SIGNS.sub(" ", text.casefold()).strip()
    if kind == "NAME":
        return "n" + " ".join(text.casefold().split())
    return kind + (text.casefold() if kind in _FOLDED else text)


def random_mac() -> Callable[[bytes], str]:
    """A keyed hash whose key nobody keeps: placeholders hold within this process only."""
    key = secrets.token_bytes(32)
    return lambda value: blake2b(value, key=key, digest_size=16).hexdigest()


class Placeholders:
    """The numbering of one conversation.

    Args:
        known: keyed hash of a value → its placeholder; of an earlier part of the conversation.
        mac: the keyed hash.
    """

    def __init__(self, known: dict[str, str], mac: Callable[[bytes], str]) -> None:
        self.known = known
        self._mac = mac
        self._seen: dict[str, str] = {}
        self._last: dict[str, int] = {}
        for placeholder in known.values():
            self.keep(placeholder)

    def keep(self, text: str) -> None:
        """Number new values past the placeholders that already stand in a text."""
        for kind, number in PLACEHOLDER.findall(text):
            self._last[kind] = max(self._last.get(kind, 0), int(number))

    def of(self, kind: str, text: str, folded: bytes) -> str:
        """The placeholder of a value; the same for each way to write it."""
        value = normal(kind, text, folded)
        found = self._seen.get(value)
        if found is None:
            found = self._seen[value] = self._of_hash(kind, self._hash(value))
            if kind == "NAME":
                self._parts_of_name(value, found)
        return found

    def _hash(self, value: str) -> str:
        return self._mac(value.encode("utf-8", "surrogatepass"))

    def _of_hash(self, kind: str, hashed: str) -> str:
        found = self.known.get(hashed)
        if found is None:
            self._last[kind] = self._last.get(kind, 0) + 1
            found = self.known[hashed] = f"[{kind}_{self._last[kind]}]"
        return found

    def _parts_of_name(self, value: str, placeholder: str) -> None:
        """ "Ada" after "Ada Lovelace" is the same person; the first who bears a name has it."""
        parts = value[1:].split()
        for part in parts if len(parts) > 1 else ():
            if len(part) > 2:
                self.known.setdefault(self._hash("n" + part), placeholder)
