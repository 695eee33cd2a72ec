"""What tests of rollouts share: versions that passed, and users who ask and react by the clock."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from kept_rows import make
from test_registry import write_adapter

from flywheel.simulation.engine import write_base
from ledger import clock
from ledger.deployments import Deployments, version_name
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.records import Evaluation, Feedback
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store
from serve.routing import route

DAY = 86_400.0
START = 20_000 * DAY


def version(settings: Settings, store: Store, verdict: str | None = "pass") -> int:
    """Publish a version that fits the model; with a verdict of its gate unless that is None."""
    folder = Path(settings.model.path)
    if not (folder / "config.json").exists():
        write_base(folder)
    registry = Registry(settings.registry)
    with registry.building("support") as (number, lora_id, building):
        write_adapter(building)
        made = registry.publish(
            building,
            {
                "alias": "support",
                "version": number,
                "lora_id": lora_id,
                "base_model": "base",
                "base_fingerprint": base_fingerprint(folder),
                "template_hash": template_hash(folder),
                "rank": 16,
                "dataset_id": "fw1:dataset:1",
                "pairs": 3,
                "run_id": "run",
                "created": clock.now(),
            },
        )
    if verdict is not None:
        store.add_evaluation(
            Evaluation(
                run_id="run",
                ts=clock.now(),
                alias="support",
                candidate=made.name,
                baseline="base",
                verdict=verdict,
                report={},
            )
        )
    return int(number)


class Product:
    """Users of `support`, routed as the server routes them, at a clock that is moved by hand.

    Args:
        a_day: answers a day.
        negatives, edits: rates by version name; `other` for versions not named.

    Attributes:
        sides: (user, stage) with the sides that the user was on.
    """

    def __init__(
        self,
        store: Store,
        *,
        a_day: int = 400,
        users: int = 2000,
        negatives: dict[str, float] | None = None,
        edits: dict[str, float] | None = None,
        seed: int = 3,
    ) -> None:
        self.store, self.now, self.a_day, self.users = store, START, a_day, users
        self.negatives, self.edits = negatives or {}, edits or {}
        self.keep_text = False  # sealing takes time, and most tests read nothing
        self.sides: dict[tuple[str, int], set[str]] = {}
        self.arms: dict[str, list[str]] = {}
        self._draw, self._count = random.Random(seed), 0

    def live(self, days: float, **fields: Any) -> None:
        """Let time pass: users ask and react. `fields` go into each answer of the candidate."""
        state = Deployments(self.store).state("support")
        count, rows, said = round(self.a_day * days), [], []
        for step in range(count):
            at = self.now + (step + self._draw.random()) * days * DAY / count
            user = f"user-{self._draw.randrange(self.users)}"
            chosen = route(state, user)
            name = version_name("support", chosen.version, "base")
            if state.share:
                self.sides.setdefault((user, state.stage_seq), set()).add(chosen.arm)
                self.arms.setdefault(user, []).append(chosen.arm)
            self._count += 1
            row = make(
                f"r{self._count}",
                ts=at,
                version=name,
                arm=chosen.arm,
                deployment=state.seq,
                subject=user,
                latency_ms=100 + 50 * self._draw.random(),
                completion_tokens=2 + self._draw.randrange(4),
                finish_reason="stop",
                stored_text=self.keep_text,
                **(fields if chosen.arm == "candidate" else {}),
            )
            rows.append(row)
            late = at + self._draw.lognormvariate(4, 1.5)
            if self._draw.random() < self.negatives.get(name, 0.0):
                said.append(self._feedback(row.row_id, late, rating="down"))
            elif self._draw.random() < 0.1:
                said.append(self._feedback(row.row_id, late, rating="up"))
            if self._draw.random() < self.edits.get(name, 0.0):
                said.append(self._feedback(row.row_id, late, correction="delivery"))
        self.store.add_interactions(rows)
        with self.store.transaction() as connection:
            for one in said:
                self.store.add_feedback(one, connection)
        self.now += days * DAY

    def _feedback(self, row_id: str, ts: float, **said: Any) -> Feedback:
        self._count += 1
        return Feedback(feedback_id=f"f{self._count}", row_id=row_id, ts=ts, **said)
