"""What redaction finds, what it hides in vain, and what it costs.

    python -m benchmarks.redaction --data FILE [--level high] [--json FILE] [--no-presidio]

FILE is a JSON list of sentences with the spans of personal data in them, as presidio-research
writes them. A span counts as found when every character of it is hidden, as whatever it was taken
for. False alarms are counted on the same sentences with the spans cut out, and on prose of dates,
prices, versions, ISBNs and code that stands in `redaction_texts.py`. The time is that of a text of
4 KiB, all in, placeholders included.

Beside it, on the same texts: the three regular expressions that most people begin with, and
Presidio without a language model, in an environment of its own.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environments
from benchmarks.redaction_texts import HARMLESS, PLAIN
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import ROOT
from ledger.errors import UsageError
from ledger.files import read_json
from ledger.redact import Level, Redactor
from ledger.redact.fold import fold
from ledger.redact.scan import scan

PRESIDIO = ROOT / ".venv-presidio"
PRESIDIO_NEEDS = "requirements/presidio.txt"
KIB = 1024
TEXT = 4 * KIB
SHOWN = (
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "IP_ADDRESS",
    "US_DRIVER_LICENSE", "STREET_ADDRESS", "PERSON",
)  # fmt: skip
THREE = (
    re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    re.compile(r"\(?\b\d{3}\)?[-. ]?\d{3}[-. ]?\d{4}\b"),
    re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
)

Spans = list[tuple[int, int]]


class Sentence(NamedTuple):
    """A text and its personal data: entity type, start, end."""

    text: str
    spans: list[tuple[str, int, int]]

    def without(self) -> str:
        """The text with its personal data cut out."""
        parts, done = [], 0
        for _, start, end in sorted(self.spans, key=lambda span: span[1:]):
            parts.append(self.text[done : max(done, start)])
            done = max(done, end)
        return "".join(parts) + self.text[done:]


class Measured(NamedTuple):
    """What one detector did."""

    recall: dict[str, float]  # share of spans wholly hidden, by entity type
    alarms: float  # on the sentences without their data, and the harmless prose, per KiB
    alarms_prose: float  # on the harmless prose alone
    ms: float  # median of a text of 4 KiB of the sentences
    ms_plain: float  # the same of prose with nothing to hide


class Texts(NamedTuple):
    """What every detector is given."""

    sentences: list[Sentence]
    cut: list[str]
    dense: list[str]  # of 4 KiB
    plain: list[str]  # of 4 KiB

    @classmethod
    def of(cls, sentences: list[Sentence]) -> Texts:
        """Build them from the sentences of a file."""
        joined = "\n".join(sentence.text for sentence in sentences)
        dense = [joined[at : at + TEXT] for at in range(0, len(joined) - TEXT + 1, TEXT)]
        prose = (PLAIN * (2 * TEXT // len(PLAIN) + 2))[: 2 * TEXT]
        plain = [prose[at : at + TEXT] for at in range(0, TEXT, TEXT // 8)]
        return cls(sentences, [sentence.without() for sentence in sentences], dense, plain)


def read(path: Path) -> list[Sentence]:
    """The sentences of a file.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        return [
            Sentence(
                row["full_text"],
                [
                    (span["entity_type"], span["start_position"], span["end_position"])
                    for span in row["spans"]
                ],
            )
            for row in read_json(path)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read as sentences with spans ({type(error).__name__})",
            rule="a JSON list of objects with full_text and spans, each of entity_type, "
            "start_position and end_position",
        ) from None


def recall_of(sentences: list[Sentence], found: list[Spans]) -> dict[str, float]:
    """Share of the spans that are wholly covered, by entity type; signs at their ends apart."""
    seen, hidden = Counter[str](), Counter[str]()
    for sentence, spans in zip(sentences, found, strict=True):
        covered = {place for start, end in spans for place in range(start, end)}
        for kind, start, end in sentence.spans:
            seen[kind] += 1
            hidden[kind] += covered.issuperset(range(start, end))
    return {kind: round(hidden[kind] / seen[kind], 4) for kind in sorted(seen)}


def _per_kib(found: list[Spans], texts: list[str]) -> float:
    size = sum(len(text.encode()) for text in texts) / KIB
    return round(sum(map(len, found)) / size, 3) if size else 0.0


def measured(texts: Texts, find: Callable[[list[str]], list[Spans]], ms: list[float]) -> Measured:
    """Judge a detector.

    Args:
        find: the spans of each text.
        ms: milliseconds of the dense texts, then of the plain ones.
    """
    cut, prose = find(texts.cut), find(HARMLESS)
    return Measured(
        recall_of(texts.sentences, find([sentence.text for sentence in texts.sentences])),
        _per_kib(cut + prose, texts.cut + HARMLESS),
        _per_kib(prose, HARMLESS),
        round(statistics.median(ms[: -len(texts.plain)]), 4),
        round(statistics.median(ms[-len(texts.plain) :]), 4),
    )


