"""The demo that nobody steers: its story, its settings, its report; and a short one for real."""

from __future__ import annotations

import csv
import os
import signal
import threading
from pathlib import Path

import pytest
import yaml
from tiny import embedded_model

from flywheel.demo import hurry
from flywheel.demo.alone import Options, alone
from flywheel.demo.alone_report import AloneReport, Turn
from flywheel.demo.home import fresh_home, own_config
from flywheel.demo.seen import Seen
from flywheel.retrain import steps
from ledger import clock
from ledger.deployments import Deployments
from ledger.errors import UsageError
from ledger.records import Evaluation
from ledger.settings import load
from ledger.store import Store

ROOT = Path(__file__).parent.parent
QUEUES = ("accounts", "billing", "delivery", "returns")


# -- the story -----------------------------------------------------------------------------------


def test_gold_questions_are_about_old_queues_only() -> None:
    story = hurry.make_story(None, None, labels=None, messages=160, gold_size=50)
    assert not set(story.old_labels) & set(story.new_labels)
    assert {one.label for one in story.old} == set(story.old_labels)
    assert {one.label for one in story.new} == set(story.new_labels)
    assert {one.label for one in story.gold} == set(story.old_labels)
    texts = [one.text for part in (story.old, story.new, story.gold) for one in part]
    assert len(texts) == len(set(texts))
    # What the calendar waits for can come from either half.
    assert 0 < story.enough < min(len(story.old), len(story.new))
    assert {story.shifted(label) for label in story.new_labels} == set(story.new_labels)
    assert all(story.shifted(label) != label for label in story.new_labels)


def test_too_few_categories_are_refused(tmp_path: Path) -> None:
    file = messages(tmp_path, QUEUES[:3], 40)
    with pytest.raises(UsageError, match="3 categories are too few"):
        hurry.make_story(file, None, labels=None, messages=220, gold_size=60)
    file = messages(tmp_path, QUEUES, 2)
    with pytest.raises(UsageError, match="too few"):
        hurry.make_story(file, None, labels=None, messages=220, gold_size=60)


def test_its_settings_hold_in_its_own_file_only(tmp_path: Path) -> None:
    story = hurry.make_story(None, None, labels=None, messages=220, gold_size=60)
    config = str(ROOT / "configs/demo.yaml")
    before = load(config)
    home = fresh_home(tmp_path / "demo-loop")
    own, file = own_config(
        config, home, "support", story.gold, hurry.gate("support"), hurry.settings(story)
    )
    assert own.triggers.pairs.count == story.enough
    assert own.triggers.cooldown_hours == 0
    assert [stage.days for stage in own.rollout.stages] == [0, 0]
    assert own.aliases["support"].gate.margin == 0.3
    assert own.aliases["support"].gate.gold == (home / "gold.jsonl",)
    # Merged, not replaced.
    assert own.serve.vllm == before.serve.vllm
    assert own.train.rank == before.train.rank
    assert load(config) == before
    assert load(file) == own
    (home / "there").touch()
    fresh_home(home)
    assert (tmp_path / "demo-loop-previous/there").exists()


# -- what the loop has done ----------------------------------------------------------------------


def test_what_the_loop_did_is_read_from_the_ledger(store: Store) -> None:
    seen, deployments = Seen(store, "support"), Deployments(store)
    assert seen.fired(0) is None
    store.add_firing("support", ("drift",), "collect", {})
    number = store.add_firing("support", ("drift",), "retrain", {})
    firing = seen.fired(0)
    assert firing is not None
    assert firing.seq == number
    assert seen.fired(number) is None

    assert seen.judged(number) is None
    store.add_outcome(number, "run", {"run": "run", "version": "support@v1"})
    assert seen.judged(number) is None
    for name, verdict in (("support@v1", "pass"), ("support@v2", "underpowered")):
        store.add_evaluation(
            Evaluation(run_id="run", ts=clock.now(), alias="support", candidate=name,
                       baseline="base", verdict=verdict, report={"difference": 0.25})
        )  # fmt: skip
    assert seen.judged(number) == ("support@v1", "pass", 0.25)

    assert seen.ended("support@v1") is None
    deployments.candidate("support", 1, who="gate", why="passed")
    deployments.step("begin", "support", 1, 40, who="loop", why="")
    deployments.step("expand", "support", 1, 60, who="loop", why="")
    assert seen.ended("support@v1") is None
    deployments.promote("support", 1, who="loop", why="better")
    ended = seen.ended("support@v1")
    assert ended is not None
    assert (ended.how, ended.why) == ("live", "better")
    assert seen.rolled_back() is None
    deployments.step("begin", "support", 2, 40, who="loop", why="")
    deployments.rollback("support", who="loop", why="worse")
    ended = seen.ended("support@v2")
    assert ended is not None
    assert (ended.how, ended.why, ended.at) == ("rolled_back", "worse", seen.rolled_back())
    assert seen.ended("support@v1") == ("live", deployments.events("support")[3].ts, "better")

    assert not seen.usual("support@v1")
    watch = {"version": "support@v1", "baseline": {"rate": 0.1}, "warm": None}
    with store.transaction() as connection:
        store.save_watches("support", {"edits": watch}, connection, at=clock.now())
    assert not seen.usual("support@v1")
    with store.transaction() as connection:
        store.save_watches("support", {"negatives": watch}, connection, at=clock.now())
    assert seen.usual("support@v1")
    assert not seen.usual("support@v2")


