"""What the text of a correction tells by itself, beside the question and the answer it is about.

Covers length, the alias's checks, language, refusals, secrets and personal data that redaction
replaced, control tokens and how much was edited. It cannot tell whether a text is true.

Sources:
    language: py3langid (Barbaresi), the model of langid.py (Lui & Baldwin, ACL 2012)
    edit distance: Levenshtein, normalised by the longer text's length (RapidFuzz)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from curate.acceptance import reasons
from ledger.checking import run_check
from ledger.checks import Check
from ledger.records import Interaction
from ledger.redact.placeholders import PLACEHOLDER
from ledger.settings.curation import Acceptance as Policy
from ledger.wording import CONTROL, refuses

#: Letters below which the language of a text is not told: names and loan words decide then.
LEAST_LETTERS = 60
#: Certainty from which a language counts, 0 to 1.
CERTAIN = 0.9
#: Answers shorter than this, in characters, may be replaced as a whole: `max_edit` is not for them.
LONG_ANSWER = 200
# A longer text is compared as far as this: the time grows with the product of both lengths.
_COMPARED = 20_000
_SECRET = frozenset({"SECRET", "KEY"})


def found(policy: Policy, checks: Sequence[Check], row: Interaction, text: str) -> Iterator[str]:
    """What speaks against a text, as reasons.

    Args:
        checks: that the alias demands of every answer.
        row: the answer that is corrected, with its question.
        text: as it is stored, with its placeholders.
    """
    answer = row.response or ""
    if not text.strip():
        yield reasons.EMPTY
        return
    if len(text) > policy.max_chars:
        yield f"{reasons.TOO_LONG}: {len(text)} characters, at most {policy.max_chars}"
        return  # the rest takes time that grows with the text
    for check in checks:
        result = run_check(check, text)
        if not result.passed:
            yield f"{reasons.CHECK}: {result.reason}"
    yield from _placeholders(text, row, answer)
    if (control := CONTROL.search(text)) is not None:
        yield f"{reasons.CONTROL}: {control.group()}"
    if not policy.refusals and refuses(text) and not refuses(answer):
        yield reasons.REFUSAL
    if language := _language(policy, row, text):
        yield language
    if distance := _distance(policy, answer, text):
        yield distance


def _placeholders(text: str, row: Interaction, answer: str) -> Iterator[str]:
    new = {match.group(): match.group(1) for match in PLACEHOLDER.finditer(text)}
    if not new:
        return
    if any(kind in _SECRET for kind in new.values()):
        yield reasons.SECRET
    said = "\n".join([answer, *strings(row.messages or [])])
    left = sorted(name for name, kind in new.items() if kind not in _SECRET and name not in said)
    if left:
        yield f"{reasons.PLACEHOLDERS}: {', '.join(left[:5])}"


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def question(row: Interaction) -> str:
    """The text of the last message of a row that is not the assistant's."""
    for message in reversed(row.messages or []):
        if message.get("role") not in ("assistant", "system", "developer"):
            content = message.get("content")
            if isinstance(content, list):
                content = "\n".join(
                    strings([p.get("text") for p in content if isinstance(p, dict)])
                )
            return content if isinstance(content, str) else ""
    return ""


# -- language ------------------------------------------------------------------------------------


def _language(policy: Policy, row: Interaction, text: str) -> str:
    """Why the language of a text is not the one to expect; "" where it is, or cannot be told."""
    spoken = language_of(text)
    if spoken is None:
        return ""
    if policy.languages:
        if spoken in policy.languages:
            return ""
        return f"{reasons.LANGUAGE}: {spoken}, not {' or '.join(policy.languages)}"
    told = set()
    for part in (row.response or "", question(row)):
        if (language := language_of(part)) == spoken:
            return ""
        told |= {language} - {None}
    if not told:
        return ""
    expected = " or ".join(sorted(map(str, told)))
    return f"{reasons.LANGUAGE}: {spoken}, not {expected} as its question and answer"


def language_of(text: str) -> str | None:
    """The ISO 639-1 language of a text; None where it is too short, or not clear.

    Text that is mostly digits and signs, as tables and programs are, has none.
    """
    bare = PLACEHOLDER.sub(" ", text)[:2000]
    letters = sum(map(str.isalpha, bare))
    # A sign of Chinese or Japanese says as much as some letters.
    wide = sum("\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3" for char in bare)
    if letters + 3 * wide < LEAST_LETTERS or letters < 0.7 * len("".join(bare.split())):
        return None
    language, certainty = _identifier()(bare)
    return language if certainty >= CERTAIN else None


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid import langid  # loads numpy and its model

    made = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    classify: Callable[[str], tuple[str, float]] = made.classify
    return classify


# -- how much was edited ---------------------------------------------------------------------


def _distance(policy: Policy, answer: str, text: str) -> str:
    far = policy.max_edit < 1 and len(answer) >= LONG_ANSWER
    if not answer or not (far or policy.min_edit > 0):
        return ""
    from rapidfuzz.distance import Levenshtein

    distance = Levenshtein.normalized_distance(answer[:_COMPARED], text[:_COMPARED])
    if distance < policy.min_edit:
        return f"{reasons.TOO_CLOSE}: distance {distance:.2f}, at least {policy.min_edit:g}"
    if far and distance > policy.max_edit:
        return f"{reasons.TOO_FAR}: distance {distance:.2f}, at most {policy.max_edit:g}"
    return ""
