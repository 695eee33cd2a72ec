"""The dataset of a run: every accepted correction of an alias, frozen with its provenance.

    python -m curate.build --config C --alias A --run DIR

Freezes `DIR/dataset` (see `ledger.dataset`). A gold question is never in it, whatever its
case, spaces and punctuation. What is left out stands in the manifest, by reason.

Does not find near-duplicates, and splits nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from curate.tags import sweep
from ledger import dataset
from ledger.dataset import DatasetManifest, Pair
from ledger.errors import ConfigError, DatasetError, FlywheelError, RedactionFailed
from ledger.gold import load_gold, question_key
from ledger.records import Correction, DatasetRecord, Interaction
from ledger.redact import Redactor
from ledger.settings import Privacy, Settings, load
from ledger.store import Store, now

GOLD = "gold question"
NO_TEXT = "text not stored"
COMPLETION = "text completion without a chat template"
PREFILLED = "prompt ends with the start of an answer"
BROKEN = "text with half of a surrogate pair"
EMPTY = "empty correction"
DUPLICATE = "same question and answer as another pair"
NAMES = "the detector of names failed"
CONTRADICTED = "another correction of the same question holds"


class Pool(NamedTuple):
    """Pairs in the order of their rows' time, and the rows left out, by reason."""

    pairs: list[Pair]
    left_out: dict[str, list[str]]


class _Candidate(NamedTuple):
    row: Interaction
    correction: Correction
    text: str
    age: int  # position among all corrections, the newest last


def collect(settings: Settings, store: Store, alias: str) -> Pool:
    """All pairs that the accepted corrections of an alias make.

    Where corrections of one question differ, the newest one by an operator holds, else the
    newest. The same question with the same answer is kept once, as its first row.

    Raises:
        ConfigError: there is no such alias.
        GoldError: a gold set of the alias cannot be read; nothing is built without it.
    """
    paths = settings.alias(alias).gate.gold
    gold = {question_key(question.messages) for question in (load_gold(paths) if paths else ())}
    accepted = store.corrections(decision="accepted")
    ages = {row_id: age for age, row_id in enumerate(accepted)}
    left_out: dict[str, list[str]] = {}
    questions: dict[str, list[_Candidate]] = {}
    rows = sorted(
        store.interactions(alias=alias, row_ids=list(accepted)),
        key=lambda row: (row.ts, row.row_id),
    )
    for row in rows:
        correction = accepted[row.row_id]
        text = correction.text.strip()
        if not row.stored_text or not row.messages:
            reason = NO_TEXT
        elif row.api == "completions":
            reason = COMPLETION
        elif row.messages[-1].get("role") == "assistant":
            reason = PREFILLED
        elif not text:
            reason = EMPTY
        elif not _encodable([row.messages, row.tools, row.response, text]):
            reason = BROKEN
        elif (key := question_key(row.messages)) in gold:
            reason = GOLD
        else:
            questions.setdefault(key, []).append(
                _Candidate(row, correction, text, ages[row.row_id])
            )
            continue
        left_out.setdefault(reason, []).append(row.row_id)
    kept = []
    for candidates in questions.values():
        holds = max(candidates, key=lambda one: (one.correction.source == "operator", one.age))
        first, *others = [one for one in candidates if one.text == holds.text]
        kept.append(first)
        left_out.setdefault(DUPLICATE, []).extend(one.row.row_id for one in others)
        left_out.setdefault(CONTRADICTED, []).extend(
            one.row.row_id for one in candidates if one.text != holds.text
        )
    kept.sort(key=lambda one: (one.row.ts, one.row.row_id))
    tags = store.tags([one.row.row_id for one in kept])
    pairs = [_pair(one, sorted({tag.tag for tag in tags.get(one.row.row_id, [])})) for one in kept]
    if settings.privacy.names_before_training:
        pairs, failed = _without_names(settings.privacy, pairs)
        left_out[NAMES] = failed
    return Pool(pairs, {reason: ids for reason, ids in left_out.items() if ids})


