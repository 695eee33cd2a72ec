"""Two months of a product in two minutes, by a clock of our own: the real ledger, curation, drift,
triggers, gate and rollout; only the model is simulated (`flywheel.simulation`).

Day 20 brings a product that nobody was trained on, day 35 an operator's bad batch of corrections,
day 45 a replica that is down. Nobody types a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from curate_versions import write_key
from tiny import quiet_settings

from flywheel.simulation.month import START, Lived, Month, Script, write_gold
from flywheel.simulation.world import DAY, World
from ledger.deployments import DeploymentEvent
from ledger.settings import parse
from ledger.store import Firing

pytestmark = pytest.mark.slow

NEW_PRODUCT, BAD_BATCH, REPLICA_DOWN = 20, 35, 45


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sixty")


@pytest.fixture(scope="module")
def months(home: Path) -> Iterator[Month]:
    write_gold(home / "gold.jsonl", 240)
    # Sides and samples are drawn by the ledger's key: each one tells another story. In some, a
    # canary of day 30, with hardly a complaint on either side, is still being tried on day 60.
    write_key(home / "keys/subject.key", "1" * 64)
    settings = parse(quiet_settings(home), name="sixty days")
    script = Script(bad_batch=BAD_BATCH, replica_down=REPLICA_DOWN)
    with Month(settings, World(new_product=NEW_PRODUCT), script, tick_hours=12) as made:
        yield made


@pytest.fixture(scope="module")
def lived(months: Month) -> Lived:
    return months.live(60)


def day(event: DeploymentEvent | Firing) -> float:
    return (event.ts - START) / DAY


def test_no_request_is_lost_and_nobody_moves_within_a_stage(lived: Lived) -> None:
    assert lived.requests > 25_000
    assert (lived.lost, lived.moved) == (0, 0)
    assert lived.passed_over > 20  # the replica was down, and the other one answered


def test_nothing_failed(lived: Lived) -> None:
    assert [step for _, step in lived.steps if step.failed] == []


def test_the_new_product_is_noticed(lived: Lived) -> None:
    noticed = [at for at, step in lived.steps if step.what == "watch" and "drifted" in step.said]
    assert [at for at in noticed if at < NEW_PRODUCT] == []
    assert any(NEW_PRODUCT < at <= NEW_PRODUCT + 2 for at in noticed), noticed


def test_a_targeted_retrain_follows_and_goes_live_through_all_stages(lived: Lived) -> None:
    caused = [
        one
        for one in lived.firings
        if one.decision == "retrain"
        and NEW_PRODUCT < day(one) < BAD_BATCH
        and set(one.triggers) & {"drift", "domain"}
    ]
    assert caused
    assert any("drift" in one.triggers for one in caused), [one.triggers for one in caused]
    for one in caused:
        run = one.outcome("run")
        assert run is not None
        version = int(run.report["version"].rpartition("@v")[2])
        path = [(e.kind, e.share) for e in lived.events if e.version == version]
        assert path == [("candidate", None), ("begin", 25.0), ("expand", 50.0), ("promote", None)]
        assert one.outcome("live") is not None
    before = lived.right[NEW_PRODUCT + 1]
    after = min(lived.right[d] for d in range(BAD_BATCH - 2, BAD_BATCH))
    assert after > before + 0.15


def test_the_bad_batchs_version_stays_out(lived: Lived, months: Month) -> None:
    taught = {name for name, (_, wrong) in months.engine.trained.items() if wrong > 100}
    assert taught, "nothing was trained on the bad batch"
    numbers = {int(name.rpartition("@v")[2]) for name in taught}
    live = {one.version for one in lived.events if one.kind == "promote"}
    back = {o.report.get("version") for f in lived.firings for o in f.outcomes
            if o.kind in ("refused", "rolled_back")}  # fmt: skip
    assert numbers & live == set()
    assert taught <= back


def test_the_last_days_are_better_than_the_first(lived: Lived) -> None:
    first = [lived.right[d] for d in range(5)]
    last = [lived.right[d] for d in range(55, 60)]
    assert sum(last) > sum(first)


def test_every_retrain_is_linked_to_what_came_of_it(lived: Lived) -> None:
    retrains = [one for one in lived.firings if one.decision == "retrain"]
    assert len(retrains) >= 3
    for one in retrains:
        kinds = [o.kind for o in one.outcomes]
        assert kinds[:2] == ["run", "verdict"]
