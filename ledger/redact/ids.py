"""National numbers of a fixed shape: a personal number, a tax number, an insurance number.

Those with a check digit are checked by python-stdnum. Others (passports, licences) are only
letters before digits, and go at `high`. Numbers without letters or signs are rows of digits, which
`ledger.redact.numbers` judges.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator

from ledger.redact.contact import Found

# Shape (0 digit, a letter) → the module of python-stdnum that checks it.
_IDS: dict[bytes, str] = {
    b"aaaaaa00a00a000a": "it.codicefiscale",
    b"aaaa000000aaaaaa00": "mx.curp",
    b"aaaa000000aaaaaaa0": "mx.curp",
    b"00000000a": "es.dni",
    b"00000000-a": "es.dni",
    b"a0000000a": "es.nie",
    b"a-0000000-a": "es.nie",
    b"000000-000a": "fi.hetu",
    b"000000-0000": "se.personnummer",
    b"00000000-0000": "se.personnummer",
    b"000.000.000-00": "br.cpf",
    b"0000 0000 0000": "in_.aadhaar",
    b"0000-0000-0000": "in_.aadhaar",
    b"0 00 00 00 000 000 00": "fr.nir",
    b"0 00 00 00 000 000 | 00": "fr.nir",
}
_NINO = re.compile(rb"(?![DFIQUV])[A-Z](?![DFIQUVO])[A-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?![A-Za-z0-9])")
_NINO_SHAPES = (b"aa000000a", b"aa 00 00 00 a", b"aa 000000 a")
_UPPER_ID = re.compile(rb"[A-Z]{2}[ 0-9]+[A-Z]")
_LETTERED = re.compile(rb"[A-Z]{1,3}\d{6,13}[A-Z]?(?![A-Za-z0-9_])")


@functools.cache
def _checker(module: str) -> Callable[[str], bool]:
    found: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return found


def national_ids(folded: bytes, shape: bytes, high: bool) -> list[Found]:
    """Ids of a fixed shape that have a check digit; at `high` also letters before 6-13 digits."""
    found: list[Found] = []
    for pattern, module in _IDS.items():
        for start, end in _alone(shape, pattern):
            if _checker(module)(folded[start:end].decode("ascii")):
                found.append(Found(start, end, "ID"))
    for pattern in _NINO_SHAPES:
        found += [
            Found(start, end, "ID")
            for start, end in _alone(shape, pattern)
            if (_UPPER_ID if high else _NINO).fullmatch(folded, start, end)
        ]
    if high:
        start = shape.find(b"a000000")
        while start >= 0:
            first = start
            while first and shape[first - 1] == 0x61 and start - first < 3:
                first -= 1
            match = _LETTERED.match(folded, first)
            if match is not None and (not first or shape[first - 1] not in b"a0_"):
                found.append(Found(first, match.end(), "ID"))
            start = shape.find(b"a000000", start + 7)
    return found


def _alone(shape: bytes, pattern: bytes) -> Iterator[tuple[int, int]]:
    """Where a shape stands with nothing of its own kind beside it."""
    start = shape.find(pattern)
    while start >= 0:
        end = start + len(pattern)
        before, after = shape[start - 1 : start], shape[end : end + 2]
        goes_on = after[:1] in (b"a", b"0", b"_") or after in (b"-a", b"-0", b".a", b".0")
        if pattern == b"0000 0000 0000":  # may be the beginning or the end of a card
            goes_on |= after == b" 0" or shape[max(0, start - 2) : start] == b"0 "
        if not goes_on and before not in (b"a", b"0", b"_", b"-", b"."):
            yield start, end
        start = shape.find(pattern, end)
