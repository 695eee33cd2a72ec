"""Numbers on `/metrics`, beside vLLM's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ledger.channel import Channel
from serve.adapters import Adapters
from serve.capture import Capture


class _Numbers(Collector):
    def __init__(
        self, channel: Channel, capture: Capture, adapters: Adapters, aliases: Sequence[str]
    ) -> None:
        self._channel, self._capture = channel, capture
        self._adapters, self._aliases = adapters, aliases

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        channel = self._channel
        for name, doc, value in (
            ("records", "Answers and feedback handed to the log", channel.handed_over),
            ("dropped_records", "Records dropped because the log was full", channel.dropped),
            ("capture_failures", "Answers that could not be recorded", self._capture.failures),
            ("writer_restarts", "Times the log's writer was started again", channel.restarts),
        ):
            yield CounterMetricFamily(f"flywheel_{name}", doc, value=value)
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
    channel: Channel, capture: Capture, adapters: Adapters, aliases: Sequence[str]
) -> None:
    """Show the numbers of this server."""
    REGISTRY.register(_Numbers(channel, capture, adapters, aliases))
