"""Replacing personal data and secrets by placeholders before text reaches the disk.

    redactor = Redactor("high", mac=keyed_hash)       one a process
    row = redactor.conversation()                     one a row
    messages = row.redact(messages)                   "call me: [PHONE_1]"
    answer = row.redact(answer)                       the same number, the same placeholder
    row.known                                         kept with the row, for later corrections

Two levels. `balanced` hides what has a check digit or a clear marker: e-mail addresses, cards,
IBANs, social security and other national numbers, telephones that are clearly such, MACs, keys
and passwords; order numbers, ISBNs, versions, dates, prices, UUIDs and hashes stay. `high` also
hides every row of 7 to 15 digits, IP addresses, street addresses and long random tokens: losing
an order number costs little, keeping a telephone number costs trust.

Names of people have no shape: without a detector (`ledger.redact.names`) they stay, at both
levels. So do birthdays, and what only its meaning gives away ("the mayor of my village").

A detector that fails, or a conversation that takes longer than it may, raises `RedactionFailed`;
the caller then keeps no text at all. The limit is looked at between finders: each of them takes
time linear in the text, and a name detector is not interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ledger.errors import RedactionFailed
from ledger.redact.contact import Found
from ledger.redact.fold import fold
from ledger.redact.names import Detector, detector_of
from ledger.redact.numbers import iban_valid, luhn_valid
from ledger.redact.placeholders import PLACEHOLDER, Placeholders, random_mac
from ledger.redact.scan import scan
from ledger.redact.secrets import is_secret_key

if TYPE_CHECKING:
    from ledger.settings import Privacy

__all__ = [
    "Conversation",
    "Detector",
    "Level",
    "RedactionFailed",
    "Redactor",
    "iban_valid",
    "luhn_valid",
    "redact",
    "redact_text",
]

Level = Literal["balanced", "high"]
_SHORTEST = 6  # characters; nothing shorter is personal data: a@b.cd
_BETWEEN = "\x00"  # no pattern crosses it


class Redactor:
    """What is looked for. Thread-safe; one a process.

    Args:
        level: `balanced` or `high`; see the module.
        names: finds names of people; None leaves them.
        limit_ms: longest time for one conversation, milliseconds; None: no limit.
        mac: keyed hash of a value, for `Conversation.known`; None: of a random key, so that
            what is known means nothing to another process.
    """

    def __init__(
        self,
        level: Level = "high",
        *,
        names: Detector | None = None,
        limit_ms: float | None = None,
        mac: Callable[[bytes], str] | None = None,
    ) -> None:
        self.level = level
        self._names = names
        self._limit_ms = limit_ms
        self._mac = mac or random_mac()
        self._one_at_a_time = threading.Lock()  # spaCy's pipelines are not made for threads

    @classmethod
    def of(cls, privacy: Privacy, mac: Callable[[bytes], str] | None = None) -> Redactor | None:
        """As the settings say; None where redaction is `none`.

        Raises:
            ConfigError: the detector of names is not installed.
        """
        if privacy.redaction == "none":
            return None
        names = detector_of(privacy.names, privacy.names_model)
        return cls(privacy.redaction, names=names, limit_ms=privacy.redact_ms, mac=mac)

    def conversation(self, known: Mapping[str, str] | None = None) -> Conversation:
        """One row: its prompts, answer, tools and metadata, later its corrections and reasons.

        Args:
            known: `Conversation.known` of the row so far.
        """
        return Conversation(self, dict(known or {}))

    def _found(self, texts: list[str], joined: str, check: Callable[[], None]) -> list[Found]:
        folded = fold(joined)
        found = scan(joined, folded, high=self.level == "high")
        check()
        if self._names is None:
            return found
        with self._one_at_a_time:
            spans = self._names(texts)
        if len(spans) != len(texts):
            raise ValueError("the detector of names answered for another number of texts")
        return _with_names(texts, joined, found, spans)


class Conversation:
    """The placeholders of one row; made by `Redactor.conversation`, for one thread."""

    def __init__(self, redactor: Redactor, known: dict[str, str]) -> None:
        self._redactor = redactor
        self._placeholders = Placeholders(known, redactor._mac)
        self._spent = 0.0

    @property
    def known(self) -> dict[str, str]:
        """Keyed hash of a value → its placeholder. Keep it with the row, sealed."""
        return self._placeholders.known

    def redact(self, value: Any) -> Any:
        """Replace personal data in every string, key and whole number of a JSON value.

        A number whose digits are hidden becomes its placeholder, a string. Numbering goes on
        from what this conversation has seen and past placeholders that stand in the value.

        Raises:
            RedactionFailed: a detector failed, the conversation overran its time, or the value
                is not JSON. Keep none of the text then.
        """
        started = time.perf_counter()
        limit = self._redactor._limit_ms

        def check() -> None:
            spent = (self._spent + time.perf_counter() - started) * 1000
            if limit is not None and spent > limit:
                raise RedactionFailed(
                    f"redacting a row took {spent:.0f} ms",
                    rule=f"privacy.redact_ms allows {limit:g} ms; no text of the row is kept",
                )

        try:
            found = self._redact(value, check)
            check()
            return found
        except RedactionFailed:
            raise
        except Exception as error:
            # Whatever fails, the text must not be kept; nor may a message quote it.
            raise RedactionFailed(
                f"redaction failed ({type(error).__name__}); no text of the row is kept"
            ) from None
        finally:
            self._spent += time.perf_counter() - started

    def _redact(self, value: Any, check: Callable[[], None]) -> Any:
        strings: dict[str, None] = {}
        hidden: dict[str, None] = {}
        _gather(value, strings, hidden)
        texts = [text for text in strings if text not in hidden]
        joined = _BETWEEN.join(texts)
        if "[" in joined:
            self._placeholders.keep(joined)
        changed = {text: self._placeholders.of("SECRET", text, b"") for text in hidden}
        found = self._redactor._found(texts, joined, check)
        if found:
            self._replace(texts, joined, found, changed)
        return _rebuilt(value, changed) if changed else value

    def _replace(
        self, texts: list[str], joined: str, found: list[Found], changed: dict[str, str]
    ) -> None:
        """Put texts with their data replaced into `changed`."""
        folded = fold(joined)
        place = number = 0
        for text in texts:
            end = place + len(text)
            parts: list[str] = []
            done = place
            while number < len(found) and found[number].start < end:
                start, last, kind = found[number]
                parts += (
                    joined[done:start],
                    self._placeholders.of(kind, joined[start:last], folded[start:last]),
                )
                done, number = last, number + 1
            if parts:
                changed[text] = "".join(parts) + joined[done:end]
            place = end + len(_BETWEEN)


def _gather(value: Any, strings: dict[str, None], hidden: dict[str, None]) -> None:
    """Collect what may hold personal data, in order; `hidden` is what a key calls a secret."""
    if isinstance(value, str):
        # A word alone is no shape, but may be a name.
        if len(value) >= _SHORTEST or value.istitle():
            strings[value] = None
    elif isinstance(value, dict):
        for key, item in value.items():
            if (
                isinstance(item, str)
                and is_secret_key(key, item)
                and not PLACEHOLDER.fullmatch(item)
            ):
                hidden[item] = None
            else:
                _gather(item, strings, hidden)
            _gather(key, strings, hidden)
    elif isinstance(value, list | tuple):
        for item in value:
            _gather(item, strings, hidden)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        if (text := _digits(value)) is not None:
            strings[text] = None
    else:
        raise RedactionFailed(
            f"cannot redact a {type(value).__name__}", rule="only JSON values are kept"
        )


def _digits(number: float) -> str | None:
    """A whole number as text, where it is long enough to be somebody's; else None."""
    if isinstance(number, float) and not number.is_integer():
        return None  # a measure, a score, a time
    text = str(int(number)) if -1e40 < number < 1e40 else ""
    return text if len(text) > _SHORTEST else None


