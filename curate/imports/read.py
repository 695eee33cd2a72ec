"""Files as records, one after the other: JSON lines, a JSON array, a JSON object, CSV.

Memory follows the longest record, not the file. A record that is no JSON, is too long or is not
UTF-8 comes as `Unreadable`, and the next ones are read: except inside a JSON array, where
nothing can be read behind a broken place.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from curate.imports.items import Unreadable
from ledger.errors import UsageError

#: The longest record, bytes.
LONGEST = 16 << 20
# Lists of records that APIs wrap into an object.
_WRAPPERS = ("data", "items", "inferences", "traces")
_SPACE = b" \t\r\n"


class Record(NamedTuple):
    """One record: `where` it stands (`line 3`, `record 3`), and what it is."""

    where: str
    value: dict[str, Any] | Unreadable


def records(file: Path) -> Iterator[Record]:
    """The records of a file; CSV where its name ends in `.csv` or `.tsv`.

    Raises:
        UsageError: it cannot be opened, or it is CSV without any column.
    """
    try:
        handle = open(file, "rb")  # noqa: SIM115 (an error here is not one of reading)
    except OSError as error:
        raise UsageError(f"{file} cannot be opened: {error.strerror}") from None
    with handle:
        if file.suffix.lower() in (".csv", ".tsv"):
            yield from _table(handle, file)
            return
        first = _skip_blank(handle)
        if first == b"[":
            yield from _array(handle, "item")
        elif first == b"{" and (wrapper := _wrapped(handle)) is not None:
            yield from _array(handle, f"{wrapper}.item" if wrapper else "")
        else:
            yield from _lines(handle)


def _skip_blank(handle: BinaryIO) -> bytes:
    """Move to the first character that is not blank, past a byte order mark; returns it."""
    if handle.read(3) != b"\xef\xbb\xbf":
        handle.seek(0)
    start, line = handle.tell(), b" "
    while line and not line.strip(_SPACE):
        start, line = handle.tell(), handle.readline(LONGEST)
    handle.seek(start + len(line) - len(line.lstrip(_SPACE)))
    first = handle.read(1)
    handle.seek(start)
    return first


# -- JSON ------------------------------------------------------------------------------------


def _wrapped(handle: BinaryIO) -> str | None:
    """The key of the list of records where the file is one object around it; "" is the object."""
    start = handle.tell()
    line, second = handle.readline(LONGEST), handle.readline(LONGEST)
    handle.seek(start)
    value = _parsed(line)
    if isinstance(value, dict):  # a line for itself: JSON lines, or one object without breaks
        return next((key for key in _WRAPPERS if _is_list(value, key)), None)
    if line.rstrip(_SPACE).endswith(b"}") or isinstance(_parsed(second), dict):
        return None  # the first of many lines is broken
    import ijson

    try:
        for prefix, event, key in ijson.parse(handle):
            if prefix == "" and event == "map_key" and key in ("id", "input", "messages"):
                break
            if prefix in _WRAPPERS and event == "start_array":
                return str(prefix)
    except ijson.JSONError:
        pass
    finally:
        handle.seek(start)
    return "" if line.endswith(b"\n") else None  # an object with breaks, or an endless line


def _is_list(value: dict[str, Any], key: str) -> bool:
    return isinstance(value.get(key), list) and not {"id", "input", "messages"} & value.keys()


def _array(handle: BinaryIO, prefix: str) -> Iterator[Record]:
    import ijson  # imported with the first JSON array: few files are one

    number, found = 0, ijson.items(handle, prefix, use_float=True)
    while True:
        number += 1
        try:
            value = next(found)
        except StopIteration:
            return
        except (ijson.JSONError, UnicodeDecodeError, RecursionError):
            broken = "the JSON breaks off or is broken here; nothing behind it can be read"
            yield Record(f"record {number}", Unreadable(broken))
            return
        yield Record(f"record {number}", _object(value))


def _lines(handle: BinaryIO) -> Iterator[Record]:
    number = 0
    while line := handle.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = handle.readline(LONGEST)
            too_long = Unreadable(f"longer than {LONGEST >> 20} MiB")
            yield Record(f"line {number}", too_long)
        elif line.strip(_SPACE):
            yield Record(f"line {number}", _parsed(line))


def _parsed(line: bytes) -> dict[str, Any] | Unreadable:
    try:
        return _object(json.loads(line.decode("utf-8"), parse_constant=_refuse))
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8 from its byte {error.start + 1} on; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Unreadable(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError):
        return Unreadable("not JSON: NaN, infinity, or nested too deeply")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _object(value: Any) -> dict[str, Any] | Unreadable:
    return value if isinstance(value, dict) else Unreadable("not a JSON object")


# -- CSV -------------------------------------------------------------------------------------


class _Rows:
    """Decoded lines for `csv.reader`, which can be gone back over after a broken one."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._again: list[str] = []
        self.taken: list[str] = []  # since the record began
        self.line = 0
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.pop()
        else:
            line = self._handle.readline(LONGEST).decode("utf-8", "surrogateescape")
        if not line:
            raise StopIteration
        self.line += 1
        self.taken.append(line)
        self._size += len(line)
        if self._size > LONGEST:
            raise csv.Error("a quote is not closed")
        return line

    def begin(self) -> None:
        """The next line begins a record."""
        self.taken, self._size = [], 0

    def go_back(self) -> None:
        """Read again what came behind the first line of the record."""
        self._again.extend(reversed(self.taken[1:]))
        self.line -= len(self.taken) - 1
        self.begin()


def _table(handle: BinaryIO, file: Path) -> Iterator[Record]:
    mark = handle.read(3)
    if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{file} is UTF-16", remedy="Save it as CSV in UTF-8.")
    handle.seek(3 if mark == b"\xef\xbb\xbf" else 0)
    rows = _Rows(handle)
    start = handle.tell()
    head = handle.readline(LONGEST).decode("utf-8", "surrogateescape")
    handle.seek(start)
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(rows, delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UsageError(f"{file}: its first line is no CSV: {error}") from None
    if not any(names):
        raise UsageError(f"{file} is empty", rule="The first line names the columns.")
    while True:
        rows.begin()
        first = rows.line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rows.go_back()
            yield Record(f"line {first}", Unreadable(f"wrong quoting: {error}"))
            continue
        if any(cell.strip() for cell in cells):
            yield Record(f"line {first}", _named(names, cells))


def _named(names: list[str], cells: list[str]) -> dict[str, Any] | Unreadable:
    if len(cells) != len(names):
        return Unreadable(f"{len(cells)} cells, but {len(names)} columns")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Unreadable("not UTF-8; save the file as UTF-8")
    return dict(zip(names, cells, strict=True))
