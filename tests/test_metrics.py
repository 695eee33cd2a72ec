"""`/metrics`: what is counted, what comes from the ledger, how many series there can be."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from kept_rows import make
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from servers import Ours, wait_for

from ledger.clock import now
from ledger.deployments import Deployment, Deployments, version_name
from ledger.glance import LOOP, ROLLOUT, SIGNALS, glance, remember
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Spent, Store
from ledger.writing.frames import Numbers as Written
from serve.counts import NATS, Counts
from serve.glances import Glances
from serve.metrics import Numbers, register

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def read(text: str) -> Samples:
    """Samples by name and labels, of our families alone."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("flywheel_"):
            assert family.documentation
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    labels = tuple(sorted(sample.labels.items()))
                    found.setdefault(sample.name, {})[labels] = sample.value
    return found


def at(found: Samples, name: str, **labels: str) -> float | None:
    return found.get(f"flywheel_{name}", {}).get(tuple(sorted(labels.items())))


class Shown(Collector):
    """A part of the numbers alone."""

    def __init__(self, part: Counts | Glances) -> None:
        self.collect = part.families  # type: ignore[method-assign]


def shown(part: Counts | Glances) -> Samples:
    registry = CollectorRegistry()
    registry.register(Shown(part))
    return read(generate_latest(registry).decode())


def record(**more: Any) -> dict[str, Any]:
    fields = {"alias": "support", "version": "base", "choice": 0, "prompt_index": 0, "body": {}}
    fields |= {"prompt_tokens": 7, "completion_tokens": 3, "mean_logprob": -0.4}
    return fields | {"finish_reason": "stop", "latency_ms": 150.0} | more


def said(**more: Any) -> SimpleNamespace:
    names = ("rating", "score", "regenerate", "report", "success", "correction")
    return SimpleNamespace(**{**dict.fromkeys(names), **more})


# -- what a server counts --------------------------------------------------------------------


def test_counts_are_by_alias_and_version() -> None:
    counts = Counts(["support"], {"base", "support@v1"}.__contains__)
    counts.requested("support", "support@v1")
    counts.requested(None, "support@v1")
    counts.answered(record(version="support@v1"))
    counts.answered(record(version="support@v1", mean_logprob=-2.5, finish_reason="length"))
    counts.answered(record(mean_logprob=None))
    counts.reacted("support", "support@v1", said(rating="down"))
    counts.reacted("support", "support@v1", said(correction="delivery"))
    counts.reacted("support", "base", said(rating="up"))
    found = shown(counts)
    v1 = {"alias": "support", "version": "support@v1"}
    base = {"alias": "support", "version": "base"}
    assert at(found, "requests_total", **v1) == 1
    assert at(found, "requests_total", alias="", version="support@v1") == 1
    assert [at(found, f"{name}_total", **v1) for name in ("feedback", "negatives", "edits")] == [
        2, 1, 1,
    ]  # fmt: skip
    assert [at(found, f"{name}_total", **base) for name in ("feedback", "negatives")] == [1, 0]
    assert at(found, "answers_total", **v1, finish="length") == 1
    assert at(found, "tokens_total", **v1, kind="prompt") == 14
    assert at(found, "mean_logprob_bucket", **v1, le="-2") == 1
    assert at(found, "mean_logprob_bucket", **v1, le="-0.35") == 2
    assert at(found, "mean_logprob_bucket", **v1, le="+Inf") == 2
    assert at(found, "mean_logprob_bucket", **base, le="+Inf") == 0
    assert at(found, "latency_seconds_count", **base) == 1
    assert at(found, "latency_seconds_sum", **base) == pytest.approx(0.15)


def test_choices_share_the_tokens_of_their_prompt() -> None:
    counts = Counts(["support"], {"base"}.__contains__)
    for prompt in (0, 1):
        for choice in (0, 1):
            made = {"prompt_index": prompt, "choice": 2 * prompt + choice, "body": {"n": 2}}
            counts.answered(record(**made))
    found = shown(counts)
    labels = {"alias": "support", "version": "base"}
    assert at(found, "tokens_total", **labels, kind="prompt") == 2 * 7
    assert at(found, "tokens_total", **labels, kind="completion") == 4 * 3


def test_nobody_can_make_series_and_old_versions_leave() -> None:
    ready = {"base", "support@v1"}
    counts = Counts(["support"], ready.__contains__)
    for number in range(500):
        counts.requested(None, f"made-up-{number}")
        counts.requested(f"alias-{number}", "base")
        counts.reacted("support", f"support@v{number + 2}", said(rating="down"))
        counts.answered(record(finish_reason=f"odd-{number}"))
    counts.requested("support", "support@v1")
    found = shown(counts)
    assert at(found, "requests_total", alias="", version="other") == 500
    assert at(found, "requests_total", alias="", version="base") == 500
    assert at(found, "feedback_total", alias="support", version="other") == 500
    assert sum(len(one) for one in found.values()) < 6 * (len(NATS) + 30)
    ready.remove("support@v1")
    later = shown(counts)
    assert at(later, "requests_total", alias="support", version="support@v1") is None
    assert at(later, "feedback_total", alias="support", version="other") == 500


