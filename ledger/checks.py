"""What can be demanded of an answer to a gold question, as it is written in a gold set.

Covers the shape of every check and whether it can work at all: a regex that compiles, a JSON
schema that is one. Applying them to answers is `ledger.checking`. Every check is an object with
a `type` and a `value`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import regex
from jsonschema import Draft202012Validator, SchemaError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

# Marks that wrap an answer (quotes, brackets, Markdown) or end its sentence. Signs that change
# what is said stay: the minus of "-5", the point of ".5", the per cent of "5%".
_WRAPPING_CATEGORIES = ("Ps", "Pe", "Pi", "Pf")
_WRAPPERS = "\"'`*_<>"
_SENTENCE_ENDS = ".,;:!?。、"


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed, quotes and sentence marks off the ends."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    collapsed = " ".join(folded.split())
    start, end = 0, len(collapsed)
    while start < end and _wraps(collapsed[start]):
        start += 1
    while end > start and (_wraps(collapsed[end - 1]) or collapsed[end - 1] in _SENTENCE_ENDS):
        end -= 1
    return collapsed[start:end]


def _wraps(char: str) -> bool:
    return char == " " or char in _WRAPPERS or unicodedata.category(char) in _WRAPPING_CATEGORIES


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Exact(_Check):
    """The answer is `value`, character by character; one line break at its end is forgiven."""

    type: Literal["exact"]
    value: str


class Normalised(_Check):
    """The answer is `value` once both went through `normalise`."""

    type: Literal["normalised"]
    value: str

    @field_validator("value")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not normalise(value):
            raise ValueError(f"nothing is left of {value!r} once it is normalised")
        return value


class Contains(_Check):
    """The answer has `value` in it."""

    type: Literal["contains"]
    value: str = Field(min_length=1)
    ignore_case: bool = False


class Regex(_Check):
    """The pattern is found somewhere in the answer; anchor it to bind the whole of it.

    Syntax of the `regex` package, which is that of `re` and more.
    """

    type: Literal["regex"]
    value: str = Field(min_length=1, max_length=2000)

    @field_validator("value")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            regex.compile(value)
        except regex.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value


class JsonEqual(_Check):
    """The answer is JSON and equals `value`: keys in any order, 1 is 1.0, true is not 1."""

    type: Literal["json_equal"]
    value: JsonValue
    fenced: bool = Field(False, description="the JSON may stand in one Markdown code fence")


class JsonSchema(_Check):
    """The answer is JSON and fits the schema, read as Draft 2020-12."""

    type: Literal["json_schema"]
    value: dict[str, JsonValue]
    fenced: bool = Field(False, description="the JSON may stand in one Markdown code fence")

    @field_validator("value")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Draft202012Validator.check_schema(
                value, format_checker=Draft202012Validator.FORMAT_CHECKER
            )
            _check_references(value)
            Draft202012Validator(value, registry=Registry()).is_valid(None)
        except SchemaError as error:
            where = ".".join(str(part) for part in error.absolute_path) or "(top)"
            raise ValueError(f"not a JSON schema: {where}: {error.message}") from None
        except RecursionError:
            raise ValueError("not a usable JSON schema: it refers to itself for ever") from None
        return value


class AnyOf(_Check):
    """At least one of the checks passes: several answers are right."""

    type: Literal["any_of"]
    value: list[Check] = Field(min_length=1)


class NoneOf(_Check):
    """None of the checks passes: what an answer must not say."""

    type: Literal["none_of"]
    value: list[Check] = Field(min_length=1)


Check = Annotated[
    Exact | Normalised | Contains | Regex | JsonEqual | JsonSchema | AnyOf | NoneOf,
    Field(discriminator="type"),
]
AnyOf.model_rebuild()
NoneOf.model_rebuild()


def _check_references(schema: dict[str, Any]) -> None:
    """References stay inside the schema (nothing is fetched) and lead somewhere."""
    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", resource).resolver()
    for key, value in _strings(schema):
        if key in ("$ref", "$dynamicRef"):
            if not value.startswith("#"):
                raise ValueError(f"{key} {value!r} leaves the schema; copy what it names into it")
            try:
                resolver.lookup(value)
            except Unresolvable:
                raise ValueError(f"{key} {value!r} leads nowhere") from None
        elif key == "pattern":
            try:
                regex.compile(value)
            except regex.error as error:
                raise ValueError(f"pattern {value!r} does not compile: {error}") from None


def _strings(node: Any) -> Iterator[tuple[str, str]]:
    """Every text value in a JSON value that has a key, with its key."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from _strings(value)
    elif isinstance(node, list):
        for item in node:
            yield from _strings(item)
