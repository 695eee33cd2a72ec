"""OpenAI's evals, in each of the forms that people have lying about.

    samples   JSONL, `{"input": [messages], "ideal": "…" or […]}`
    registry  YAML of the openai/evals repository: names of evals with their class and samples
    items     JSONL of data sources, `{"item": {…}}`
    evals     JSON of the evals API: testing criteria, input messages and items in one file

Classes and criteria that compare texts are carried over; those that ask a model, run code or
grade by likeness are refused by name.

Source: openai/evals (`evals/elsuite/basic`), and OpenAI's reference of its evals API.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eval.goldimport.made import Maker, Refused, one_of, rendered, starts, target, targets
from eval.goldimport.reading import rows_of
from ledger.errors import GoldError
from ledger.strict_yaml import read_yaml

_INPUTS = ("messages", "input", "prompt", "question")
_TARGETS = ("ideal", "target", "expected", "reference", "label", "correct_label", "answer")
_ANSWER = ("{{sample.output_text}}", "{{sample.output_text|trim}}")


def read(maker: Maker) -> None:
    """Read the maker's file into it.

    Raises:
        GoldError: it cannot be read as one of the forms.
    """
    if maker.file.suffix in (".yaml", ".yml"):
        _registry(maker)
        return
    rows = list(rows_of(maker.file))
    if len(rows) == 1 and isinstance(rows[0][1], dict) and _criteria_of(rows[0][1]):
        _api(maker, rows[0][1])
        return
    for number, (where, row) in enumerate(rows, 1):
        _sample(maker, where, number, row, None)


# -- samples and the registry ------------------------------------------------------------------


def _sample(
    maker: Maker, where: str, number: int | str, row: Any, scored: dict[str, Any] | None
) -> None:
    """One line; `scored` is the class of its eval and the arguments, where it is known."""
    if not isinstance(row, dict):
        return maker.leave(where, "not a sample")
    item = row["item"] if isinstance(row.get("item"), dict) else row
    options = maker.options
    fields = {**item, "item": item}
    try:
        if options.prompt is not None:
            asked: Any = rendered(options.prompt, fields)
        else:
            asked = next((item[name] for name in _INPUTS if item.get(name)), None)
        if options.target is not None:
            right: Any = rendered(options.target, fields)
        else:
            right = next((item[name] for name in _TARGETS if item.get(name) is not None), None)
        messages = _messages(asked)
        checks = targets(right, options.check) if scored is None else _scored(scored, right)
    except Refused as refused:
        return maker.leave(where, str(refused))
    given = item.get("id")
    return maker.add(
        where,
        id=maker.id(number) if given in (None, "") else str(given),
        messages=messages,
        checks=checks,
        facts=item,
    )


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str) and given.strip():
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise Refused("no input")
    if not all(isinstance(one, Mapping) and "role" in one for one in given):
        raise Refused("an input that is no chat")
    return [dict(one) for one in given]


def _registry(maker: Maker) -> None:
    try:
        found = read_yaml(maker.file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GoldError(f"{maker.file} cannot be read: {error}") from error
    evals = {
        name: one
        for name, one in (found.items() if isinstance(found, dict) else ())
        if isinstance(one, dict) and "class" in one
    }
    if not evals:
        raise GoldError(
            f"{maker.file} is no registry of evals",
            rule="One names evals, each with its `class` and `args.samples_jsonl`.",
            remedy="Name the JSONL file of the samples instead.",
        )
    for name, one in evals.items():
        arguments = one.get("args") or {}
        kind = str(one["class"]).rpartition(":")[2]
        if kind not in ("Match", "Includes", "JsonMatch"):
            maker.leave(name, f"class {kind}")
            continue
        path = _samples(maker.file, str(arguments.get("samples_jsonl", "")))
        if path is None:
            maker.leave(name, f"samples {arguments.get('samples_jsonl')!r} are not beside it")
            continue
        for number, (where, row) in enumerate(rows_of(path), 1):
            scored = {"class": kind, **arguments}
            _sample(maker, f"{name}, {where}", f"{name}-{number}", row, scored)


def _samples(registry: Path, name: str) -> Path | None:
    """The file of samples: beside the registry, or where the repository has its data."""
    if not name:
        return None
    for folder in (registry.parent, registry.parent.parent / "data"):
        if (folder / name).is_file():
            return folder / name
    return None


def _scored(scored: Mapping[str, Any], right: Any) -> list[dict[str, Any]]:
    """What a class of openai/evals demands."""
    given = right if isinstance(right, list) else [right]
    wanted = [one for one in given if one not in (None, "")]
    if not wanted:
        raise Refused("no ideal answer")
    if scored["class"] == "JsonMatch":
        values = [yaml.safe_load(one) if isinstance(one, str) else one for one in wanted]
        return one_of([{"type": "json_equal", "value": value} for value in values])
    if scored["class"] == "Includes":
        kind = "icontains" if scored.get("ignore_case") else "contains"
        return targets([str(one) for one in wanted], kind)  # type: ignore[arg-type]
    return one_of([starts(str(one)) for one in wanted])


# -- the evals API -----------------------------------------------------------------------------


def _criteria_of(found: Mapping[str, Any]) -> Any:
    inner = found.get("eval")
    return found.get("testing_criteria") or (
        inner.get("testing_criteria") if isinstance(inner, dict) else None
    )


def _api(maker: Maker, found: Mapping[str, Any]) -> None:
    run = found.get("run") if isinstance(found.get("run"), dict) else found
    assert isinstance(run, Mapping)
    source = run.get("data_source") or {}
    rows = (source.get("source") or {}).get("content")
    if not isinstance(rows, list):
        raise GoldError(
            f"{maker.file} has no items",
            rule="They stand under data_source.source.content, unless they lie on a server.",
            remedy="Download the file of the items, and name it with --prompt and --target.",
        )
    template = (source.get("input_messages") or {}).get("template")
    for number, row in enumerate(rows, 1):
        where = f"item {number}"
        item = row.get("item") if isinstance(row, dict) else None
        if not isinstance(item, dict):
            maker.leave(where, "not an item")
            continue
        try:
            messages = _filled(template, item, maker.options.prompt)
            criteria = _criteria_of(found)
            checks = [check for one in criteria for check in _criterion(one, item)]
        except Refused as refused:
            maker.leave(where, str(refused))
            continue
        given = item.get("id")
        maker.add(
            where,
            id=maker.id(number) if given in (None, "") else str(given),
            messages=messages,
            checks=checks,
            facts=item,
        )


def _filled(template: Any, item: Mapping[str, Any], prompt: str | None) -> list[dict[str, Any]]:
    if prompt is not None:
        return [{"role": "user", "content": rendered(prompt, {"item": item})}]
    if not isinstance(template, list) or not template:
        raise Refused("no input messages")
    messages = []
    for one in template:
        content = one.get("content") if isinstance(one, Mapping) else None
        if isinstance(content, Mapping):
            content = content.get("text")
        if not isinstance(content, str):
            raise Refused("an input message that is not text")
        messages.append(
            {"role": one.get("role", "user"), "content": rendered(content, {"item": item})}
        )
    return messages


def _criterion(one: Any, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(one, Mapping) or one.get("type") != "string_check":
        raise Refused(f"criterion {one.get('type') if isinstance(one, Mapping) else one}")
    if str(one.get("input", "")).replace(" ", "") not in _ANSWER:
        raise Refused("a criterion on something else than the answer")
    value = rendered(str(one.get("reference", "")), {"item": item})
    match one.get("operation"):
        case "eq":
            return [target(value, "exact")]
        case "ne":
            return [{"type": "none_of", "value": [target(value, "exact")]}]
        case "like":
            return [target(value, "contains")]
        case "ilike":
            return [target(value, "icontains")]
        case other:
            raise Refused(f"operation {other}")
