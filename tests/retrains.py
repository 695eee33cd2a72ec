"""Retrains of the shared server's alias, for tests: users who correct, gold sets, the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers import KEY, Ours

from eval.packs.history import accept
from eval.packs.strictness import loosened
from ledger.files import write_jsonl
from ledger.packs import LoadedPack, load_packs

ROOT = Path(__file__).parent.parent
QUEUES = ("billing", "delivery", "returns", "accounts")


def question(number: int, queue: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Message {number} is about {queue}. Which queue?"}]


def correct_some(ours: Ours, numbers: range) -> None:
    """Users ask and correct every answer."""
    for number in numbers:
        queue = QUEUES[number % 4]
        answer = ours.client.chat.completions.create(
            model="support", messages=question(number, queue), max_tokens=4, temperature=0
        )
        body = {"id": answer.id, "correction": queue, "user": f"user-{number}"}
        assert ours.http.post("/feedback", json=body).status_code == 200


def set_gold(ours: Ours, check: Callable[[str], dict[str, str]]) -> None:
    """Write the gold set: for each question, what is right, given what the live version says."""
    [file] = ours.settings.aliases["support"].gate.gold
    rows = []
    for number in range(100, 124):
        messages = question(number, QUEUES[number % 4])
        answer = ours.client.chat.completions.create(
            model="support", messages=messages, max_tokens=4, temperature=0
        )
        said = answer.choices[0].message.content or ""
        checks = [check(said)]
        rows.append(
            {"id": f"gold-{number}", "messages": messages, "checks": checks, "max_tokens": 4}
        )
    write_jsonl(file, rows)
    # What gated a version that went live binds; these tests mean to ask something else now.
    [pack] = configured = load_packs(ours.settings.alias("support").gate)
    bound = ours.store.binding_packs("support").get(pack.pack.name)
    if bound is not None and loosened(LoadedPack.of_content(bound.content), pack):
        accept(
            ours.store, "support", configured, pack.pack.name, who="test", why="another question"
        )


def start(
    ours: Ours, *more: str, config: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """`flywheel retrain support` against the server, in a process of its own."""
    words = [sys.executable, "-m", "flywheel.cli", "-c", str(config or ours.config), "retrain"]
    return subprocess.Popen(
        [*words, "support", "--url", ours.url, *more],
        cwd=ROOT,
        env={**os.environ, "FLYWHEEL_API_KEYS": KEY, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def runs(ours: Ours) -> list[Path]:
    return sorted(file.parent for file in ours.settings.runs.glob("*/run.json"))
