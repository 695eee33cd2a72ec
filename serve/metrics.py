"""Numbers on `/metrics`, beside vLLM's own; docs/observability.md lists them.

What this server does and has seen is counted here (`serve.counts`); what only the ledger knows is
read by a thread and kept (`serve.glances`). Showing them touches no disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from ledger.deployments import Deployment
from ledger.writing.channel import Channel
from serve.adapters import Adapters
from serve.capture import Capture
from serve.counts import Counts
from serve.glances import Glances
from serve.pause import Pause

STAGES = ("live", "candidate", "canary")


class Numbers(Collector):
    """All numbers of this server."""

    def __init__(
        self,
        channel: Channel,
        capture: Capture,
        adapters: Adapters,
        pause: Pause,
        counts: Counts,
        glances: Glances,
        aliases: Sequence[str],
    ) -> None:
        self._channel, self._capture, self._pause = channel, capture, pause
        self._counts, self._glances = counts, glances
        self._adapters, self._aliases = adapters, aliases

    def collect(self) -> Iterator[Metric]:
        """The families, in the order in which they are shown."""
        yield from self._log()
        yield from self._deployments()
        yield from self._counts.families()
        yield from self._glances.families()

    def _log(self) -> Iterator[Metric]:
        channel, writer = self._channel, self._channel.numbers
        for name, doc, value in (
            ("records", "Answers and feedback handed to the log", channel.handed_over),
            ("dropped_records", "Records dropped: no room, or deadly to writers", channel.dropped),
            ("unconfirmed_records", "Records a writer died with, not kept", channel.unconfirmed),
            ("capture_failures", "Answers that could not be recorded", self._capture.failures),
            ("rows_written", "Answers stored by the log's writer", writer.rows),
            ("malformed_records", "Records that the writer left out", writer.malformed),
            ("redaction_failures", "Texts not kept: redaction failed", writer.redaction_failures),
            ("refused_while_paused", "Requests answered with 503 in a pause", self._pause.refused),
            ("writer_restarts", "Times the log's writer was started again", channel.restarts),
        ):
            yield CounterMetricFamily(f"flywheel_{name}", doc, value=value)
        paused = self._pause.state != "serving"
        since = writer.failing_since
        failing = 0.0 if since is None else max(0.0, time.time() - since)
        problems = len(self._adapters.problems)
        for name, doc, now in (
            ("backlog_records", "Records not known to be committed", channel.backlog_records),
            ("backlog_bytes", "Memory that they take", channel.backlog_bytes),
            ("writer_up", "1 while the writer has the log open", int(writer.ready)),
            ("paused", "1 while requests are refused for a training", int(paused)),
            ("ledger_failing_seconds", "How long the log cannot be written; 0: it can", failing),
            ("version_problems", "Versions that should be ready and cannot be served", problems),
        ):
            yield GaugeMetricFamily(f"flywheel_{name}", doc, value=now)

    def _deployments(self) -> Iterator[Metric]:
        """What this server does for each alias now, whatever the ledger says."""
        share = GaugeMetricFamily(
            "flywheel_share", "Percent of an alias's traffic", labels=("alias", "version")
        )
        stage = GaugeMetricFamily(
            "flywheel_stage", "1 for the stage that an alias is in", labels=("alias", "stage")
        )
        event = GaugeMetricFamily(
            "flywheel_deployment_event", "Deployment event that is followed", labels=("alias",)
        )
        for alias in self._aliases:
            state: Deployment | None = self._adapters.deployment(alias)
            if state is None:
                continue
            share.add_metric([alias, self._adapters.name(alias, state.live)], 100 - state.share)
            if state.candidate is not None:
                share.add_metric([alias, self._adapters.name(alias, state.candidate)], state.share)
            for one in STAGES:
                stage.add_metric([alias, one], int(state.stage == one))
            event.add_metric([alias], state.seq)
        yield from (share, stage, event)


def register(numbers: Numbers, registry: CollectorRegistry = REGISTRY) -> None:
    """Show the numbers of this server."""
    registry.register(numbers)
