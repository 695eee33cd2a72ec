"""Which packs bind, in the ledger and in whole gates, and past failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSettings
from curate_rows import SYSTEM, add_row
from pack_files import GOLD, loaded, write_gold, write_pack
from test_curate_dataset import correct, questions

from curate.datasets import build as builds
from curate.datasets import reasons, select
from eval import results as stored
from eval.fake import FakeServer
from eval.gate import run_gate
from eval.packs import history
from eval.packs.failures import failures
from eval.replay import replay
from eval.verdict import GateReport
from ledger import packs
from ledger.deployments import Deployments
from ledger.errors import GoldError, UsageError
from ledger.packs import LoadedPack
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_gold(tmp_path, range(50))
    return tmp_path


# -- what binds ------------------------------------------------------------------------------------


class Ground:
    """A ledger in which gates, promotions and packs happen at times of our own."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.now = 1000.0
        from ledger import clock

        monkeypatch.setattr(clock, "_source", self.tick)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def gate(self, version: int, *configured: LoadedPack) -> None:
        """Judge a version by what holds, as `run_gate` does."""
        held = history.held_to(self.store, "support", configured)
        history.take_up(self.store, "support", held, who="gate")
        packs = {one.loaded.pack.name: one.loaded.pack_hash for one in held}
        self.store.add_evaluation(
            Evaluation(
                run_id=f"run{version}",
                ts=self.tick(),
                alias="support",
                candidate=f"support@v{version}",
                baseline="base",
                verdict="pass",
                report={"packs": packs},
            )
        )

    def promote(self, version: int) -> None:
        Deployments(self.store).promote("support", version, who="operator:ada", why="")

    def held(self, *configured: LoadedPack) -> list[tuple[str, str]]:
        found = history.held_to(self.store, "support", configured)
        return [(one.loaded.pack.name, one.origin) for one in found]


