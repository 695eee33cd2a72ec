"""Whether an answer satisfies the checks of its gold question.

A question scores 1.0 where every check passes, else 0.0. What the checks are is
`ledger.checks`. The gate scores with them, and corrections have to pass those of their alias.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from ledger.checks import (
    AnyOf,
    Check,
    Contains,
    Exact,
    JsonEqual,
    JsonSchema,
    NoneOf,
    Normalised,
    Regex,
    normalise,
)
from ledger.gold import GoldQuestion

#: Longest time that one search of a pattern may take, seconds. Patterns that backtrack for
#: ever on some answer then fail on that answer instead of holding up the gate.
PATTERN_SECONDS = 1.0

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


class CheckResult(NamedTuple):
    """Whether one check passed; `reason` is "" where it did."""

    passed: bool
    reason: str


class Score(NamedTuple):
    """1.0 or 0.0, and the result of each check in order."""

    value: float
    checks: list[CheckResult]


def score(question: GoldQuestion, text: str) -> Score:
    """Score one answer."""
    results = [run_check(check, text) for check in question.checks]
    return Score(float(all(result.passed for result in results)), results)


def run_check(check: Check, text: str) -> CheckResult:
    """Apply one check to one answer."""
    reason = _why_not(check, text)
    return CheckResult(not reason, reason)


def _why_not(check: Check, text: str) -> str:
    """Why the answer fails, "" where it does not."""
    match check:
        case Exact():
            same = check.value in (text, text.removesuffix("\n"), text.removesuffix("\r\n"))
            return "" if same else f"is not exactly {check.value!r}"
        case Normalised():
            wanted = normalise(check.value)
            return "" if normalise(text) == wanted else f"is not {wanted!r}"
        case Contains():
            value, found = check.value, text
            if check.ignore_case:
                value, found = value.casefold(), text.casefold()
            return "" if value in found else f"does not contain {check.value!r}"
        case Regex():
            try:
                return "" if _search(check.value, text) else f"does not match {check.value!r}"
            except TimeoutError:
                return f"matching {check.value!r} took over {PATTERN_SECONDS:g} s"
        case JsonEqual():
            return _of_json(text, check.fenced, lambda value: _differs(check.value, value))
        case JsonSchema():
            return _of_json(text, check.fenced, lambda value: _violates(check.value, value))
        case AnyOf():
            reasons = [_why_not(one, text) for one in check.value]
            return "" if not all(reasons) else ", ".join(dict.fromkeys(reasons))
        case NoneOf():
            passed = [one for one in check.value if not _why_not(one, text)]
            return f"must not pass: {passed[0].type} {passed[0].value!r:.100}" if passed else ""


def _of_json(text: str, fenced: bool, why_not: Any) -> str:
    stripped = text.strip()
    if fenced and (match := _FENCE.fullmatch(stripped)):
        stripped = match.group(1)
    try:
        return str(why_not(json.loads(stripped, parse_constant=_refuse)))
    except RecursionError:
        return "is nested too deeply"
    except ValueError as error:
        return f"is not JSON: {error}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _differs(wanted: Any, found: Any) -> str:
    return "" if json_equal(wanted, found) else f"is not {json.dumps(wanted, ensure_ascii=False)}"


def json_equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: numbers by value, true and 1 apart, keys in any order."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(json_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(json_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _violates(schema: dict[str, Any], found: Any) -> str:
    try:
        error = next(_Validator(schema, registry=Registry()).iter_errors(found), None)
    except TimeoutError:
        return f"a pattern of the schema took over {PATTERN_SECONDS:g} s"
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path)
    return f"does not fit the schema{f' at {where}' if where else ''}: {error.message:.200}"


def _pattern(
    validator: Any, pattern: str, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    """The keyword `pattern`, with the time limit that jsonschema's own does not have."""
    if validator.is_type(instance, "string") and not _search(pattern, instance):
        yield ValidationError(f"{instance!r:.80} does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})


def _search(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None
