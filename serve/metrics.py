"""Numbers on `/metrics`, beside vLLM's own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ledger.writing.channel import Channel
from serve.adapters import Adapters
from serve.capture import Capture
from serve.pause import Pause


class _Numbers(Collector):
    def __init__(
        self,
        channel: Channel,
        capture: Capture,
        adapters: Adapters,
        pause: Pause,
        aliases: Sequence[str],
    ) -> None:
        self._channel, self._capture, self._pause = channel, capture, pause
        self._adapters, self._aliases = adapters, aliases

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
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
        for name, doc, now in (
            ("backlog_records", "Records not known to be committed", channel.backlog_records),
            ("backlog_bytes", "Memory that they take", channel.backlog_bytes),
            ("writer_up", "1 while the writer has the log open", int(writer.ready)),
            ("paused", "1 while requests are refused for a training", int(paused)),
            ("ledger_failing_seconds", "How long the log cannot be written; 0: it can", failing),
        ):
            yield GaugeMetricFamily(f"flywheel_{name}", doc, value=now)
        share = GaugeMetricFamily(
            "flywheel_share", "Percent of an alias's traffic", labels=["alias", "version"]
        )
        for alias in self._aliases:
            state = self._adapters.deployment(alias)
            if state is None:
                continue
            share.add_metric([alias, self._adapters.name(alias, state.live)], 100 - state.share)
            if state.candidate is not None:
                share.add_metric([alias, self._adapters.name(alias, state.candidate)], state.share)
        yield share


def register(
    channel: Channel,
    capture: Capture,
    adapters: Adapters,
    pause: Pause,
    aliases: Sequence[str],
) -> None:
    """Show the numbers of this server."""
    REGISTRY.register(_Numbers(channel, capture, adapters, pause, aliases))