@pytest.fixture
def ground(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(store, monkeypatch)


def test_a_pack_binds_once_its_version_went_live(ground: Ground) -> None:
    strict, loose = loaded(GOLD), loaded(GOLD | {"margin": 0.3})
    ground.gate(1, strict)
    assert ground.held(loose) == [("p", "configured")]  # nothing went live with it
    assert ground.held() == []
    ground.promote(1)
    assert ground.held(strict) == [("p", "configured")]
    assert ground.held() == [("p", "recorded")]  # taken out of the configuration, it still gates
    with pytest.raises(UsageError) as caught:
        ground.held(loose)
    said = str(caught.value)
    assert "the margin was 0.1, now 0.3" in said
    assert "flywheel gate packs accept p --alias support --because" in said
    assert caught.value.exit_code == 2


def test_adding_and_tightening_are_recorded_and_need_no_reason(ground: Ground) -> None:
    tighter = loaded(GOLD | {"margin": 0.05}, GOLD | {"name": "second"})
    ground.gate(1, loaded(GOLD))
    ground.promote(1)
    ground.gate(2, tighter)
    ground.gate(3, tighter)
    actions = [(e.name, e.action, e.who, e.why) for e in ground.store.pack_events("support")]
    assert actions == [("p", "added", "gate", ""), ("p", "tightened", "gate", "")]
    # It binds only from when a version of it is live.
    assert ground.held(loaded(GOLD)) == [("p", "configured")]
    ground.promote(3)
    with pytest.raises(UsageError, match="the set 'second' is gone"):
        ground.held(loaded(GOLD))
    assert [one.pack_hash for one in packs.recorded_packs(ground.store, "support")] == [
        tighter.pack_hash
    ]


def test_loosening_needs_a_reason_and_holds_from_then_on(ground: Ground) -> None:
    strict, loose = loaded(GOLD), loaded(GOLD | {"margin": 0.3})
    ground.gate(1, strict)
    ground.promote(1)
    ground.gate(2, strict)
    for words in ("", "  "):
        with pytest.raises(UsageError, match="--because is missing"):
            history.accept(ground.store, "support", [loose], "p", who="ada", why=words)
    with pytest.raises(UsageError, match="demands no less"):
        history.accept(ground.store, "support", [strict], "p", who="ada", why="x")
    with pytest.raises(UsageError, match="has no pack 'q' in its configuration"):
        history.accept(ground.store, "support", [loose], "q", who="ada", why="x")
    lines = history.accept(
        ground.store, "support", [loose], "p", who="operator:ada", why="questions were doubtful"
    )
    assert lines == ["set 'main': the margin was 0.1, now 0.3"]
    event = ground.store.pack_events("support")[-1]
    assert (event.action, event.who) == ("loosened", "operator:ada")
    assert event.why == "questions were doubtful"
    assert ground.held(loose) == [("p", "configured")]
    # A version that was judged before by the stricter one does not bring it back.
    ground.promote(2)
    assert ground.held(loose) == [("p", "configured")]
    with pytest.raises(UsageError, match=r"the margin was 0\.3, now 0\.4"):
        ground.held(loaded(GOLD | {"margin": 0.4}))


def test_removing_needs_a_reason_and_can_be_undone(ground: Ground) -> None:
    pack = loaded(GOLD)
    ground.gate(1, pack)
    ground.promote(1)
    remove = history.remove
    with pytest.raises(UsageError, match="--because is missing"):
        remove(ground.store, "support", [], "p", who="ada", why="")
    with pytest.raises(UsageError, match="is in the configuration of support"):
        remove(ground.store, "support", [pack], "p", who="ada", why="old")
    with pytest.raises(UsageError, match=r"not bound to a pack 'q'\n.*bound to: p"):
        remove(ground.store, "support", [], "q", who="ada", why="old")
    remove(ground.store, "support", [], "p", who="operator:ada", why="the product is gone")
    assert ground.held() == []
    assert ground.store.pack_events("support")[-1].action == "removed"
    ground.gate(2, pack)
    assert ground.store.pack_events("support")[-1].action == "added"
    ground.promote(2)
    assert ground.held() == [("p", "recorded")]


@pytest.mark.sqlite
def test_what_bound_packs_ask_is_never_trained_on(
    make_settings: MakeSettings, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = Ground(store, monkeypatch)
    asked = questions(3)
    write_gold(folder, [0], messages=[{"role": "user", "content": asked[0]}])
    ground.gate(1, loaded(GOLD))
    ground.promote(1)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    for number, text in enumerate(asked):
        add_row(store, f"r{number}", text, ts=float(number))
        correct(store, f"r{number}", "right")
    # The pack is not in this configuration any more; its question still is a gold question.
    pool = builds.collect(make_settings(), store, "support")
    assert pool.left_out[reasons.GOLD] == ["r0"]


# -- a whole gate, and past failures ---------------------------------------------------------------

Says = Callable[[list[dict[str, Any]]], str]


def right(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"]).split()[-1]


def served(candidate: Says = right, live: Says = right) -> FakeServer:
    return FakeServer({"base": lambda _: "no idea", "support@v1": live, "support@v2": candidate})


def judged(settings: Settings, server: FakeServer, run_dir: Path) -> GateReport:
    return asyncio.run(
        run_gate(
            settings, "support", "support@v2", "support@v1", server.url, "none", run_dir, retries=0
        )
    )


@pytest.mark.sqlite
def test_a_pack_that_was_taken_out_is_still_asked(
    make_settings: MakeSettings, store: Store, folder: Path
) -> None:
    both = make_settings(aliases={"support": {"gate": {"gold": ["gold.jsonl"], "margin": 0.1}}})
    with served() as server:
        assert judged(both, server, folder / "r1").verdict == "pass"
    Deployments(store).promote("support", 2, who="operator:ada", why="")
    (folder / "gold.jsonl").unlink()  # as it would be for good
    none = make_settings(aliases={"support": {"gate": {"concurrency": 4}}})
    with FakeServer(
        {"base": lambda _: "no", "support@v1": right, "support@v2": lambda _: "wrong"}
    ) as server:
        report = judged(none, server, folder / "r2")
    assert report.verdict == "fail"
    assert [(one.pack, one.name, one.margin) for one in report.sets] == [("gold", "gold", 0.1)]
    results = stored.load(folder / "r2", store)
    assert [pack.origin for pack in results.packs] == ["recorded"]
    loose = make_settings(aliases={"support": {"gate": {"gold": ["gold.jsonl"], "margin": 0.2}}})
    write_gold(folder, range(50))
    with served() as server:
        with pytest.raises(UsageError, match=r"the margin was 0\.1, now 0\.2"):
            judged(loose, server, folder / "r3")
        assert server.seen == []


@pytest.mark.sqlite
def test_without_a_required_set_nothing_passes(make_settings: MakeSettings, folder: Path) -> None:
    write_pack("p", GOLD | {"role": "guard"})
    only_guards = make_settings(aliases={"support": {"gate": {"packs": ["p.yaml"]}}})
    with served() as server:
        with pytest.raises(GoldError, match="no set of support's gate packs is required"):
            judged(only_guards, server, folder / "r1")
        assert server.seen == []


LONG = "You can send it back within thirty days, and we will pay for the parcel. " * 4
FAILURES = {"name": "past", "kind": "failures", "role": "informative"}


@pytest.fixture
def failed(
    make_settings: MakeSettings, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """An alias with forty corrected rows of forty users, almost half of them held out."""
    monkeypatch.setattr(select, "LEAST_TO_HOLD_OUT", 10)  # so few rows are trained on whole
    write_pack("p", GOLD, FAILURES)
    settings = make_settings(
        aliases={"support": {"gate": {"packs": ["p.yaml"], "resamples": 1000}}},
        curate={"dataset": {"heldout_share": 0.45}, "acceptance": {"new_subject_hours": 0}},
    )
    for number, text in enumerate(questions(40)):
        add_row(store, f"r{number:02}", text, ts=float(number), subject=f"subject{number}")
        correct(store, f"r{number:02}", LONG if number % 10 == 0 else f"queue{number % 3}")
    builds.build(settings, store, "support", folder / "one")
    return settings


def split(folder: Path) -> dict[str, str]:
    from ledger import dataset

    return {line["row_id"]: line["split"] for line in dataset.open_parts(folder / "dataset")}


@pytest.mark.sqlite
def test_past_failures_are_what_was_held_out_and_never_trained_on(
    failed: Settings, store: Store, folder: Path
) -> None:
    rules = loaded(GOLD, FAILURES).pack.sets[1]
    assert isinstance(rules, packs.FailureSet)
    found = failures(store, "support", rules, run_dir=None, judged=True)
    held = {row_id for row_id, where in split(folder / "one").items() if where == "heldout"}
    assert {q.id for q in found.questions} == held
    assert len(held) > 8
    for asked in found.questions:
        assert asked.messages[0] == SYSTEM
        assert asked.slice == "no cluster"
        assert asked.conversation
        long = int(asked.id[1:]) % 10 == 0
        assert (asked.checks == []) == long == (asked.reference is not None)
    without = failures(store, "support", rules, run_dir=None, judged=False)
    assert without.left_out == sum(not q.checks for q in found.questions)
    assert len(without.questions) + without.left_out == len(held)
    newest = rules.model_copy(update={"most": 3})
    few = failures(store, "support", newest, run_dir=None, judged=True)
    assert [q.id for q in few.questions] == sorted(held)[-3:]
    # Another dataset that trains on one of them takes it out for good.
    text = (folder / "one/dataset/pairs.jsonl").read_text()
    one = sorted(held)[0]
    lines = text.split("\n")
    moved = [
        line.replace('"split": "heldout"', '"split": "train"') if f'"{one}"' in line else line
        for line in lines
    ]
    (folder / "run/dataset").mkdir(parents=True)
    (folder / "run/dataset/pairs.jsonl").write_text("\n".join(moved))
    (folder / "run/dataset/manifest.json").write_bytes(
        (folder / "one/dataset/manifest.json").read_bytes()
    )
    later = failures(store, "support", rules, run_dir=folder / "run", judged=True)
    assert {q.id for q in later.questions} == held - {one}


@pytest.mark.sqlite
def test_texts_of_users_are_sealed_and_a_replay_does_without_the_forgotten(
    failed: Settings, store: Store, folder: Path
) -> None:
    def learned(messages: list[dict[str, Any]]) -> str:
        said = str(messages[-1]["content"])
        return right(messages) if said.startswith("Say") else "queue1"

    with served(candidate=learned) as server:
        report = judged(failed, server, folder / "r1")
    main, past = report.sets
    assert (report.verdict, main.role, past.role) == ("pass", "required", "informative")
    assert past.fixed
    assert past.broken == []
    assert set(past.slices) == {"no cluster"}
    assert "only a judge could compare them" in report.reasons[-1]
    file = (folder / "r1/eval_results.json").read_text()
    asked = questions(40)
    assert not any(text in file for text in asked)
    for written in (folder / "r1").iterdir():
        content = written.read_bytes()
        assert not any(text.encode() in content for text in asked), written.name
    assert asked[0] not in json.dumps(report.model_dump(mode="json"))
    again = replay(folder / "r1", store)
    assert (again.report, again.differs, again.notes()) == (report, [], [])

    one = past.fixed[0]
    store.forget(f"subject{int(one[1:])}", who="operator:ada", why="asked for it")
    left = replay(folder / "r1", store)
    assert left.forgotten == 1
    assert left.report.sets[1].questions == past.questions - 1
    assert left.report.sets[1].fixed == past.fixed[1:]
    assert left.report.verdict == "pass"
    assert "1 question(s) are of people who were forgotten" in left.notes()[0]