def _rebuilt(value: Any, changed: dict[str, str]) -> Any:
    if isinstance(value, str):
        return changed.get(value, value)
    if isinstance(value, dict):
        return {_rebuilt(key, changed): _rebuilt(item, changed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rebuilt(item, changed) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    text = _digits(value)
    return value if text is None else changed.get(text, value)


def _with_names(
    texts: list[str], joined: str, found: list[Found], spans: list[list[tuple[int, int]]]
) -> list[Found]:
    """What was found by shape, and the names that do not overlap it."""
    names = []
    place = 0
    for text, inside in zip(texts, spans, strict=True):
        for start, end in inside:
            if not 0 <= start < end <= len(text):
                raise ValueError("the detector of names answered a span outside of its text")
            names.append(Found(place + start, place + end, "NAME"))
        place += len(text) + len(_BETWEEN)
    standing = [Found(*match.span(), "") for match in PLACEHOLDER.finditer(joined)]
    taken = sorted([*found, *standing])
    kept: list[Found] = []
    number = done = 0
    for name in sorted(names):
        while number < len(taken) and taken[number].end <= name.start:
            number += 1
        free = number == len(taken) or taken[number].start >= name.end
        if free and name.start >= done:
            kept.append(name)
            done = name.end
    return sorted([*found, *kept])


_HIGH = Redactor("high")


def redact_text(text: str, level: Level = "high") -> str:
    """Replace personal data in one string, as a conversation of its own.

    Raises:
        RedactionFailed: see `Conversation.redact`.
    """
    redactor = _HIGH if level == "high" else Redactor(level)
    found: str = redactor.conversation().redact(text)
    return found


def redact(value: Any) -> Any:
    """Replace personal data in a JSON value at `high`, as a conversation of its own.

    Raises:
        RedactionFailed: see `Conversation.redact`.
    """
    return _HIGH.conversation().redact(value)
