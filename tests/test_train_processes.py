"""Two processes that share each step: the loss curve of one, one adapter, and a resumption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import freeze_open, make_pairs, tiny_settings
from trainings import ROOT, start

from ledger.settings import Settings
from train.fast.launch import Processes, command
from train.result import TrainResult
from train.sft import train

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]


def of(model: Path, folder: Path, **options: Any) -> tuple[Settings, Path]:
    train = {"epochs": 3, "checkpoint_steps": 4, "processes": 2, "batch_tokens": 512, **options}
    # Not higher: what the order of sums changes in the last digit would grow from step to step.
    train = {"learning_rate": 2e-2, **train}
    settings = tiny_settings(model, folder / "var", train=train)
    held = [pair.model_copy(update={"split": "heldout"}) for pair in make_pairs(60)[40:]]
    freeze_open(folder / "run", alias="support", pairs=[*make_pairs(38), *held], created=0.0)
    return settings, folder / "run"


def begun(settings: Settings, run: Path) -> subprocess.Popen[str]:
    return start(
        settings,
        run,
        run.parent,
        launcher=command(settings),
        environment={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )


def finished(run: Path) -> TrainResult:
    return TrainResult.model_validate_json((run / "train.json").read_text())


def assert_equal(one: Path, other: Path) -> None:
    import torch
    from safetensors.torch import load_file

    first, second = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, other)
    )
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def single(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """One process."""
    settings, run = of(model, tmp_path_factory.mktemp("alone"), processes=1)
    return run, train(settings, run, lambda step: None)


def test_two_processes_have_the_loss_curve_of_one(
    model: Path, single: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    """38 pairs in steps of 8: the last step has 6, and both processes get their part of it."""
    alone, one = single
    settings, run = of(model, tmp_path / "two")
    process = begun(settings, run)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    two = finished(run)
    assert two.loss == pytest.approx(one.loss, rel=1e-4, abs=1e-4)
    assert two.loss[-1] < two.loss[0] - 1
    assert (two.steps, two.tokens, two.best_step) == (one.steps, one.tokens, one.best_step)
    assert two.heldout == pytest.approx(one.heldout, rel=1e-3)
    assert_equal(alone, run)
    # One of them speaks, and writes.
    said = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in said] == [f"{n}/15" for n in range(1, two.steps + 1)]
    assert sorted(p.name for p in (run / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (run / "checkpoints").exists()


def test_two_processes_that_were_killed_go_on_as_if_nothing_had_happened(
    model: Path, single: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    alone, one = single
    settings, run = of(model, tmp_path / "two")
    process = begun(settings, run)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 6/15"):
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (run / "train.json").exists()
    assert (run / "checkpoints" / "checkpoint-4" / "flywheel.json").exists()
    process = begun(settings, run)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    assert "resuming from checkpoint-" in out
    assert finished(run).loss == pytest.approx(one.loss, rel=1e-3)
    assert_equal(alone, run)


_SHARDED = """
import sys
sys.path[:0] = ["tests", "."]
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from test_train_fast import adapted, assert_same, one_by_one, some_rows
from train.fast import setup
from train.fast.launch import full
from train.fast.passes import Collate, Cut
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
model, rows = adapted("Qwen2"), some_rows(13, 7, 30, 130, 2, 30)
loss, grads = one_by_one(model, rows)
setup.prepare(model, kind="none")
for layer in model.get_base_model().base_model.layers:
    fully_shard(layer, mesh=mesh, reshard_after_forward=True)
fully_shard(model, mesh=mesh, reshard_after_forward=True)
given = Collate(Cut(150, processes=2, rank=rank))(rows)
total = torch.zeros(())
for one in given["passes"]:
    part = model(**one) / given["items"] * 2
    part.backward()
    total += part.detach()
dist.all_reduce(total)
assert abs(float(total) / 2 - loss) < 1e-4 * loss, (total, loss)
found = {name: full(p.grad) for name, p in model.named_parameters() if p.requires_grad}
assert_same(found, grads)
print("same", flush=True)
dist.destroy_process_group()
"""


def test_a_base_that_is_shared_by_two_gives_the_gradient_of_a_whole_one() -> None:
    """FSDP itself, on the CPU, round our layers and our loss; accelerate has it for GPUs alone."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--no-python"),
            *(sys.executable, "-c", _SHARDED),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same") == 2


def test_the_command_that_starts_them(model: Path, tmp_path: Path) -> None:
    settings, _ = of(model, tmp_path, processes=1)
    assert command(settings) == [sys.executable, "-m"]
    settings, _ = of(model, tmp_path, processes=4, sharded=True)
    words = command(settings)
    assert words[:4] == [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"]
    assert "--num_processes=4" in words
    assert words[-1] == "-m"


def test_alone_nobody_waits() -> None:
    alone = Processes("cpu")
    assert (alone.count, alone.first, alone.least(7), alone.any(True)) == (1, True, 7, True)
    alone.wait()


def test_the_shipped_configuration_of_accelerate_says_what_the_settings_start(
    model: Path, tmp_path: Path
) -> None:
    """For those who launch over several machines themselves."""
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "configs/accelerate/fsdp.yaml"
    parsed = load_config_from_file(str(file))
    settings, _ = of(model, tmp_path, sharded=True)
    given = dict(w[2:].split("=") for w in command(settings) if w.startswith("--") and "=" in w)
    raw = yaml.safe_load(file.read_text())
    for name, value in raw["fsdp_config"].items():
        assert given[name] == str(value).lower() or given[name] == str(value), name
    assert parsed.distributed_type == "FSDP"
    assert parsed.mixed_precision == given["mixed_precision"]