# -- what the ledger knows -------------------------------------------------------------------


def name(alias: str, version: int) -> str:
    return version_name(alias, version, "base")


def glances(store: Store) -> Glances:
    return Glances(store, ["support"], name, seconds=60)


def test_an_empty_ledger_shows_every_count_as_nothing_yet(store: Store) -> None:
    seen = glances(store)
    seen.look()
    found = shown(seen)
    assert at(found, "gate_verdicts_total", alias="support", verdict="fail") == 0
    assert at(found, "deployments_total", alias="support", kind="rollback") == 0
    assert at(found, "decisions_total", alias="support", decision="retrain") == 0
    assert at(found, "rollout_asked", alias="support") == 0
    assert at(found, "loop_timestamp_seconds", alias="support") is None
    age = at(found, "ledger_age_seconds")
    assert age is not None
    assert 0 <= age < 60


def test_the_ledger_is_shown_as_it_stands(settings: Settings, store: Store) -> None:
    deployments = Deployments(store)
    deployments.promote("support", 1, who="ada", why="first")
    store.add_interactions([make("r1", version="support@v1")])
    for candidate, verdict in (
        ("support@v1", "pass"),
        ("support@v2", "fail"),
        ("support@v9", "fail"),
    ):
        store.add_evaluation(
            Evaluation(run_id="run", ts=now(), alias="support", candidate=candidate,
                       baseline="base", verdict=verdict, report={})
        )  # fmt: skip
    deployments.step("begin", "support", 2, 5.0, who="loop", why="a test")
    deployments.mark("ask", "support", who="loop", why="too long")
    signal = {"state": "drift", "score": 1.0, "effect": 0.2, "limit": 0.15, "low": 0.16}
    remember(store, "support", SIGNALS, {"signals": {"negatives": signal}}, at=5.0)
    remember(store, "support", LOOP, {"failed": ["no server"]}, at=1234.5)
    with store.transaction() as connection:
        for kind in ("drift:negatives", "drift:edits", "recovered:edits"):
            store.add_alert("support", kind, {}, connection, at=1.0, since=0.0, until=1.0)
    store.add_firing("support", ("drift",), "retrain", {})
    store.add_spending(
        "support", "training", "base", Spent(1, 9, 0, 0.5, 60.0), version="support@v2"
    )
    store.add_spending("support", "gate", "base", Spent(1, 9, 9, None, 6.0), version="support@v2")

    seen = glances(store)
    seen.look()
    found = shown(seen)
    alias = {"alias": "support"}
    assert at(found, "gate_verdicts_total", **alias, verdict="fail") == 2
    assert at(found, "gate_verdict", **alias, version="support@v2", verdict="fail") == 1
    assert at(found, "gate_verdict", **alias, version="support@v1", verdict="pass") == 1
    assert at(found, "gate_verdict", **alias, version="support@v9", verdict="fail") is None
    assert at(found, "deployments_total", **alias, kind="begin") == 1
    assert at(found, "rollout_asked", **alias) == 1
    assert at(found, "drift", **alias, signal="negatives") == 1
    assert at(found, "drift", **alias, signal="edits") is None  # it is back, and not watched
    assert at(found, "drift_effect", **alias, signal="negatives") == 0.2
    assert at(found, "drift_limit", **alias, signal="negatives") == 0.15
    assert at(found, "alerts_total", **alias, kind="drift:edits") == 1
    assert at(found, "decisions_total", **alias, decision="retrain") == 1
    assert at(found, "loop_timestamp_seconds", **alias) == 1234.5
    assert at(found, "loop_failed", **alias) == 1
    assert at(found, "spent_gpu_seconds_total", **alias, what="gate") == 6
    assert at(found, "spent_cost_total", **alias, what="training") == 0.5
    assert at(found, "spent_cost_total", **alias, what="gate") is None  # no price is no zero


def test_what_a_rollout_waits_for_ends_with_its_stage(store: Store) -> None:
    deployments = Deployments(store)
    began = deployments.step("begin", "support", 1, 5.0, who="loop", why="a test")
    remember(store, "support", ROLLOUT, {"stage": began.after.stage_seq, "said": "hold"}, at=9.0)
    looked = glance(store, "support").rollout
    assert looked is not None
    assert (looked["said"], looked["at"]) == ("hold", 9.0)
    deployments.step("expand", "support", 1, 50.0, who="loop", why="a test")
    assert glance(store, "support").rollout is None


