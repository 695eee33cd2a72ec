"""Rows for the tests of `curate`: a real ledger, filled as the server would."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from curate.judging import decisions
from ledger.records import Feedback, Interaction
from ledger.settings import Settings, parse
from ledger.store import Store

SYSTEM = {"role": "system", "content": "Answer with one queue name only."}


def make_settings(
    tmp_path: Path, gold: list[str] | None = None, *, url: str | None = None, **curate: Any
) -> Settings:
    gold_file = tmp_path / "gold.jsonl"
    lines = [
        {
            "id": f"g{number}",
            "messages": [{"role": "user", "content": question}],
            "checks": [{"type": "normalised", "value": "x"}],
        }
        for number, question in enumerate(gold or ["What is the gold question?"])
    ]
    gold_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return parse(
        {
            "var": str(tmp_path / "var"),
            "model": {"name": "base", "path": "nowhere"},
            "aliases": {"support": {"gate": {"gold": [str(gold_file)]}}, "other": {}},
            "ledger": {"url": url or f"sqlite:///{tmp_path}/var/ledger.db"},
            "privacy": {"key_file": str(tmp_path / "var/keys/subject.key")},
            "curate": curate,
        },
        name="test",
    )


def add_row(
    store: Store,
    row_id: str,
    question: str = "Where is my parcel?",
    response: str | None = "wrong",
    **fields: Any,
) -> None:
    values: dict[str, Any] = {
        "ts": 1000.0 + len(row_id),
        "api": "chat",
        "alias": "support",
        "version": "support@v1",
        "base_model": "base",
        "messages": [SYSTEM, {"role": "user", "content": question}],
        "mean_logprob": -0.1,
    }
    values |= fields
    row = Interaction(row_id=row_id, request_id=row_id, response=response, **values)
    assert store.add_interactions([row]) == 1


def add_feedback(store: Store, row_id: str, **fields: Any) -> None:
    content = json.dumps([row_id, fields], sort_keys=True)
    values: dict[str, Any] = {"ts": 2000.0, "subject": "s1"} | fields
    identity = hashlib.sha256(content.encode()).hexdigest()
    store.add_feedback(Feedback(feedback_id=identity, row_id=row_id, **values))


def decide(store: Store, row_id: str, decision: str, who: str, why: str = "") -> None:
    """Say as an operator yes or no to what is proposed."""
    say = {"accepted": decisions.accept, "rejected": decisions.reject}[decision]
    plain = parse(
        {"model": {"name": "base", "path": "nowhere"}, "aliases": {"support": {}}}, name="test"
    )
    say(store, plain, row_id, who, "operator", why=why)
