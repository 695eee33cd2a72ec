"""Memory of a training: measured, refused with the numbers, kept to, and never the server's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.errors import ConfigError
from ledger.settings import Settings
from ledger.settings.train import Train
from train import room
from train.progress import StepReport

ROOT = Path(__file__).parent.parent
GIB = 2**30


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    there = room.Room("cuda", 10 * GIB, 80 * GIB, ("VLLM::EngineCore (process 7): 60.0 GiB",))
    there.require(10 * GIB)
    with pytest.raises(ConfigError) as caught:
        there.require(24 * GIB)
    said = str(caught.value)
    assert "needs about 24.0 GiB, 10.0 of 80.0 GiB of GPU memory are free for it" in said
    assert "held by VLLM::EngineCore (process 7): 60.0 GiB" in said
    for setting in ("train.batch_size", "train.gradient_checkpointing", "train.server_share"):
        assert setting in said


def test_what_is_free_here_is_less_than_there_is() -> None:
    found = room.measure(Train(reserve_gib=0), "cpu")
    assert 0 < found.free <= found.total
    assert found.total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kept_back = room.measure(Train(reserve_gib=1e6), "cpu")
    assert kept_back.free == 0


def test_a_control_groups_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room, "_own_group", lambda controller: "/box/train")
    (tmp_path / "cgroup.controllers").write_text("memory")
    inner, outer = tmp_path / "box/train", tmp_path / "box"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text(f"{GIB}\n")
    (outer / "memory.max").write_text(f"{4 * GIB}\n")
    (outer / "memory.current").write_text(f"{3 * GIB}\n")
    # What was read from files can be dropped: it is not in the way.
    (outer / "memory.stat").write_text(f"anon {GIB}\ninactive_file {2 * GIB}\n")
    assert list(room._groups()) == [(4 * GIB, GIB)]
    free, total = room._free_ram()
    assert free <= 3 * GIB
    assert total <= 4 * GIB


# In a process of its own: a limit cannot be raised again by everybody.
HUNGRY = """
import sys, torch
from ledger.settings import Settings
from ledger.settings.train import Train
from train import room
from train.progress import StepReport
torch.ones(1) @ torch.ones(1)
room._free_ram = lambda: (256 * 2**20, 2**30)
try:
    with room.kept(Train(reserve_gib=0), "cpu") as there:
        small = torch.ones(100 * 2**20 // 4)
        print("fits", int(small.sum()) > 0, there.free // 2**20)
        big = [torch.ones(100 * 2**20 // 4) for _ in range(10)]
        print("not kept")
except room.OutOfRoom as error:
    print("refused", error.exit_code)
    print(error)
print(open("/proc/self/oom_score_adj").read().strip())
more = torch.ones(600 * 2**20 // 4)
print("free again")
"""


def test_a_training_is_kept_to_what_was_free_and_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["fits True 256", "refused 1"], done.stderr
    assert "ran out of memory" in done.stdout
    assert "train.batch_size" in done.stdout
    assert "run the same command: it resumes" in done.stdout
    assert lines[-2:] == ["1000", "free again"]


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), room.kept(Train(), "cpu"):
        raise RuntimeError("shape mismatch")


def test_a_training_that_does_not_fit_says_so_and_goes_on_with_smaller_batches(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import freeze_open, make_pairs, one_thread, tiny_settings

    from ledger.files import read_json
    from train.sft import train

    def settings(**changes: object) -> Settings:
        options = {"epochs": 1, "batch_size": 4, "checkpoint_steps": 1, "patience": 0, **changes}
        return tiny_settings(model, tmp_path / "var", train=options, privacy={"seal": False})

    run = tmp_path / "run"
    freeze_open(run, alias="support", pairs=make_pairs(16), created=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(room, "_free_ram", lambda: (GIB // 100, GIB))
        patch.setattr(room, "_largest", lambda: ("server (process 7): 0.9 GiB",))
        with pytest.raises(ConfigError) as caught:
            train(settings(), run)
    said = str(caught.value)
    assert "GiB are free" in said
    assert "server (process 7): 0.9 GiB" in said

    def out_of_memory(report: StepReport) -> None:
        if report.step == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with one_thread():
        with pytest.raises(room.OutOfRoom, match="ran out of memory"):
            train(settings(), run, out_of_memory)
        assert not (run / "train.json").exists()
        seen: list[int] = []
        smaller = settings(batch_size=2, accumulation=2)
        done = train(smaller, run, lambda report: seen.append(report.step))
        whole = tmp_path / "whole"
        shutil.copytree(run / "dataset", whole / "dataset")
        straight = train(settings(), whole)
    assert seen[0] == 2  # from the checkpoint of the first step
    assert done.recipe == straight.recipe
    assert done.steps == straight.steps == 4
    assert done.loss[-1] == pytest.approx(straight.loss[-1], abs=1e-3)
    assert read_json(run / "train.json")["settings"]["batch_size"] == 2
