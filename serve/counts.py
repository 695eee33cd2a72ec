"""What this server has seen since its start, by alias and version: for `/metrics`.

Everything is a few additions on the event loop, so that no answer waits for it. The number of
series is bounded: an alias of the configuration or none, and a version that the server has ready;
any other is `other`, and what a version that it has no longer had is let go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from ledger.records import is_negative
from serve.capture import opens_prompt

OTHER = "other"
LABELS = ("alias", "version")

#: Upper bounds, nats. The mean logprob of an answer is at most 0.
NATS = (
    -8, -4, -3, -2, -1.5, -1, -0.7, -0.5, -0.35, -0.25, -0.15, -0.1, -0.05, -0.02, -0.005, 0,
)  # fmt: skip
#: Upper bounds, seconds.
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
#: How an answer can end, in vLLM's words, and `disconnected`: the client went away.
FINISHES = ("stop", "length", "tool_calls", "abort", "error", "disconnected")


class _Buckets:
    """A histogram with fixed bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        names = [*(format(bound, "g") for bound in self._bounds), "+Inf"]
        counts = accumulate(list(self._counts))
        # Of negative values prometheus_client shows no sum: it would be a counter that falls.
        family.add_metric(labels, list(zip(names, counts, strict=True)), self._sum)


class _Series:
    """What was seen of one version under one alias."""

    def __init__(self) -> None:
        self.requests = self.feedback = self.negatives = self.edits = 0
        self.finished: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.logprob, self.latency = _Buckets(NATS), _Buckets(SECONDS)


class Counts:
    """The counts.

    Args:
        aliases: of the configuration.
        serves: whether a pinned name is one that this server has ready.
    """

    def __init__(self, aliases: Collection[str], serves: Callable[[str], bool]) -> None:
        self._aliases, self._serves = frozenset(aliases), serves
        self._series: dict[tuple[str, str], _Series] = {}

    def requested(self, alias: str | None, version: str) -> None:
        """A request is on its way to a version; `alias` is None where it named the version."""
        self._of(alias, version).requests += 1

    def answered(self, record: dict[str, Any]) -> None:
        """An answer was recorded; see `serve.capture.Answer.records`."""
        series = self._of(record["alias"], record["version"])
        finish = record["finish_reason"]
        series.finished[finish if finish in FINISHES else OTHER] += 1
        series.tokens["completion"] += record["completion_tokens"]
        if opens_prompt(record):
            series.tokens["prompt"] += record["prompt_tokens"]
        if record["mean_logprob"] is not None:
            series.logprob.add(record["mean_logprob"])
        series.latency.add(record["latency_ms"] / 1e3)

    def reacted(self, alias: str | None, version: str, given: Any) -> None:
        """New feedback was committed.

        Args:
            alias, version: of the answer that it is about.
            given: anything with the fields of `ledger.records.Feedback`.
        """
        series = self._of(alias, version)
        series.feedback += 1
        series.negatives += is_negative(given)
        series.edits += given.correction is not None

    def _of(self, alias: str | None, version: str) -> _Series:
        known = alias if alias in self._aliases else ""
        key = (known or "", version if self._serves(version) else OTHER)
        return self._series.setdefault(key, _Series())

    def families(self) -> Iterator[Metric]:
        """The counts as Prometheus has them; may be called on any thread."""
        now = self._series.copy()
        for key in now:
            if key[1] != OTHER and not self._serves(key[1]):
                self._series.pop(key, None)
        shown = {key: one for key, one in now.items() if key in self._series}
        for name, doc in (
            ("requests", "Requests for an answer, by the version that they were sent to"),
            ("feedback", "Pieces of feedback, by the version that had answered"),
            ("negatives", "Negative ones among them"),
            ("edits", "Corrections by users among them"),
        ):
            family = CounterMetricFamily(f"flywheel_{name}", doc, labels=LABELS)
            for key, series in shown.items():
                family.add_metric(key, getattr(series, name))
            yield family
        for name, doc, what, label in (
            ("answers", "Recorded answers, by how they ended", "finished", "finish"),
            ("tokens", "Tokens of recorded answers, prompt and completion", "tokens", "kind"),
        ):
            family = CounterMetricFamily(f"flywheel_{name}", doc, labels=(*LABELS, label))
            for key, series in shown.items():
                for value, count in getattr(series, what).copy().items():
                    family.add_metric((*key, value), count)
            yield family
        for name, doc, what in (
            ("mean_logprob", "Mean logprob of an answer's tokens, nats", "logprob"),
            ("latency_seconds", "From a request's arrival to the end of its answer", "latency"),
        ):
            histogram = HistogramMetricFamily(f"flywheel_{name}", doc, labels=LABELS)
            for key, series in shown.items():
                getattr(series, what).add_to(histogram, key)
            yield histogram
