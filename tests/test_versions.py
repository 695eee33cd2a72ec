"""Lineage, why a version was turned away, and letting the weights of such versions go."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from conftest import MakeSettings
from test_cli import Run, run  # noqa: F401  (a fixture)
from tiny import write_config
from versions_made import SETS, judge, make_version, promote, write_model

from flywheel import versions as looked
from flywheel.running import free_port
from ledger import clock
from ledger.deployments import Deployments
from ledger.errors import RegistryError, UsageError
from ledger.registry import TRAINING_DATA, WEIGHTS, Registry, Version
from ledger.registry.prune import prune
from ledger.registry.verify import verify_alias
from ledger.settings import Settings
from ledger.store import Spent, SpentOn, Store

DAY = 86_400.0


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    write_model(tmp_path / "model")
    return make_settings(serve={"port": free_port()})


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    return write_config(settings, tmp_path / "config.yaml")


def history(settings: Settings, store: Store) -> list[Version]:
    """Seven versions: retired, rejected by the gate, rolled back, replaced, previous, live, new."""
    deployments = Deployments(store)

    def make(seed: int, parent: str | None) -> Version:
        return make_version(settings, store, created=clock.now(), parent=parent, seed=seed)

    one = make(1, None)
    judge(store, one, "pass", ts=clock.now(), sets=SETS)
    promote(store, one)
    two = make(2, "support@v1")
    deployments.candidate("support", 2, who="retrain", why="run run-2")
    judge(store, two, "fail", ts=clock.now(), reasons=["it is worse on queues"])
    deployments.withdraw("support", who="gate", why="run run-2: fail")
    three = make(3, "support@v1")
    judge(store, three, "pass", ts=clock.now())
    deployments.share("support", 3, 5, who="test", why="")
    deployments.rollback("support", who="rollout", why="more negatives")
    four = make(4, "support@v1")
    judge(store, four, "pass", ts=clock.now())
    deployments.candidate("support", 4, who="retrain", why="")
    five = make(5, "support@v1")
    judge(store, five, "pass", ts=clock.now())
    deployments.candidate("support", 5, who="retrain", why="")
    promote(store, five)
    six = make(6, "support@v5")
    judge(store, six, "pass", ts=clock.now())
    promote(store, six)
    return [one, two, three, four, five, six, make(7, "support@v6")]


STATES = ["retired", "rejected", "rejected", "superseded", "previous", "live", "waiting"]


@pytest.mark.sqlite
def test_lineage_says_what_each_version_is_and_why(settings: Settings, store: Store) -> None:
    history(settings, store)
    found = looked.versions(settings, store, "support")
    assert [row["state"] for row in found] == STATES
    assert [row["role"] for row in found] == [None] * 4 + ["previous", "live", None]
    assert [row["parent"] for row in found][:2] == [None, "support@v1"]
    assert found[0]["scores"] == {
        "main/queues": {"candidate": 0.9, "baseline": 0.5},
        "main/general": {"candidate": 0.75, "baseline": 0.8},
    }
    assert found[1]["why"] == [
        "withdrawn by gate: run run-2: fail",
        "gate: fail: it is worse on queues",
    ]
    assert found[2]["why"] == ["rolled back by rollout: more negatives"]
    assert found[3]["why"] == ["support@v5 took its place"]
    assert {row["dataset"][:12] for row in found} == {"fw1:dataset:"}
    text = looked.versions_text("support", found).splitlines()
    names = [line[: line.index("@v") + 3] for line in text if "@v" in line[:18]]
    assert names == [
        "support@v1",
        "├ support@v2",
        "├ support@v3",
        "├ support@v4",
        "└ support@v5",
        "  └ support@v6",
        "  └ support@v7",
    ]
    assert "main/general 75%" in "\n".join(text)
    assert "it is worse on queues" in "\n".join(text)


@pytest.mark.sqlite
def test_one_version_tells_all_that_is_known_of_it(settings: Settings, store: Store) -> None:
    history(settings, store)
    found = looked.show(settings, store, "support", "v2")
    assert [event["kind"] for event in found["events"]] == ["candidate"]
    assert [note["kind"] for note in found["notes"]] == ["published"]
    text = looked.show_text(found)
    for part in ("support@v2", "rejected", "support@v1", found["dataset"], "it is worse on queues"):
        assert part in text
    card = looked.card(settings, store, "support", "1")
    assert "- name: support@v1" in card
    assert "| main/queues | 90.0% | 50.0% |" in card
    assert "promote by test: it passed" in card
    assert "Pending" not in card
    with pytest.raises(RegistryError, match="is not in the registry"):
        looked.show(settings, store, "support", "9")
    with pytest.raises(UsageError, match="base model"):
        looked.show(settings, store, "support", "base")


@pytest.mark.sqlite
def test_a_hundred_versions_in_a_line_are_a_list(settings: Settings, store: Store) -> None:
    row = {
        "state": "retired", "created": 1.0, "origin": None, "pairs": 1, "dataset": "fw1:dataset:a",
        "verdict": "pass", "score": None, "scores": {}, "why": [], "signed": False, "pruned": None,
    }  # fmt: skip
    rows = [
        {**row, "version": f"support@v{n}", "parent": f"support@v{n - 1}" if n > 1 else None}
        for n in range(1, 2001)
    ]
    assert max(map(len, looked.versions_text("support", rows).splitlines())) < 100


# -- pruning -------------------------------------------------------------------------------


def test_only_what_was_turned_away_long_ago_is_let_go(settings: Settings, store: Store) -> None:
    made = history(settings, store)
    registry, later = Registry.of(settings), clock.now() + 100 * DAY
    assert prune(registry, store, "support", older_than=90 * DAY, who="test").pruned == []
    with clock.at(lambda: later):
        dry = prune(registry, store, "support", older_than=90 * DAY, who="test", dry_run=True)
        assert [one.version for one in dry.pruned] == ["support@v2", "support@v3", "support@v4"]
        assert all((version.path / WEIGHTS).exists() for version in made)
        done = prune(
            registry, store, "support", older_than=90 * DAY, who="test", loaded=["support@v3"]
        )
        assert [one.version for one in done.pruned] == ["support@v2", "support@v4"]
        assert done.kept == {"support@v3": "a server has it loaded"}
        again = prune(registry, store, "support", older_than=90 * DAY, who="test")
        assert [one.version for one in again.pruned] == ["support@v3"]
        assert prune(registry, store, "support", older_than=90 * DAY, who="test").pruned == []
    there = [(version.path / WEIGHTS).exists() for version in made]
    assert there == [True, False, False, False, True, True, True]
    # A tombstone: it says what it was, is whole as far as it goes, and keeps its number.
    rows = looked.versions(settings, store, "support")
    assert [row["state"] for row in rows] == STATES
    assert rows[1]["pruned"] == later
    assert rows[1]["why"][1] == "gate: fail: it is worse on queues"
    assert (made[1].path / TRAINING_DATA).exists()
    assert "Not judged" not in looked.card(settings, store, "support", "2")
    state = Deployments(store).state("support")
    assert [one.problems for one in verify_alias(settings, store, "support", state)] == [[]] * 7
    facts = made[1].manifest
    with pytest.raises(RegistryError, match="support@v2 was pruned"):
        registry.servable("support", 2, fingerprint=facts.base_fingerprint, max_rank=4)
    eighth = make_version(settings, store, seed=8).manifest
    assert (eighth.version, eighth.lora_id) == (8, 8)
    assert registry.incomplete() == []


@pytest.mark.sqlite
def test_what_a_kill_left_half_pruned_is_finished(settings: Settings, store: Store) -> None:
    made = history(settings, store)
    registry = Registry.of(settings)
    # As after a kill between the note and the file.
    registry.write_pruned_note("support", 2, {"ts": 1.0, "who": "", "why": "", "files": [WEIGHTS]})
    state = Deployments(store).state("support")
    assert verify_alias(settings, store, "support", state, 2)[0].problems == []
    with clock.at(lambda: made[1].manifest.created + DAY):
        done = prune(registry, store, "support", older_than=3600, who="test")
    assert "support@v2" in [one.version for one in done.pruned]
    assert not (made[1].path / WEIGHTS).exists()


@pytest.mark.sqlite
def test_a_version_that_was_just_taken_back_cannot_be_pruned(
    settings: Settings, store: Store
) -> None:
    with pytest.raises(UsageError, match="younger than an hour"):
        prune(Registry.of(settings), store, "support", older_than=0, who="test")


@pytest.mark.sqlite
def test_a_verdict_overtakes_what_came_before(settings: Settings, store: Store) -> None:
    """Judged anew and passed, it waits; a candidate again, it is one."""
    history(settings, store)
    deployments = Deployments(store)
    deployments.candidate("support", 3, who="test", why="once more")
    states = [row["state"] for row in looked.versions(settings, store, "support")]
    assert states[2] == "candidate"
    deployments.share("support", 3, 50, who="test", why="")
    assert looked.versions(settings, store, "support")[2]["state"] == "canary"


# -- the command line ------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_commands(run: Run, settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    assert "has no versions yet" in run("versions").out
    with closing(Store.open(settings)) as store:
        made = history(settings, store)
    by_name = run("versions", "support", "--json").json
    assert by_name == run("versions", "--json").json == run("versions", "list", "--json").json
    assert [row["state"] for row in by_name] == STATES
    assert run("versions", "show", "support@v2", "--json").json["why"]
    assert run("versions", "show", "2").out.startswith("support@v2\n")
    assert run("versions", "show", "2", "--card").out.startswith("---\n")
    assert run("versions", "show", "two").code == 2
    assert run("versions", "sales").code == 1
    said = run("verify", "--json")
    assert (said.code, [one["problems"] for one in said.json]) == (0, [[]] * 7)
    (made[0].path / WEIGHTS).write_bytes(b"other")
    said = run("verify", "support")
    assert said.code == 1
    assert "support@v1: DIFFERS" in said.out
    assert WEIGHTS in said.out
    assert "support@v2: ok" in said.out
    assert run("verify", "--version", "2").code == 0
    assert run("verify", "--version", "9").code == 1
    assert run("sign", "--version", "2").code == 1
    said = run("prune", "--older-than", "90d", "--dry-run")
    assert (said.code, said.out.strip()) == (0, "0.0 MiB would be freed")
    assert run("prune", "--older-than", "soon").code == 2
    assert run("prune", "--older-than", "0h").code == 2
    place = tmp_path / "place"
    said = run("push", "support", str(place), "--json")
    assert (said.json["version"], said.json["without_data"]) == ("support@v6", True)
    assert "was there already" in run("push", "support", str(place)).out
    said = run("pull", "support", str(place), "--as-new", "--json")
    assert (said.json["version"], said.json["new"]) == ("support@v6", False)
    assert run("pull", "support", str(tmp_path / "nothing")).code == 1
    assert run("pull", "support").code == 1


# -- what was spent ------------------------------------------------------------------------------


def test_spending_says_on_which_version_and_how_long(store: Store) -> None:
    store.add_spending("support", "training", "base", Spent(1, 0, 0, None, 60.0), version="s@v1")
    store.add_spending("support", "training", "base", Spent(1, 0, 0, 2.0, 30.0), version="s@v2")
    store.add_spending("support", "teacher", "big", Spent(3, 10, 5, 0.5))
    found = store.spending_by_version("support")
    assert found == {
        SpentOn("teacher", "big", None): Spent(3, 10, 5, 0.5, 0.0),
        SpentOn("training", "base", "s@v1"): Spent(1, 0, 0, None, 60.0),
        SpentOn("training", "base", "s@v2"): Spent(1, 0, 0, 2.0, 30.0),
    }
    assert store.spending("support")["training", "base"] == Spent(2, 0, 0, None, 90.0)
    assert store.spending_by_version("support", since=clock.now() + 1) == {}


def test_notes_of_versions(store: Store) -> None:
    for _ in range(2):  # made once, whatever is repeated
        store.note_version("support", 1, "published", "fw1:version:1", who="publish", why="run a")
    store.note_version("support", 1, "pushed", "fw1:version:1", who="ada", why="hf://team/support")
    store.note_version("sales", 1, "published", "fw1:version:2", who="publish")
    found = store.version_notes("support")
    assert [(note.kind, note.why) for note in found[1]] == [
        ("published", "run a"),
        ("pushed", "hf://team/support"),
    ]
    assert json.loads(json.dumps(found[1][0]._asdict()))["who"] == "publish"
