"""A retrain that is killed, with SIGKILL, at any moment of any stage, and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import make_tiny_home, serving
from retrains import ROOT, correct_some, set_gold, start
from safetensors.numpy import load_file
from servers import Ours, wait_for

from flywheel import bound
from flywheel.retrain import folder
from flywheel.retrain.steps import Step, Steps, Stopped
from ledger import clock
from ledger.errors import LeaseLost, UsageError
from ledger.files import read_json
from ledger.settings import Settings
from ledger.store import Store

# Loaded by every Python process that the retrain starts. Before a file gets its name it kills the
# retrain's own process, and itself unless the step is to find itself without a parent.
DEADLY = """
import os, re, signal, sys

def deadly(event, arguments):
    if event == "os.rename" and re.search(os.environ["DIE_BEFORE"], str(arguments[1])):
        first = not os.path.exists(arguments[1])
        if ("once" in os.environ["DIE_HOW"]) and first:
            return
        with open(os.environ["DIE_NOTE"], "w") as note:
            note.write(str(os.getpid()))
        os.kill(int(open(os.environ["DIE_PID"]).read()), signal.SIGKILL)
        if "orphan" not in os.environ["DIE_HOW"]:
            os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("DIE_BEFORE"):
    sys.addaudithook(deadly)
"""
# Where it dies: the name that a file is about to get, and how.
MOMENTS = [
    (r"runs/[^/]+/run\.json$", ""),
    (r"dataset/manifest\.json$", ""),  # all pairs are written
    (r"steps/curate\.json$", ""),  # the step is done, nobody wrote it down
    (r"checkpoint-\d+/flywheel\.json$", "orphan"),  # the trainer lives when its parent dies
    (r"runs/[^/]+/train\.json$", ""),
    (r"registry/support/v\d+$", ""),
    (r"runs/[^/]+/publish\.json$", ""),  # the version is there, the run does not know
    (r"eval_results\.json$", ""),
    (r"runs/[^/]+/run\.json$", "once it is there"),  # the verdict is in, the run has no end
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """A server of these tests alone: what others leave behind would be trained on here."""
    yield from serving(make_tiny_home(tmp_path_factory.mktemp("own")), tmp_path_factory)


@pytest.mark.slow
def test_a_retrain_killed_at_every_stage_ends_as_if_nothing_had_been(
    ours: Ours, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    correct_some(ours, range(200, 232))
    set_gold(ours, lambda said: {"type": "regex", "value": "(?s).*"})
    known = (
        {run.name for run in ours.settings.runs.iterdir()} if ours.settings.runs.exists() else set()
    )
    versions = len(ours.registry.versions("support"))
    pid, note = tmp_path / "pid", tmp_path / "note"
    one_thread = {"OMP_NUM_THREADS": "1"}
    for moment, (pattern, how) in enumerate(MOMENTS):
        note.unlink(missing_ok=True)
        process = start(
            ours,
            PYTHONPATH=str(tmp_path),
            DIE_BEFORE=pattern,
            DIE_HOW=how,
            DIE_PID=str(pid),
            DIE_NOTE=str(note),
            **one_thread,
        )
        pid.write_text(str(process.pid))
        said, _ = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"{pattern}: {said}"
        if how == "orphan":
            trainer = int(note.read_text())
        elif moment == 4:
            # It began while the trainer of the killed one may have lived: that one ended first.
            assert "resuming from checkpoint" in said
            assert not psutil.pid_exists(trainer)
        if moment == 2:
            correct_some(ours, range(300, 303))  # too late for a dataset that is frozen
    last = start(ours, "--json", **one_thread)
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said

    [run] = [
        one
        for one in ours.settings.runs.iterdir()
        if one.name not in known and (one / "run.json").exists()
    ]
    ended = read_json(run / "run.json")
    assert ended["verdict"] == "pass"
    made = ours.registry.versions("support")[versions:]
    assert [one.name for one in made] == [ended["version"]]
    ours.registry.verify(made[0])
    manifest = read_json(run / "dataset" / "manifest.json")
    assert made[0].manifest.dataset_id == manifest["dataset_id"]
    frozen = {found.dataset_id for found in ours.store.datasets("support")}
    assert manifest["dataset_id"] in frozen
    rows = (run / "dataset" / "pairs.jsonl").read_text().splitlines()
    assert len(rows) == manifest["pairs"]
    verdicts = [row for row in ours.store.evaluations("support").values() if row.run_id == run.name]
    assert len(verdicts) == 1
    events = [
        event.kind
        for event in ours.deployments.events("support")
        if event.version == made[0].manifest.version
    ]
    assert events == ["candidate"]
    assert ours.store.leases_held() == []

    # The same dataset, trained in one go.
    whole = tmp_path / "whole"
    shutil.copytree(run / "dataset", whole / "dataset")
    words = [sys.executable, "-m", "train.sft", "--config", str(ours.config), "--run", str(whole)]
    subprocess.run(
        words, cwd=ROOT, env={**os.environ, **one_thread}, check=True, capture_output=True
    )
    killed, not_killed = (read_json(one / "train.json") for one in (run, whole))
    assert killed["steps"] == not_killed["steps"]
    assert killed["recipe"] == not_killed["recipe"]
    weights, expected = (
        load_file(one / "adapter" / "adapter_model.safetensors") for one in (run, whole)
    )
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))


# -- processes that end with their parent --------------------------------------------------------

# Starts a worker of its own, as a launcher of several processes does.
FAMILY = """
import subprocess, sys, time
words = [sys.executable, "-c", "import time; time.sleep(600)"]
worker = subprocess.Popen(words, start_new_session=True)
open(sys.argv[1], "w").write(f"{worker.pid}")
time.sleep(600)
"""
PARENT = """
import subprocess, sys
from pathlib import Path
from flywheel import bound
words = bound.command(Path(sys.argv[1]), [sys.executable, "-c", sys.argv[2], sys.argv[3]])
subprocess.Popen(words, stdin=subprocess.PIPE).wait()
"""


def test_a_killed_parent_takes_all_that_it_started_with_it(tmp_path: Path) -> None:
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    words = [sys.executable, "-c", PARENT, str(lock), FAMILY, str(ready)]
    parent = subprocess.Popen(words, cwd=ROOT)
    wait_for(lambda: ready.exists() and ready.read_text(), "the worker", 30)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == 3  # the binder, the step, its worker
    assert all(int(Path(f"/proc/{one.pid}/oom_score_adj").read_text()) == 1000 for one in family)
    with (
        pytest.raises(UsageError, match=r"still runs: it holds .*lock"),
        bound.nothing_left(lock, seconds=0.1),
    ):
        pass
    parent.kill()
    parent.wait()
    with bound.nothing_left(lock, seconds=30):
        assert [
            one
            for one in family
            if one.is_running() and one.status() != "zombie" and one.pid != family[0].pid
        ] == []


def test_a_killed_binder_takes_its_step_with_it(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    words = bound.command(tmp_path / "lock", [sys.executable, "-c", FAMILY, str(ready)])
    binder = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE)
    wait_for(lambda: ready.exists() and ready.read_text(), "the worker", 30)
    step, worker = psutil.Process(binder.pid).children(recursive=True)
    binder.kill()
    binder.wait()
    assert binder.stdin is not None
    binder.stdin.close()
    wait_for(lambda: not step.is_running() or step.status() == "zombie", "the step's end")
    worker.kill()  # nobody was left to do it


@pytest.mark.parametrize(("code", "wanted"), [("raise SystemExit(7)", 7), ("pass", 0)])
def test_exit_codes_come_through(tmp_path: Path, code: str, wanted: int) -> None:
    words = bound.command(tmp_path / "lock", [sys.executable, "-c", code])
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE)
    assert process.wait(30) == wanted
    process.communicate()


def test_a_request_to_end_reaches_the_step(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    words = bound.command(tmp_path / "lock", [sys.executable, "-c", code])
    binder = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert binder.stdout is not None
    assert binder.stdout.readline() == "up\n"
    binder.terminate()
    assert binder.wait(30) == 130
    binder.communicate()


# -- steps and runs --------------------------------------------------------------------------------


def test_a_finished_step_is_not_done_again_and_an_unnoted_one_is(
    store: Store, tmp_path: Path
) -> None:
    said: list[str] = []
    (tmp_path / "tally.py").write_text(
        "import pathlib\nf = pathlib.Path('made.json')\n"
        "f.write_text(str(int(f.read_text() or 0) + 1) if f.exists() else '1')\n"
    )
    step = Step("count", [str(tmp_path / "tally.py")], made="made.json")
    with store.lease("retrain/support", what="retrain") as lease:
        os.chdir(tmp_path)
        try:
            steps = Steps(tmp_path, lease, said.append)
            for _ in range(2):
                assert steps.do(step, launcher=[sys.executable]) == 0
            assert (tmp_path / "made.json").read_text() == "1"
            (tmp_path / "steps" / "count.json").unlink()  # killed before it was written down
            steps.do(step, launcher=[sys.executable])
            assert (tmp_path / "made.json").read_text() == "2"
            wrong = Step("wrong", ["-c", "raise SystemExit(3)"], made="never")
            with pytest.raises(Stopped, match="wrong stopped with exit code 3") as caught:
                steps.do(wrong, launcher=[sys.executable])
            assert caught.value.exit_code == 3
        finally:
            os.chdir(ROOT)
    assert "count    done before" in said


def test_who_lost_the_lease_ends_its_step(store: Store, tmp_path: Path) -> None:
    with store.lease("retrain/support", what="retrain", holder="we", seconds=0.6) as lease:
        # Our heart stood still, and somebody took over.
        moment = clock.now() + 100
        with clock.at(lambda: moment):
            store.take_lease("retrain/support", "retrain", "they", 3600)
        steps = Steps(tmp_path, lease, lambda line: None)
        started = time.monotonic()
        with pytest.raises(LeaseLost, match="they"):
            steps.do(Step("long", ["-c", "import time; time.sleep(600)"], made="x"))
        with pytest.raises(LeaseLost):
            steps._wait([sys.executable, "-c", "import time; time.sleep(600)"])
        assert time.monotonic() - started < 20


def test_a_run_that_was_begun_is_found_and_one_that_ended_is_not(settings: Settings) -> None:
    assert folder.unfinished(settings, "support") is None
    first = folder.begin(settings, "support")
    assert folder.unfinished(settings, "support") == first
    assert folder.unfinished(settings, "billing") is None
    folder.finish(first, "support@v1", "pass", {"train": 1.0})
    assert folder.unfinished(settings, "support") is None
    assert json.loads((first / "run.json").read_text())["verdict"] == "pass"
    cut_off = settings.runs / "2026-01-01_00h00m00s-support"
    cut_off.mkdir()  # killed before the note was written: nothing is in it
    second = folder.begin(settings, "support")
    assert second not in (first, cut_off)


def test_two_at_once_make_one_run(ours: Ours) -> None:
    """Two commands that start together: one is told who has the alias, and trains nothing."""
    with ours.store.lease("retrain/support", what="retrain of support", holder="another box"):
        said, _ = (process := start(ours)).communicate(timeout=300)
        assert process.returncode == 2
        assert "another retrain of support is running: another box, since 20" in said
