"""Which answers need not be asked again: of the same weights, template, question and sampling.

A name is no identity: `support@v2` of a registry that was made anew, or a base model whose folder
was replaced, would answer otherwise under the same name. So the key of an answer says what the
model is made of. A model of which that is not known is asked each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.client import Answer, Question
from ledger.clock import now
from ledger.deployments import parse_version
from ledger.errors import FlywheelError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import canonical_json, content_hash
from ledger.model import model_folder
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import GateAnswer, Store

#: What each model is made of, `fw1:model:…`, by the name it is asked by.
Identities = Mapping[str, str]

_DAY = 86_400.0
# Options of the server that decide how much it does at once, not what it says.
_CAPACITY = ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "swap_space")
_KIND = "gate-answer"
_FORMAT = 1  # of the fields; another one is asked anew


def identities(settings: Settings, alias: str, models: Iterable[str]) -> dict[str, str]:
    """What each model is made of, as far as it is known here.

    The base model counts by its configuration, its files' sizes and the times they were written
    (weights are not read: that takes minutes for a large one), its chat template, the number
    format, and the server's options in the configuration; a version also by the hashes of its
    adapter. Left out are models that are neither the base nor in the registry.
    """
    try:
        folder = model_folder(settings)
        base: dict[str, Any] = {
            "base": base_fingerprint(folder),
            "written": [
                (path.name, path.stat().st_mtime_ns)
                for path in sorted(folder.glob("*.safetensors"))
            ],
            "template": template_hash(folder),
            "dtype": settings.model.dtype,
            "options": {k: v for k, v in settings.serve.vllm.items() if k not in _CAPACITY},
        }
    except FlywheelError:
        return {}  # the model is on another machine
    registry, found = Registry(settings.registry), {}
    for name in dict.fromkeys(models):
        adapter: dict[str, str] | None = None
        if name != settings.model.name:
            try:
                manifest = registry.get(alias, parse_version(name, alias)).manifest
            except FlywheelError:
                continue
            adapter = {
                file: digest
                for file, digest in manifest.files.items()
                if file.startswith("adapter_")
            }
        found[name] = content_hash("model", {**base, "adapter": adapter})
    return found


class Cache:
    """Answers in the ledger.

    Args:
        days: answers older than that are asked again, and removed.
    """

    def __init__(self, store: Store, alias: str, known: Identities, days: float) -> None:
        self._store, self._alias, self._known = store, alias, known
        self._since = now() - days * _DAY

    def key(self, question: Question) -> str | None:
        """Names an answer; None where it is not known what the model is made of.

        A keyed hash: without the key nobody can try a guessed question on it.
        """
        identity = self._known.get(question.model)
        if identity is None:
            return None
        asked = {
            "format": _FORMAT,
            "model": identity,
            "messages": list(question.messages),
            "tools": list(question.tools or ()),
            "chat_template_kwargs": question.chat_template_kwargs or {},
            "max_tokens": question.max_tokens,
            "sampling": question.sampling._asdict(),  # a sample has a seed of its own
        }
        return self._store.mac(_KIND, canonical_json(asked))

    def find(self, keys: Iterable[str | None]) -> dict[str, Answer]:
        """The answers that are there, marked as such."""
        wanted = sorted({key for key in keys if key is not None})
        found = self._store.gate_answers(wanted, since=self._since)
        return {
            key: Answer.model_validate(fields | {"cached": True}) for key, fields in found.items()
        }

    def keep(self, answers: Iterable[tuple[str, str | None, Answer]]) -> None:
        """Keep answers: the key, the stored row that the question is, the answer."""
        self._store.add_gate_answers(
            self._alias,
            (
                GateAnswer(key, answer.model, row_id, answer.model_dump(exclude={"cached"}))
                for key, row_id, answer in answers
            ),
        )

    def remove_old(self) -> None:
        """Remove answers that are too old to be used."""
        self._store.remove_gate_answers(self._alias, before=self._since)
