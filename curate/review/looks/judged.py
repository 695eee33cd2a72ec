"""What a gate asked and was told, from its run's folder: answers of two versions side by side.

The file is `eval_results.json` as the gate wrote it. Questions that are stored rows stand in it
sealed; they are opened here, with the ledger's keys, for who may see the rows anyway.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curate.review.looks.search import content_of
from curate.review.texts import Piece, differences
from ledger.errors import LedgerError
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Store

_RESULTS = "eval_results.json"
_KIND = "eval"  # of the file that lines are sealed for
#: Kinds of changed answers, by the name of their list in a report.
KINDS = {"broken": "broken", "fixed": "fixed", "both": "both_wrong"}


class Answered(NamedTuple):
    """One sample of a question: both answers cut where they differ, and why each does not do."""

    before: list[Piece]
    after: list[Piece]
    before_why: str
    after_why: str
    preferred: str


class Changed(NamedTuple):
    """A question that was fixed, broken, or is wrong with both versions.

    Attributes:
        row: whether it is a stored row, whose id it has.
        turns: role and text of each message; None where nobody can read it any more.
    """

    kind: str
    set: str
    id: str
    row: bool
    slice: str | None
    turns: list[tuple[str, str]] | None
    wanted: str
    answers: list[Answered]


class Judged(NamedTuple):
    """The changed answers of a gate, page by page.

    Attributes:
        counts: of each kind, over the sets that are shown.
        total: how many there are of the kind that is shown.
        problem: why there are no texts, "" where there are.
    """

    counts: dict[str, int]
    items: list[Changed]
    total: int
    problem: str


def set_reports(verdict: Evaluation) -> list[dict[str, Any]]:
    """The reports of its sets; none where a gate of an earlier format judged."""
    found = verdict.report.get("sets")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def key_of(report: dict[str, Any]) -> str:
    """`pack/set`."""
    return f"{report.get('pack')}/{report.get('name')}"


def name_of(report: dict[str, Any]) -> str:
    """What a page calls it: the set alone where its pack is called the same."""
    return str(report["name"]) if report.get("name") == report.get("pack") else key_of(report)


def changed(
    settings: Settings,
    store: Store,
    verdict: Evaluation,
    *,
    kind: str | None = None,
    only: str | None = None,
    start: int = 0,
    most: int = 50,
) -> Judged:
    """The questions whose answers changed or are wrong with both versions.

    Args:
        kind: one of `KINDS`; None: all, broken ones first.
        only: the set, `pack/set`; None: all.
        start, most: which of them.
    """
    reports = [one for one in set_reports(verdict) if only in (None, key_of(one))]
    counts = {
        name: sum(len(one.get(field, ())) for one in reports) for name, field in KINDS.items()
    }
    wanted = [
        (name, one, str(number))
        for name, field in KINDS.items()
        if kind in (None, name)
        for one in reports
        for number in one.get(field, ())
    ]
    shown = wanted[start : start + most]
    try:
        sets = _sets(settings.runs, verdict.run_id) if shown else {}
        texts = {
            key_of(one): _texts(store, sets.get(key_of(one)), [n for _, o, n in shown if o is one])
            for one in reports
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        problem = f"the answers of run {verdict.run_id} are not in {settings.runs} any more"
        return Judged(counts, [], len(wanted), problem)
    except LedgerError as error:
        return Judged(counts, [], len(wanted), error.problem)
    items = [_item(name, one, n, texts[key_of(one)].get(n), verdict) for name, one, n in shown]
    return Judged(counts, items, len(wanted), "")


def _sets(runs: Path, run_id: str) -> dict[str, dict[str, Any]]:
    if Path(run_id).name != run_id:
        raise ValueError("a run is a folder's name")
    found = json.loads((runs / run_id / _RESULTS).read_text(encoding="utf-8"))
    return {key_of(one): one for one in found["sets"]}


def _texts(
    store: Store, one: dict[str, Any] | None, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Question, answers, checks and judgements by id; those that nobody can read are left out."""
    if one is None or not ids:
        return {}
    wanted = set(ids)
    if "lines" in one:
        lines = [line for line in one["lines"] if line["row_id"] in wanted]
        opened = store.opened_lines(lines, _KIND)
        return {line["row_id"]: line for line in opened if line is not None}
    said: dict[str, list[dict[str, Any]]] = {}
    for judgement in one.get("judgements", ()):
        said.setdefault(judgement["question"], []).append(judgement)
    return {
        question["id"]: {
            "question": question,
            "answers": {m: given.get(question["id"], []) for m, given in one["answers"].items()},
            "checks": {m: given.get(question["id"], []) for m, given in one["checks"].items()},
            "judgements": said.get(question["id"], []),
        }
        for question in one["questions"]
        if question["id"] in wanted
    }


def _item(
    kind: str,
    report: dict[str, Any],
    number: str,
    text: dict[str, Any] | None,
    verdict: Evaluation,
) -> Changed:
    row = report.get("kind") == "failures"
    if text is None:
        return Changed(kind, name_of(report), number, row, None, None, "", [])
    question = text["question"]
    before, after = (
        [str(one["text"]) for one in text["answers"].get(model, ())]
        for model in (verdict.baseline, verdict.candidate)
    )
    why_before, why_after = (
        [
            "; ".join(check["reason"] for check in checks if check["reason"])
            for checks in text["checks"].get(model, ())
        ]
        for model in (verdict.baseline, verdict.candidate)
    )
    preferred = {one["sample"]: str(one["preferred"]) for one in text["judgements"]}
    answers = []
    for sample in range(max(len(before), len(after))):
        found = differences(_at(before, sample), _at(after, sample))
        answers.append(
            Answered(
                [piece for piece in found if piece.kind != "ins"],
                [piece for piece in found if piece.kind != "del"],
                _at(why_before, sample),
                _at(why_after, sample),
                preferred.get(sample, ""),
            )
        )
    turns = [(str(m.get("role", "?")), content_of(m)) for m in question["messages"]]
    wanted = "; ".join(map(_in_words, question.get("checks") or ()))
    return Changed(
        kind,
        name_of(report),
        number,
        row,
        question.get("slice"),
        turns,
        wanted or str(question.get("reference") or ""),
        answers,
    )


def _at(texts: Sequence[str], position: int) -> str:
    return texts[position] if position < len(texts) else ""


def _in_words(check: dict[str, Any]) -> str:
    """What a check asks for."""
    kind, value = str(check.get("type")), check.get("value")
    if kind in ("any_of", "none_of") and isinstance(value, list):
        joined = " or ".join(map(_in_words, value))
        return joined if kind == "any_of" else f"not {joined}"
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if kind in ("exact", "normalised") else f"{kind.replace('_', ' ')} {said}"