def test_a_ledger_that_cannot_be_read_leaves_what_was_seen_and_ages(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import serve.glances
    from ledger.errors import LedgerError

    seen = glances(store)
    seen.look()

    def broken(*_: Any) -> None:
        raise LedgerError("the disk is gone")

    monkeypatch.setattr(serve.glances, "glance", broken)
    with pytest.raises(LedgerError):
        seen.look()
    start = time.monotonic()
    monkeypatch.setattr(serve.glances, "time", SimpleNamespace(monotonic=lambda: start + 400))
    found = shown(seen)
    assert (at(found, "ledger_age_seconds") or 0) >= 399
    assert at(found, "gate_verdicts_total", alias="support", verdict="fail") == 0


# -- all of it ---------------------------------------------------------------------------------


def numbers(store: Store, counts: Counts, seen: Glances) -> Numbers:
    """Of a server that follows a canary; the real one is below."""
    state = Deployment("support", seq=7, history=(0, 1), candidate=2, share=5.0, stage_seq=7)
    channel = SimpleNamespace(
        numbers=Written(ready=True, rows=3), handed_over=4, dropped=1, unconfirmed=0, restarts=0,
        backlog_records=0, backlog_bytes=0,
    )  # fmt: skip
    adapters = SimpleNamespace(problems={}, deployment=lambda _: state, name=name)
    pause: Any = SimpleNamespace(state="serving", refused=0)
    capture: Any = SimpleNamespace(failures=0)
    ends: Any = (channel, capture, adapters, pause)
    return Numbers(*ends, counts, seen, ["support"])


@pytest.mark.sqlite
def test_the_state_of_a_canary(store: Store) -> None:
    registry = CollectorRegistry()
    counts = Counts(["support"], {"base"}.__contains__)
    register(numbers(store, counts, glances(store)), registry)
    found = read(generate_latest(registry).decode())
    assert at(found, "share", alias="support", version="support@v1") == 95
    assert at(found, "share", alias="support", version="support@v2") == 5
    assert at(found, "stage", alias="support", stage="canary") == 1
    assert at(found, "stage", alias="support", stage="live") == 0
    assert at(found, "deployment_event", alias="support") == 7
    assert at(found, "dropped_records_total") == 1


def test_a_real_server_shows_them_beside_vllms_own(ours: Ours) -> None:
    def now_shown() -> Samples:
        answer = ours.http.get(ours.url.removesuffix("/v1") + "/metrics")
        assert "vllm:" in answer.text
        return read(answer.text)

    labels = {"alias": "support"}
    live = name_of(ours)
    labels["version"] = live
    before = now_shown()
    was = {
        one: at(before, f"{one}_total", **labels) or 0
        for one in ("requests", "feedback", "negatives", "edits")
    }
    seen = at(before, "mean_logprob_bucket", **labels, le="+Inf") or 0
    question = [{"role": "user", "content": "Which queue?"}]
    answers = [
        ours.client.chat.completions.create(
            model="support", messages=question, max_tokens=3, temperature=0  # type: ignore[arg-type]
        )
        for _ in range(3)
    ]  # fmt: skip
    for one, words in (
        (answers[0], {"rating": "down"}),
        (answers[0], {"rating": "down"}),  # again: it is kept, and counted, once
        (answers[1], {"correction": "delivery"}),
        (answers[2], {"rating": "up"}),
    ):
        said = ours.http.post("/feedback", json={"id": one.id, **words})
        assert said.status_code == 200
        assert set(said.json()) == {"object", "id", "row", "duplicate"}

    found = now_shown()
    assert at(found, "requests_total", **labels) == was["requests"] + 3
    assert at(found, "mean_logprob_bucket", **labels, le="+Inf") == seen + 3
    assert at(found, "feedback_total", **labels) == was["feedback"] + 3
    assert at(found, "negatives_total", **labels) == was["negatives"] + 1
    assert at(found, "edits_total", **labels) == was["edits"] + 1
    assert at(found, "share", **labels) == 100
    assert at(found, "stage", alias="support", stage="live") == 1
    assert at(found, "dropped_records_total") is not None

    # What only the ledger knows comes within `serve.metrics_seconds`.
    remember(ours.store, "support", LOOP, {"failed": []}, at=77.0)
    wait_for(
        lambda: at(now_shown(), "loop_timestamp_seconds", alias="support") == 77.0,
        "the tick on /metrics",
        seconds=20,
    )


def name_of(ours: Ours) -> str:
    state = ours.deployments.state("support")
    return version_name("support", state.live, ours.settings.model.name)
