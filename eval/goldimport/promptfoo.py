"""promptfoo's tests: a configuration with prompts and tests, or a list of tests alone.

Covers prompts as text, as chat JSON and in files; variables, lists of them (each combination is a
test) and files of tests; `defaultTest`; assertions that compare texts and JSON. Assertions that
need a model, code or a network are refused by their name, and so is what reweighs them.

Source: promptfoo's documentation of its configuration, of test cases and of assertions.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import regex
import yaml

from eval.goldimport.made import Maker, Refused, one_of, rendered, starts
from eval.goldimport.reading import rows_of
from ledger.errors import GoldError
from ledger.strict_yaml import read_yaml

_DEFAULT_PROMPT = "{{prompt}}"
#: What names a test or an assertion in reports.
_LABELS = ("description", "metric", "id")
_FILE = "file://"
_PROMPT_SEPARATOR = "\n---\n"


def read(maker: Maker) -> None:
    """Read the maker's file into it.

    Raises:
        GoldError: it cannot be read as promptfoo's.
    """
    file = maker.file
    config = _loaded(file)
    if isinstance(config, list):
        config = {"tests": config}
    if not isinstance(config, dict):
        raise GoldError(f"{file} is neither a configuration of promptfoo nor a list of tests")
    if "scenarios" in config:
        maker.leave("scenarios", "scenarios are not read; write them out as tests")
    prompts = list(_prompts(maker, config.get("prompts")))
    default = config.get("defaultTest") or {}
    tests = list(_tests(maker, config.get("tests"), file.parent))
    if not tests and not maker.made.left_out:
        raise GoldError(
            f"{file} has no tests",
            rule="promptfoo's questions stand under `tests`.",
            remedy="Name the file that has them.",
        )
    numbers = itertools.count(1)
    for where, test in tests:
        try:
            asserts = _asserts(test, default)
            cases = list(_cases(test, default))
        except Refused as refused:
            maker.leave(where, str(refused))
            continue
        for number, (variables, prompt) in enumerate(itertools.product(cases, prompts), 1):
            several = len(cases) * len(prompts) > 1
            at = f"{where}, case {number}" if several else where
            try:
                messages = _messages(prompt, variables, test, default)
                checks = [check for one in asserts for check in _checks(one, variables, maker)]
            except Refused as refused:
                maker.leave(at, str(refused))
                continue
            maker.add(
                at,
                id=maker.id(next(numbers)),
                messages=messages,
                checks=checks,
                facts={**variables, **test},
            )
        for label in _LABELS:
            if label in test:
                maker.note(f"tests' {label}")


# -- what is asked ----------------------------------------------------------------------------


def _prompts(maker: Maker, given: Any) -> Iterator[Any]:
    """Each prompt: a text, or a chat as JSON."""
    if maker.options.prompt is not None:
        yield maker.options.prompt
        return
    if not given:
        yield _DEFAULT_PROMPT
        return
    for number, one in enumerate(given if isinstance(given, list) else [given], 1):
        raw = (one.get("raw") or one.get("id")) if isinstance(one, dict) else one
        if not isinstance(raw, str):
            maker.leave(f"prompt {number}", "a prompt that is neither text nor a file")
        elif raw.startswith(_FILE) or _is_file(maker.file.parent, raw):
            path = maker.file.parent / raw.removeprefix(_FILE)
            if path.suffix not in (".txt", ".json", ".md", ".yaml", ".yml"):
                maker.leave(f"prompt {number}", f"a prompt made by {path.suffix or 'a program'}")
                continue
            text = _text(path)
            yield from text.split(_PROMPT_SEPARATOR) if path.suffix == ".txt" else [text]
        else:
            yield raw


def _is_file(folder: Path, text: str) -> bool:
    return "\n" not in text and len(text) < 200 and "." in text and (folder / text).is_file()


def _messages(
    prompt: str, variables: Mapping[str, Any], test: Mapping[str, Any], default: Mapping[str, Any]
) -> list[dict[str, Any]]:
    options = {**(default.get("options") or {}), **(test.get("options") or {})}
    prompt = f"{options.get('prefix', '')}{prompt}{options.get('suffix', '')}"
    chat = _chat(prompt)
    if chat is not None:  # parsed before the variables come in, so that their quotes do no harm
        filled: list[dict[str, Any]] = _filled(chat, variables)
        return filled
    text = rendered(prompt, variables)
    return _chat(text) or [{"role": "user", "content": text}]


def _chat(text: str) -> list[dict[str, Any]] | None:
    """A prompt that is a chat, as JSON or YAML."""
    start = text.lstrip()[:1]
    try:
        if start == "[":
            found: Any = json.loads(text)
        elif start == "-":
            found = yaml.safe_load(text)
        else:
            return None
    except (ValueError, yaml.YAMLError):
        return None
    if isinstance(found, list) and all(isinstance(m, dict) and "role" in m for m in found):
        return found or None
    return None


def _filled(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return rendered(value, variables)
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    return [_filled(item, variables) for item in value] if isinstance(value, list) else value


def _tests(maker: Maker, given: Any, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each test, with where it stands."""
    listed = given if isinstance(given, list) else [] if given is None else [given]
    for number, one in enumerate(listed, 1):
        if isinstance(one, str):
            path = folder / one.removeprefix(_FILE)
            if path.suffix == ".csv":
                with open(path, encoding="utf-8-sig", newline="") as handle:
                    for line, row in enumerate(csv.DictReader(handle), 2):
                        yield f"{path.name}:{line}", _of_row(row)
            elif path.suffix in (".yaml", ".yml", ".json", ".jsonl"):
                inner = [v for _, v in rows_of(path)] if path.suffix == ".jsonl" else _loaded(path)
                for at, test in _tests(maker, inner, path.parent):
                    yield f"{path.name}, {at}", test
            else:
                maker.leave(f"test {number}", f"tests made by {path.suffix or one}")
        elif isinstance(one, dict):
            yield f"test {number}", one
        else:
            maker.leave(f"test {number}", "not a test")


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A test from a line of a CSV file: `__expected…` columns are assertions."""
    columns = [name for name in row if name and name.startswith("__expected") and row[name]]
    variables = {k: v for k, v in row.items() if k and not k.startswith("__")}
    return {"vars": variables, "assert": [_short(row[name]) for name in columns]}


def _short(text: str) -> dict[str, Any]:
    """An assertion as CSV files write it: `contains: x`; a text alone is meant exactly."""
    kind, colon, value = text.partition(":")
    if colon and regex.fullmatch(r"[a-z-]+(\([^)]*\))?", kind.strip()):
        return {"type": kind.strip(), "value": value.strip()}
    return {"type": "equals", "value": text}


def _cases(test: Mapping[str, Any], default: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The variables of each case: a list of values makes a case of each."""
    variables = test.get("vars") or {}
    common = default.get("vars") or {}
    if not isinstance(variables, dict) or not isinstance(common, dict):
        raise Refused("variables that stand in a file")
    merged = {**common, **variables}
    for name, value in merged.items():
        if isinstance(value, str) and value.startswith(_FILE):
            raise Refused(f"the variable {name} stands in a file")
    choices = [value if isinstance(value, list) else [value] for value in merged.values()]
    for values in itertools.product(*choices):
        case = dict(zip(merged, values, strict=True))
        # A variable may name others.
        yield {
            name: rendered(value, case) if isinstance(value, str) else value
            for name, value in case.items()
        }


