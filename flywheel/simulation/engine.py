"""The one fake: versions that know what their training pairs taught them.

A version answers a question of a topic rightly with a chance that grows with the right pairs of
that topic and falls with wrong ones, from the base model's own chance on:

    p = base + (best - base) · (1 - exp(-right / 12)) · purity²,  purity = right / (right + wrong)

and below the base's where most pairs are wrong. Whether a question is hard is drawn from its words
alone, so two versions fail on mostly the same ones, as real ones do.

Training here counts the pairs of the real, frozen dataset. The version is published in the real
registry, and the real gate asks it over HTTP from `eval.fake`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

from curate.datasets.build import build
from eval.fake import FakeServer
from eval.gate import run_gate
from flywheel.loop.wheel import Turned
from flywheel.simulation.world import NEW_PRODUCT, TOPICS
from ledger import dataset
from ledger.clock import now
from ledger.deployments import Deployments, version_name
from ledger.errors import DatasetError
from ledger.files import write_json
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.registry import ADAPTER_CONFIG, WEIGHTS, Registry
from ledger.settings import Settings
from ledger.store import Store

QUEUES = tuple(topic.queue for topic in (*TOPICS, *NEW_PRODUCT))
_BASE_KNOWS, _BASE_GUESSES, _BEST = 0.9, 0.15, 0.98
_ENOUGH = 12.0
_RANK = 4
# What a queue's questions speak of, so that the fake can tell a question's topic from its words.
_THINGS = {thing: topic.queue for topic in (*TOPICS, *NEW_PRODUCT) for thing in topic.things}

Knowledge = dict[str, float]
"""By queue, the chance of a right answer to one of its questions, 0 to 1."""


def base_knowledge() -> Knowledge:
    """What the base model knows: the old product, hardly the new one."""
    new = {topic.queue for topic in NEW_PRODUCT}
    return {queue: _BASE_GUESSES if queue in new else _BASE_KNOWS for queue in QUEUES}


def learned(right: Counter[str], wrong: Counter[str]) -> Knowledge:
    """What pairs teach; `right` and `wrong` count them by the queue that their question is of."""
    found = {}
    for queue, start in base_knowledge().items():
        seen = right[queue] + wrong[queue]
        purity = right[queue] / seen if seen else 1.0
        gained = (_BEST - start) * (1 - math.exp(-right[queue] / _ENOUGH)) * purity**2
        lost = start * (1 - math.exp(-wrong[queue] / _ENOUGH)) * (1 - purity)
        found[queue] = max(0.02, start + gained - lost)
    return found


def queue_of(text: str) -> str:
    """The queue that a question belongs to."""
    return _THINGS[max((thing for thing in _THINGS if thing in text), key=len)]


def answer(knows: Knowledge, text: str) -> tuple[str, float]:
    """What a version says, and its mean logprob, nats."""
    queue = queue_of(text)
    digest = hashlib.sha256(text.encode()).digest()
    hard = int.from_bytes(digest[:8], "big") / 2**64
    noise = (digest[8] - 128) / 1280
    chance = knows.get(queue, 0.0)
    if hard < chance:
        return queue, -0.15 - 0.3 * hard + noise
    others = [one for one in QUEUES if one != queue]
    return others[digest[9] % len(others)], -0.9 + noise


class SimulatedEngine:
    """Stands where training and vLLM stand; see `flywheel.loop.wheel.Wheel`. Close it after use.

    Args:
        home: folder for the base model's stand-in.

    Attributes:
        url: of the fake server that the gate asks.
        trained: what each version was made of: (right pairs, wrong pairs).
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._registry = Registry(settings.registry)
        self._fake = FakeServer({})
        self.url = self._fake.url
        self.trained: dict[str, tuple[int, int]] = {}
        self._knows: dict[str, Knowledge] = {}
        self._learn(settings.model.name, base_knowledge())
        for alias in settings.aliases:
            self._fake.models[alias] = self._live(alias)

    def close(self) -> None:
        """End the fake server."""
        self._fake.__exit__(None, None, None)

    def say(self, version: str, text: str) -> tuple[str, float]:
        """A version's answer to a user, and its mean logprob, nats."""
        return answer(self._knows[version], text)

    def unfinished(self, alias: str) -> bool:
        """Never: a simulated run is done at once."""
        return False

    def retrain(self, alias: str) -> Turned:
        """Build the real dataset, count what it teaches, publish, and ask the real gate.

        Raises:
            FlywheelError: there is nothing to train on, or the gate cannot be asked.
        """
        settings, store = self._settings, self._store
        deployments = Deployments(store)
        state = deployments.state(alias)
        baseline = version_name(alias, state.live, settings.model.name)
        run = settings.runs / f"run-{int(now())}-{alias}"
        run.mkdir(parents=True)
        build(settings, store, alias, run)
        name, number = self._publish(alias, run, baseline)
        deployments.candidate(alias, number, who="retrain", why=f"run {run.name}")
        report = asyncio.run(run_gate(settings, alias, name, baseline, self.url, "none", run))
        if not report.passed:
            deployments.withdraw(alias, who="gate", why=f"run {run.name}: {report.verdict}")
        return Turned(run.name, name, report.verdict)

    def _publish(self, alias: str, run: Path, parent: str) -> tuple[str, int]:
        """Train on the run's dataset, if counting is training."""
        manifest, pairs = dataset.load(run / "dataset", self._store)
        right, wrong = Counter[str](), Counter[str]()
        for pair in pairs:
            if pair.split != "train":
                continue
            queue = queue_of(str(pair.messages[-2]["content"]))
            (right if pair.messages[-1]["content"] == queue else wrong)[queue] += 1
        if not right and not wrong:
            raise DatasetError("no pair to train on")
        knows = learned(right, wrong)
        folder = Path(self._settings.model.path)
        with self._registry.building(alias) as (number, lora_id, building):
            _write_adapter(building, knows)
            seconds = 0.02 * len(pairs)
            write_json(building / "train.json", {"seconds": seconds, "knows": knows})
            version = self._registry.publish(
                building,
                {
                    "alias": alias,
                    "version": number,
                    "lora_id": lora_id,
                    "base_model": self._settings.model.name,
                    "base_fingerprint": base_fingerprint(folder),
                    "template_hash": template_hash(folder),
                    "rank": _RANK,
                    "dataset_id": manifest.dataset_id,
                    "pairs": manifest.pairs,
                    "parent": parent,
                    "run_id": run.name,
                    "created": now(),
                },
            )
        self.trained[version.name] = (right.total(), wrong.total())
        self._learn(version.name, knows)
        return version.name, number

    def _learn(self, version: str, knows: Knowledge) -> None:
        self._knows[version] = knows
        self._fake.models[version] = lambda messages: answer(knows, _text(messages))[0]
        # Another model has other logprobs; the gate wants to see that it is really there.
        self._fake.offsets[version] = -0.01 * len(self._knows)

    def _live(self, alias: str) -> Any:
        def says(messages: list[dict[str, Any]]) -> str:
            state = Deployments(self._store).state(alias)
            live = version_name(alias, state.live, self._settings.model.name)
            return answer(self._knows[live], _text(messages))[0]

        return says


def _text(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"])


def _write_adapter(folder: Path, knows: Knowledge) -> None:
    """Files of an adapter's form, so that the registry's own checks hold; nobody applies them."""
    import numpy as np
    from safetensors.numpy import save_file

    part = "base_model.model.model.layers.0.mlp.up_proj"
    values = np.array(list(knows.values()), dtype=np.float32)
    save_file(
        {
            f"{part}.lora_A.weight": np.tile(values, (_RANK, 1)),
            f"{part}.lora_B.weight": np.tile(values[:, None], (1, _RANK)),
        },
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    write_json(
        folder / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": _RANK,
            "lora_alpha": 8,
            "target_modules": ["up_proj"],
            "bias": "none",
        },
    )


def write_base(folder: Path) -> None:
    """What stands for the base model's folder: enough to have an identity."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"architectures": ["Simulated"]})
    template = "{{ messages }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