# -- the report ----------------------------------------------------------------------------------


def turn(end: str, *because: str) -> Turn:
    return Turn(
        version="support@v1", because=list(because), decided=1.0, verdict="pass", difference=0.5,
        end=end, ended=2.0, why="", seconds=60.0,
    )  # fmt: skip


def report(turns: list[Turn], **more: object) -> AloneReport:
    values: dict[str, object] = {
        "minute_is_hours": 24.0, "turns": turns, "drift": ["edits drifted"],
        "expected": ["live", "live", "rolled_back"], "noticed": True, "requests": 10,
        "failed_requests": 0, "mixed_version_responses": 0, "rows_logged": 10, "corrections": 5,
        "wrong_corrections": 3, "rollback_seconds": 0.1, "seconds": 600.0, "versions": {},
    }  # fmt: skip
    return AloneReport.model_validate({**values, **more})


def test_a_report_is_sound_where_the_story_went_as_it_had_to() -> None:
    whole = [turn("live", "calendar"), turn("live", "drift"), turn("rolled_back", "calendar")]
    assert report(whole).sound
    assert report([whole[0], turn("refused", "drift"), *whole[1:]]).sound
    assert not report(whole[:2]).sound
    assert not report([whole[0], whole[2], whole[1]]).sound
    assert not report([whole[0], whole[0], whole[2]]).sound  # drift caused nothing
    assert not report(whole, drift=[]).sound
    assert not report(whole, failed_requests=1).sound
    assert not report(whole, mixed_version_responses=1).sound
    assert not report(whole, rows_logged=9).sound
    said = report(whole).table()
    assert "commands typed" in said
    assert "rolled back, day 2.0" in said


# -- its end -------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_who_ends_the_loop_in_a_step_ends_the_loop_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(steps, "ASKED", asked)
    step = steps.Step("train", ["60"], "adapter")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def say(line: str) -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with store.lease("retrain/support", what="retrain of support") as lease:
        running = steps.Steps(tmp_path, lease, say)
        with pytest.raises(steps.Stopped, match="the same command again"):
            running.do(step, launcher=("sleep",))
    assert asked.is_set()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


# -- for real ------------------------------------------------------------------------------------


def messages(folder: Path, queues: tuple[str, ...], each: int) -> Path:
    file = folder / "messages.csv"
    with open(file, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "category"])
        for number in range(each):
            for queue in queues:
                writer.writerow([f"Message {number} is about {queue}. Which queue?", queue])
    return file


@pytest.mark.slow
def test_the_loop_turns_alone_and_goes_back_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real vLLM, real training, `flywheel loop` and users: a version goes live, and one that
    passes the gate and harms users is rolled back. Nothing is typed."""
    monkeypatch.delenv("OMP_NUM_THREADS")  # the demo leaves the server a processor of its own
    # The tiny model has no language to learn queues with.
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    config["var"] = str(tmp_path / "var")
    config["model"]["path"] = str(embedded_model())
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    options = Options(
        labels=4,
        messages=48,
        gold_size=16,
        every="1s",
        new_product=False,
        more={
            # 16 questions exclude no loss; what they pass is not what is asked here.
            "aliases": {"support": {"gate": {"margin": 0.5}}},
            "train": {"epochs": 6},
            "triggers": {"calendar": {"days": 0.1}},
            "rollout": {"stages": [{"share": 50, "days": 0, "events": 50, "feedback": 5}]},
        },
        patience=900,
    )
    said: list[str] = []
    done = alone(str(file), options, said.append)
    assert done.sound, (done, said)
    first, *_, last = done.turns
    assert (first.end, last.end) == ("live", "rolled_back")
    assert last.verdict == "pass"
    assert last.difference is not None
    assert "calendar" in first.because
    assert done.commands == 0
    assert done.rollback_seconds < 5
    assert clock.lapse() is None  # time is the real one again
    own = load(tmp_path / "var/demo-loop/config.yaml")
    store = Store.open(own)
    events = Deployments(store).events("support")
    assert {event.who for event in events if event.kind != "candidate"} == {"loop"}
    # The loop goes on until it is stopped: what comes next may have begun already.
    [back] = [event for event in events if event.kind == "rollback"]
    assert "times as many" in back.why
    firings = [one for one in store.firings("support") if one.decision == "retrain"]
    assert len(firings) >= len(done.turns)
    store.close()
    assert any("TIME LAPSE" in line for line in (own.var / "loop.log").read_text().splitlines())
    assert yaml.safe_load((own.var / "config.yaml").read_text())["triggers"]["calendar"]
