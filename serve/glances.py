"""What only the ledger knows, for `/metrics`: read by a thread now and then, and kept.

Verdicts of the gate, drift, alerts, what the loop decides and what was spent. Every server of a
ledger shows the same: take the maximum over servers, not the sum.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from ledger.clock import now
from ledger.errors import LedgerError
from ledger.glance import Glance, glance
from ledger.records import DeploymentEvent, Evaluation
from ledger.store import Store

logger = logging.getLogger("flywheel.glances")

# All that can be counted is shown from the start: of a series that begins with 1 Prometheus sees
# no increase.
_KINDS: tuple[str, ...] = get_args(DeploymentEvent.model_fields["kind"].annotation)
_VERDICTS: tuple[str, ...] = get_args(Evaluation.model_fields["verdict"].annotation)
_DECISIONS = ("retrain", "collect")

_COUNTERS = {
    "deployments": ("Deployment events, by kind", "kind"),
    "gate_verdicts": ("Verdicts of the gate", "verdict"),
    "alerts": ("Alerts, by kind", "kind"),
    "decisions": ("Decisions of the loop", "decision"),
    "spent_gpu_seconds": ("Seconds that a GPU or the box was busy with it", "what"),
    "spent_cost": ("What that and paid models cost, where prices are set", "what"),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "stage_seconds": ("How long the stage of a rollout has run, pauses left out", ()),
    "rollout_paused": ("1 while the rollout is paused", ()),
    "rollout_asked": ("1 while a person is asked about the rollout", ()),
    "to_review": ("Answers that wait for a person", ()),
    "loop_timestamp_seconds": ("When the last tick looked at the alias, seconds since 1970", ()),
    "loop_failed": ("1 where the last tick ended with an error", ()),
    "gate_verdict": ("1 for the last verdict on a version that is loaded", ("version", "verdict")),
    "drift": ("1 while a signal has drifted", ("signal",)),
    "drift_score": ("How near to drift the evidence is, 0 to 1", ("signal",)),
    "drift_effect": ("Where a signal is, in its own unit (docs/drift.md)", ("signal",)),
    "drift_limit": ("The effect from which a change matters, in the same unit", ("signal",)),
}


class Glances:
    """Looks at the ledger in a daemon thread.

    Args:
        names: pinned name of an alias's version.
        seconds: time between two looks.
    """

    def __init__(
        self,
        store: Store,
        aliases: Sequence[str],
        names: Callable[[str, int], str],
        *,
        seconds: float,
    ) -> None:
        self._store, self._aliases, self._seconds = store, aliases, seconds
        self._names = names
        self._latest: Mapping[str, Glance] = {}
        self._read = time.monotonic()

    def start(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._run, name="flywheel-glances", daemon=True).start()

    def look(self) -> None:
        """Look once.

        Raises:
            LedgerError: the ledger cannot be read; what was seen before stays.
        """
        self._latest = {alias: glance(self._store, alias) for alias in self._aliases}
        self._read = time.monotonic()

    def _run(self) -> None:
        failing = False
        while True:
            try:
                self.look()
                failing = False
            except LedgerError as error:
                if not failing:
                    logger.error("the ledger cannot be read, metrics stand still: %s", error)
                failing = True
            except Exception:  # a damaged row must not end the looking
                logger.exception("metrics stand still")
            time.sleep(self._seconds)

    def families(self) -> Iterator[Metric]:
        """What was seen last as Prometheus has it; touches no disk, on any thread."""
        latest = self._latest
        age = GaugeMetricFamily(
            "flywheel_ledger_age_seconds", "How long ago this server could read the ledger",
            value=time.monotonic() - self._read,
        )  # fmt: skip
        yield age
        counters = {
            name: CounterMetricFamily(f"flywheel_{name}", doc, labels=("alias", label))
            for name, (doc, label) in _COUNTERS.items()
        }
        gauges = {
            name: GaugeMetricFamily(f"flywheel_{name}", doc, labels=("alias", *labels))
            for name, (doc, labels) in _GAUGES.items()
        }
        for seen in latest.values():
            for name, counts in _counted(seen).items():
                for label, count in counts.items():
                    counters[name].add_metric((seen.alias, label), count)
            resident = {self._names(seen.alias, one) for one in (0, *seen.state.resident)}
            for name, labels, value in _measured(seen, resident):
                gauges[name].add_metric((seen.alias, *labels), value)
        yield from counters.values()
        yield from gauges.values()


def _counted(seen: Glance) -> dict[str, Mapping[str, float]]:
    return {
        "deployments": {kind: seen.changes.get(kind, 0) for kind in _KINDS},
        "gate_verdicts": {verdict: seen.verdicts.get(verdict, 0) for verdict in _VERDICTS},
        "alerts": {**dict.fromkeys(_alert_kinds(seen), 0), **seen.alerts},
        "decisions": {one: seen.decisions.get(one, 0) for one in _DECISIONS},
        "spent_gpu_seconds": {what: one.gpu_seconds for what, one in seen.spent.items()},
        "spent_cost": {
            what: one.cost for what, one in seen.spent.items() if one.cost is not None
        },
    }  # fmt: skip


def _alert_kinds(seen: Glance) -> list[str]:
    told = [f"{kind}:{name}" for name in seen.signals for kind in ("drift", "recovered")]
    return ["new_cluster", *told]


def _measured(seen: Glance, resident: set[str]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Name, labels beside the alias, value."""
    state = seen.state
    yield "stage_seconds", (), state.stage_seconds(now())
    yield "rollout_paused", (), float(state.paused)
    yield "rollout_asked", (), float(state.asked)
    yield "to_review", (), seen.to_review
    if seen.loop is not None:
        yield "loop_timestamp_seconds", (), seen.loop["at"]
        yield "loop_failed", (), float(bool(seen.loop.get("failed")))
    for version, verdict in seen.judged.items():
        if version in resident:
            yield "gate_verdict", (version, verdict), 1.0
    for signal in sorted(seen.drifts.union(seen.signals)):
        yield "drift", (signal,), float(signal in seen.drifts)
    for signal, said in seen.signals.items():
        for name in ("score", "effect", "limit"):
            if said.get(name) is not None:
                yield f"drift_{name}", (signal,), said[name]