def _timed(texts: Texts, redact: Callable[[str], object], rounds: int) -> list[float]:
    """Milliseconds of each text, the median of several rounds."""
    every = texts.dense + texts.plain
    times: list[list[float]] = [[] for _ in every]
    for _ in range(rounds):
        for number, text in enumerate(every):
            started = time.perf_counter()
            redact(text)
            times[number].append((time.perf_counter() - started) * 1000)
    return [statistics.median(each) for each in times]


def ours(texts: Texts, level: Level, rounds: int) -> Measured:
    """Of `ledger.redact`."""
    redactor = Redactor(level)

    def find(given: list[str]) -> list[Spans]:
        return [
            [(span.start, span.end) for span in scan(text, fold(text), high=level == "high")]
            for text in given
        ]

    times = _timed(texts, lambda text: redactor.conversation().redact(text), rounds)
    return measured(texts, find, times)


def three(texts: Texts, rounds: int) -> Measured:
    """Of the three regular expressions."""

    def find(given: list[str]) -> list[Spans]:
        return [
            [match.span() for pattern in THREE for match in pattern.finditer(text)]
            for text in given
        ]

    def redact(text: str) -> str:
        for pattern in THREE:
            text = pattern.sub("[X]", text)
        return text

    return measured(texts, find, _timed(texts, redact, rounds))


def presidio(texts: Texts) -> tuple[Measured, str]:
    """Of Presidio, and its version."""
    whole = [sentence.text for sentence in texts.sentences]
    given = {"texts": whole + texts.cut + HARMLESS, "timed": texts.dense[:20] + texts.plain}
    done = subprocess.run(
        [str(PRESIDIO / "bin" / "python"), str(Path(__file__).with_name("redaction_presidio.py"))],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    spans = [[(start, end) for start, end in each] for each in answer["spans"]]
    found = dict(zip(given["texts"], spans, strict=True))
    made = measured(texts, lambda given: [found[text] for text in given], answer["ms"])
    return made, answer["version"]


def table_of(results: dict[str, Measured]) -> str:
    """The numbers as Markdown, a detector a column."""
    rows: list[tuple[object, ...]] = [
        (f"recall of {kind}", *(f"{made.recall[kind]:.3f}" for made in results.values()))
        for kind in SHOWN
        if kind in next(iter(results.values())).recall
    ]
    rows += [
        ("false alarms per KiB", *(made.alarms for made in results.values())),
        ("the same, prose of numbers", *(made.alarms_prose for made in results.values())),
        ("ms per 4 KiB", *(f"{made.ms:.3f}" for made in results.values())),
        ("the same, nothing to hide", *(f"{made.ms_plain:.3f}" for made in results.values())),
    ]
    return markdown(("", *results), rows)


def numbers_of(results: dict[str, Measured], level: Level) -> dict[str, Any]:
    """The numbers as JSON: those of `level` without a suffix, the others' with one."""
    numbers: dict[str, Any] = {"level": level}
    for name, made in results.items():
        suffix = "" if name == level else f"_{name.replace(' ', '_')}"
        numbers |= {
            f"recall{suffix}": made.recall,
            f"false_alarms_per_kb{suffix}": made.alarms,
            f"false_alarms_per_kb_prose{suffix}": made.alarms_prose,
            f"ms_per_4kb{suffix}": made.ms,
            f"ms_per_4kb_nothing{suffix}": made.ms_plain,
        }
    return numbers


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.redaction", __doc__)
    arguments.add_argument("--data", type=Path, required=True, help="sentences with their spans")
    arguments.add_argument("--level", choices=("high", "balanced"), default="high")
    arguments.add_argument("--rounds", type=int, default=20, help="how often each text is timed")
    arguments.add_argument("--no-presidio", action="store_true", help="leave Presidio out")
    arguments.add_argument(
        "--make-presidio",
        action="store_true",
        help=f"make {PRESIDIO.name} first where it is absent",
    )
    given = arguments.parse_args()
    texts = Texts.of(read(given.data))
    level: Level = given.level
    other: Level = "balanced" if level == "high" else "high"
    results: dict[str, Measured] = {
        name: ours(texts, name, given.rounds) for name in (level, other)
    }
    results["three regexes"] = three(texts, given.rounds)
    if given.make_presidio and not PRESIDIO.is_dir():
        environments.make(PRESIDIO, PRESIDIO_NEEDS)
    about = ""
    if not given.no_presidio and (PRESIDIO / "bin" / "python").is_file():
        results["presidio"], version = presidio(texts)
        about = f" Presidio {version} without a language model, so without names."
    elif not given.no_presidio:
        print(
            f"No {PRESIDIO.name}, so no comparison with Presidio. To have one: `python -m "
            f"benchmarks.redaction --data FILE --make-presidio` (installs {PRESIDIO_NEEDS} there)",
            file=sys.stderr,
        )
    finish(
        given,
        name="redaction",
        title="Redaction",
        numbers=numbers_of(results, level),
        table=table_of(results),
        notes=f"{len(texts.sentences)} sentences of {given.data.name}; a span is found when all of "
        "it is hidden. Time: median of texts of 4 KiB, placeholders included; the sentences hold "
        f"several values each, more than a conversation does.{about}",
        command=f"python -m benchmarks.redaction --data {given.data} --level {level} "
        f"--rounds {given.rounds}",
    )


if __name__ == "__main__":
    main()