# -- what is demanded --------------------------------------------------------------------------


def _asserts(test: Mapping[str, Any], default: Mapping[str, Any]) -> list[dict[str, Any]]:
    for part in (test, default):
        for key in ("threshold", "assertScoringFunction"):
            if part.get(key) is not None:
                raise Refused(f"{key}: an answer that passes some assertions only")
        if (part.get("options") or {}).get("transform"):
            raise Refused("transform: code that changes the answer")
    found: list[dict[str, Any]] = []
    for one in [*(default.get("assert") or []), *(test.get("assert") or [])]:
        if not isinstance(one, dict) or "type" not in one:
            raise Refused("an assertion without a type")
        if one["type"] == "assert-set":
            if one.get("threshold") is not None:
                raise Refused("assert-set with a threshold")
            found += one.get("assert") or []
        else:
            found.append(one)
    if not found:
        raise Refused("no assertion")
    return found


def _checks(
    one: Mapping[str, Any], variables: Mapping[str, Any], maker: Maker
) -> list[dict[str, Any]]:
    """The checks that say what an assertion says.

    Raises:
        Refused: none does.
    """
    name = str(one["type"])
    kind = name.removeprefix("not-")
    if one.get("transform"):
        raise Refused(f"{name} with a transform: code that changes the answer")
    if one.get("weight") == 0:
        maker.note("assertions of weight 0")
        return []
    for label in _LABELS:
        if label in one:
            maker.note(f"assertions' {label}")
    value = _filled(one.get("value"), variables)
    if isinstance(value, str) and value.startswith(_FILE):
        raise Refused(f"{name} with a value in a file")
    checks = _plain(kind, value)
    if checks is None:
        raise Refused(f"assertion {name}")
    if kind == name:
        return checks
    if len(checks) > 1:  # not all of them: at least one fails
        return one_of([{"type": "none_of", "value": [check]} for check in checks])
    return [{"type": "none_of", "value": checks}]


def _plain(kind: str, value: Any) -> list[dict[str, Any]] | None:
    match kind:
        case "equals":
            if isinstance(value, str):
                return [{"type": "exact", "value": value}]
            return [{"type": "json_equal", "value": value}]
        case "contains" | "icontains":
            return [_contains(value, kind)]
        case "contains-any" | "icontains-any":
            return one_of([_contains(part, kind) for part in _parts(value)])
        case "contains-all" | "icontains-all":
            return [_contains(part, kind) for part in _parts(value)]
        case "starts-with":
            return [starts(_said(value))]
        case "regex":
            return [{"type": "regex", "value": _said(value)}]
        case "is-json":
            schema = yaml.safe_load(value) if isinstance(value, str) else value
            return [{"type": "json_schema", "value": schema or {}}]
        case _:
            return None


def _contains(value: Any, kind: str) -> dict[str, Any]:
    return {"type": "contains", "value": _said(value), "ignore_case": kind.startswith("i")}


def _said(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise Refused(f"a value that is no text: {json.dumps(value)[:60]}")
    return str(value)


def _parts(value: Any) -> list[Any]:
    """Several values: a list, or a line of a CSV file."""
    found = value if isinstance(value, list) else next(csv.reader([_said(value)]), [])
    parts = [part.strip() if isinstance(part, str) else part for part in found]
    if not parts:
        raise Refused("no values")
    return parts


def _loaded(path: Path) -> Any:
    try:
        if path.suffix == ".jsonl":
            return [value for _, value in rows_of(path)]
        return read_yaml(path)  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GoldError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GoldError(f"{path} cannot be read: {error}") from error