def build(settings: Settings, store: Store, alias: str, run_dir: Path) -> DatasetManifest:
    """Freeze the pairs of an alias in `run_dir/dataset`, and record it in the ledger.

    A dataset that is complete there is checked and kept as it is.

    Raises:
        ConfigError: there is no such alias.
        GoldError: a gold set of the alias cannot be read.
        DatasetError: there is no pair at all, or the dataset that is there was altered.
    """
    settings.alias(alias)
    folder = run_dir / "dataset"
    if (folder / dataset.MANIFEST).exists():
        manifest, pairs = dataset.load(folder, store)
        if manifest.alias != alias:
            raise DatasetError(
                f"{folder} holds pairs of {manifest.alias!r}, asked for {alias!r}",
                remedy="Name another run folder.",
            )
    else:
        pairs, left_out = collect(settings, store, alias)
        if not pairs:
            raise nothing_to_train_on(alias, left_out)
        manifest = dataset.freeze(
            folder, store=store, alias=alias, pairs=pairs, created=now(), left_out=left_out
        )
    # Also for a folder that was complete: the last run may have died between the two.
    store.add_dataset(
        DatasetRecord(
            dataset_id=manifest.dataset_id,
            ts=manifest.created,
            alias=alias,
            path=str(folder),
            pairs=manifest.pairs,
            row_ids=[pair.row_id for pair in pairs],
        )
    )
    return manifest


def nothing_to_train_on(alias: str, left_out: dict[str, list[str]]) -> DatasetError:
    """The error of an alias without pairs."""
    reasons = "; ".join(f"{reason}: {len(ids)}" for reason, ids in left_out.items())
    return DatasetError(
        f"no accepted correction of {alias!r} makes a training pair",
        rule=f"Left out: {reasons}." if reasons else "",
        remedy="Accept or write corrections with `flywheel review`, or send them by "
        "POST /v1/feedback; users' corrections count at once where curate.trusted_sources "
        "has `user`.",
    )


def summary(manifest: DatasetManifest) -> str:
    """What was frozen, in a few lines."""
    lines = [f"{manifest.pairs} pairs for {manifest.alias} · {manifest.dataset_id}"]
    lines += [f"  from {source:<10} {count:>6}" for source, count in manifest.sources.items()]
    lines += [f"  left out {len(ids):>6}  {why}" for why, ids in manifest.left_out.items()]
    return "\n".join(lines)


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_names(privacy: Privacy, pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """Pairs as a detector of names leaves them, and the rows that it failed on.

    Rows may be older than the detector: each pair passes it here, whatever was done before.
    """
    if privacy.names == "none":
        raise ConfigError(
            "privacy.names_before_training is on, and privacy.names is none",
            rule="No pair is trained on that no detector of names has seen.",
            remedy="Set privacy.names to spacy or presidio, or switch the rule off.",
        )
    redactor = Redactor.of(privacy.model_copy(update={"redaction": "balanced"}))
    assert redactor is not None
    seen, failed = [], []
    for pair in pairs:
        conversation = redactor.conversation()
        try:
            found = {
                name: conversation.redact(getattr(pair, name))
                for name in ("messages", "tools", "chat_template_kwargs", "rejected")
            }
        except RedactionFailed:
            failed.append(pair.row_id)
            continue
        seen.append(pair.model_copy(update=found))
    return seen, failed


def _pair(one: _Candidate, tags: list[str]) -> Pair:
    row = one.row
    return Pair(
        row_id=row.row_id,
        messages=[*(row.messages or []), {"role": "assistant", "content": one.text}],
        tools=row.tools,
        chat_template_kwargs=row.chat_template_kwargs,
        template_hash=row.template_hash,
        source=one.correction.source,
        author=one.correction.author,
        answered_by=row.version,
        rejected=row.response,
        tags=tags,
    )


def main(words: list[str] | None = None) -> int:
    """The command. Takes over new feedback first; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m curate.build", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="configuration file")
    parser.add_argument("--alias", required=True, help="whose corrections")
    parser.add_argument("--run", required=True, type=Path, help="folder of the run")
    given = parser.parse_args(words)
    try:
        settings = load(given.config)
        store = Store.open(settings)
        try:
            sweep(settings, store)
            manifest = build(settings, store, given.alias, given.run)
        finally:
            store.close()
    except FlywheelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(summary(manifest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
