"""Writes `docs/configuration.md` from the settings' own descriptions.

python -m ledger.settings_doc > docs/configuration.md
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ledger.settings import CONFIG_VARIABLE, KEYS_VARIABLE, Settings

_HEAD = f"""# Configuration

<!-- Made by `python -m ledger.settings_doc > docs/configuration.md`; edit ledger/settings/. -->

A configuration is one YAML file; `--config FILE` or the variable `{CONFIG_VARIABLE}` names it, and
without either the one that fits the hardware is taken: `configs/gpu.yaml` where a CUDA device
is found, else `configs/demo.yaml`. An unknown key is an error, and all errors of a file are
reported together. Relative paths are taken from the directory in which a command runs.

Only `model.name`, `model.path` and one alias have to be given:

```yaml
model: {{name: qwen3-8b, path: Qwen/Qwen3-8B}}
aliases:
  support: {{}}
```

API keys do not stand in a configuration: they come from `serve.api_keys_file` and from the
variable `{KEYS_VARIABLE}`.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "yes or no", Path: "path"}
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_ALIAS = "<alias>"
# What stands behind a key whose value is several sections: a mapping, a list.
_OF: dict[Any, str] = {dict: f".{_ALIAS}", tuple: "[]"}


def document() -> str:
    """The page, as Markdown."""
    return _HEAD + "".join(_section(Settings, ""))


def _section(section: type[BaseModel], prefix: str) -> list[str]:
    """A heading and a table of a section's own settings, then its sections."""
    rows, below = [], []
    for name, field in section.model_fields.items():
        inner, key = _inner(field.annotation), f"{prefix}{name}"
        if prefix and inner is not None and (same := _at_the_top(inner)):
            said = f"a section as `{same}`"
            rows.append(f"| `{key}` | {said} | {_default(field)} | {field.description} |\n")
        elif inner is None:
            rows.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {field.description} |\n")
        else:
            origin = get_origin(field.annotation)
            if origin is tuple:
                rows.append(
                    f"| `{key}` | list of sections | {_default(field)} | {field.description} |\n"
                )
            below += _section(inner, f"{key}{_OF.get(origin, '')}.")
    title = f"`{prefix.removesuffix('.')}`" if prefix else "At the top"
    said = (section.__doc__ or "").splitlines()[0] if prefix else ""
    head = f"\n## {title}\n\n" + (f"{said}\n\n" if said else "")
    return [head, "| setting | kind | default | what it is |\n|---|---|---|---|\n", *rows, *below]


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or holds by name."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    elif get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    elif get_origin(annotation) in (Union, types.UnionType):  # a section that may be absent
        annotation = next(item for item in get_args(annotation) if item is not type(None))
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _at_the_top(section: type[BaseModel]) -> str | None:
    """The name of a section of all, where an alias may have one of its own."""
    return next(
        (name for name, field in Settings.model_fields.items() if field.annotation is section), None
    )


def _kind(field: FieldInfo) -> str:
    said = _type(field.annotation)
    limits = [
        f"{word} {value:g}"
        for rule in field.metadata
        for name, word in _LIMITS.items()
        if (value := getattr(rule, name, None)) is not None
    ]
    return ", ".join([said, *limits])


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(item) for item in inner if item is not type(None))
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return _NAMES.get(annotation, "anything")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if value is PydanticUndefined:
        value = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return "none"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, tuple):
        value = [v.model_dump() if isinstance(v, BaseModel) else v for v in value]
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(document(), end="")
