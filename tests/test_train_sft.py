"""Real trainings of a tiny Qwen3 with TRL and PEFT on the CPU."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tiny import make_pairs, tiny_settings, write_config
from trainings import new_run, same, start

from ledger.errors import ConfigError, DatasetError, FlywheelError
from ledger.settings import Settings
from train import order
from train.progress import StepReport
from train.report import refusal
from train.result import TrainResult
from train.sft import main, train

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> Settings:
    return tiny_settings(model, tmp_path / "var", train={"epochs": 3, "checkpoint_steps": 4})


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """One training that was not interrupted: 40 pairs, 4 held out, 3 epochs of 5 steps."""
    folder = tmp_path_factory.mktemp("trained")
    settings = tiny_settings(model, folder / "var", train={"epochs": 3, "checkpoint_steps": 4})
    held = [pair.model_copy(update={"split": "heldout"}) for pair in make_pairs(44)[40:]]
    run = new_run(folder / "run", [*held[:2], *make_pairs(40), *held[2:]])
    steps: list[StepReport] = []
    found = train(settings, run, steps.append)
    assert [step.step for step in steps] == list(range(1, 16))
    assert [step.loss for step in steps] == found.loss
    assert all(step.steps == 15 and step.tokens_per_second > 0 for step in steps)
    return run, found


def test_training_learns_and_says_what_it_did(trained: tuple[Path, TrainResult]) -> None:
    run, found = trained
    assert found.loss[-1] < found.loss[0] - 1, found.loss
    assert (found.steps, found.pairs, len(found.loss)) == (15, 40, 15)
    assert found.sources == {"operator": 14, "user": 26}
    assert found.tokens == 3 * found.lengths["total"]
    assert found.end_of_turn == "<|im_end|>"
    assert found.hardware["packed"] is True
    assert found.hardware["pass_tokens"] >= found.lengths["max"]
    # The process has Python and the libraries in its memory beside what was estimated.
    assert 0 < found.hardware["estimated_peak_gib"] < found.hardware["peak_gib"]
    assert found.heldout is not None
    assert found.heldout["pairs"] == 4
    assert found.heldout["after"] < found.heldout["before"] - 1
    assert TrainResult.model_validate_json((run / "train.json").read_text()) == found
    assert sorted(p.name for p in (run / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (run / "checkpoints").exists()


def test_the_adapter_names_the_base_and_no_folder_of_this_machine(
    trained: tuple[Path, TrainResult], model: Path
) -> None:
    run, _ = trained
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    for file in (run / "adapter" / "adapter_config.json", run / "train.json"):
        assert str(model) not in file.read_text()


def test_a_seed_gives_one_adapter_and_a_finished_run_is_not_trained_again(
    trained: tuple[Path, TrainResult], settings: Settings, tmp_path: Path
) -> None:
    first, found = trained
    # Without the pairs that were held out there: they changed nothing.
    run = new_run(tmp_path / "run", make_pairs(40))
    again = train(settings, run, lambda step: None)
    assert again.loss == pytest.approx(found.loss, rel=1e-4)
    assert again.heldout is None
    assert same(first, run)

    def never(step: StepReport) -> None:
        raise AssertionError("trained twice")

    assert train(settings, run, never) == again
    other = new_run(tmp_path / "run", make_pairs(41))
    with pytest.raises(DatasetError, match="new run"):
        train(settings, other, never)


def test_interrupted_and_resumed_it_ends_as_if_nothing_had_happened(
    trained: tuple[Path, TrainResult], settings: Settings, tmp_path: Path
) -> None:
    whole, found = trained
    run = new_run(tmp_path / "run", make_pairs(40))
    process = start(settings, run, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 6/15"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not (run / "train.json").exists()
    saved = sorted((run / "checkpoints").glob("checkpoint-*/flywheel.json"))
    last = max(json.loads(file.read_text())["step"] for file in saved)
    assert 6 <= last < 15
    # One cut off while it was written has no marker and must not be used.
    torn = run / "checkpoints" / "checkpoint-14"
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").write_text('{"global_step": 14')

    process = start(settings, run, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert f"resuming from checkpoint-{last} of 15 steps" in lines
    assert [line.split()[1] for line in lines if line.startswith("step ")] == [
        f"{step}/15" for step in range(last + 1, 16)
    ]
    assert err == ""
    again = TrainResult.model_validate_json((run / "train.json").read_text())
    assert (again.steps, again.tokens) == (found.steps, found.tokens)
    assert again.loss == pytest.approx(found.loss, rel=1e-3)
    assert same(whole, run)


def test_a_checkpoint_of_other_settings_is_not_resumed(
    settings: Settings, model: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", make_pairs(16))

    class Enough(Exception):
        pass

    def stop_after(step: StepReport) -> None:
        if step.step == 5:
            raise Enough

    with pytest.raises(Enough):
        train(settings, run, stop_after)
    assert (run / "checkpoints" / "checkpoint-4" / "flywheel.json").exists()
    changed = tiny_settings(model, tmp_path / "var", train={"epochs": 3, "seed": 18})
    steps: list[int] = []
    train(changed, run, lambda step: steps.append(step.step))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_what_cannot_be_trained_on_stops_it_or_is_left_out_by_name(
    model: Path, tmp_path: Path
) -> None:
    pairs = make_pairs(16)
    pairs[3] = pairs[3].model_copy(update={"template_hash": "fw1:template:old"})
    settings = tiny_settings(model, tmp_path / "var", train={"epochs": 1})
    run = new_run(tmp_path / "run", pairs)
    with pytest.raises(DatasetError, match="1 of 16 pairs") as refused:
        train(settings, run)
    assert "chatcmpl-003" in str(refused.value)
    assert refusal(run) == refused.value.problem
    assert not (run / "checkpoints").exists()
    found = train(settings, run, lambda step: None, leave_out=True)
    assert found.pairs == 15
    assert refusal(run) == ""
    assert list(found.left_out["served with another chat template"]) == ["chatcmpl-003"]


def test_too_few_pairs_says_how_many_more(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Collect 5 more"):
        train(settings, new_run(tmp_path / "run", make_pairs(3)))
    with pytest.raises(DatasetError, match="Collect 8 more"):
        train(settings, new_run(tmp_path / "empty", []))


def test_bad_input_is_named(
    settings: Settings, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", make_pairs(8))
    missing = tiny_settings(tmp_path / "nothing", tmp_path / "var")
    with pytest.raises(ConfigError, match="no such folder"):
        train(missing, run)
    head = tiny_settings(model, tmp_path / "var", train={"target_modules": ["q_proj", "lm_head"]})
    with pytest.raises(ConfigError, match="lm_head"):
        train(head, run)
    nowhere = tiny_settings(model, tmp_path / "var", train={"target_modules": ["no_proj"]})
    with pytest.raises(ConfigError, match="no_proj"):
        train(nowhere, run)
    half = settings.model_copy(
        update={"model": settings.model.model_copy(update={"dtype": "float16"})}
    )
    with pytest.raises(ConfigError, match="CUDA"):
        train(half, run)
    config = write_config(settings, tmp_path / "config.yaml")
    (run / "dataset" / "pairs.jsonl").write_text("{broken\n")
    assert main(["--config", str(config), "--run", str(run)]) == 1
    assert "pairs.jsonl line 1" in capsys.readouterr().err


def test_the_order_shows_each_row_once_an_epoch_and_like_lengths_together() -> None:
    sizes = [10 + (i * 37) % 90 for i in range(100)]
    found = order.plan(sizes, epochs=2.5, step_rows=8, seed=3)
    assert len(found) == 250
    assert sorted(found.count(i) for i in range(100)) == [2] * 50 + [3] * 50
    assert found == order.plan(sizes, epochs=2.5, step_rows=8, seed=3)
    assert found != order.plan(sizes, epochs=2.5, step_rows=8, seed=4)

    def padded(rows: list[int]) -> int:
        steps = [rows[i : i + 8] for i in range(0, len(rows), 8)]
        return sum(len(step) * max(sizes[i] for i in step) for step in steps)

    whole = sum(sizes[i] for i in found)
    assert padded(found) < 1.25 * whole
    plain = order.plan(sizes, epochs=2.5, step_rows=8, seed=3, alike=False)
    assert sorted(plain.count(i) for i in range(100)) == [2] * 50 + [3] * 50
    assert padded(plain) > 1.4 * whole
    assert padded(list(range(100)) * 2) > 1.4 * sum(sizes) * 2
    assert order.plan([5, 6, 7], epochs=1, step_rows=8, seed=0) != []
    assert sorted(order.plan([5, 6, 7], epochs=1, step_rows=8, seed=0)) == [0, 1, 2]


def test_a_disk_that_takes_no_checkpoint_is_named(settings: Settings, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", make_pairs(16))

    def block(step: StepReport) -> None:
        if step.step == 3:  # a file where the next checkpoint's folder should be
            (run / "checkpoints").mkdir(exist_ok=True)
            (run / "checkpoints" / "checkpoint-4").write_text("in the way")

    with pytest.raises(FlywheelError, match="checkpoint cannot be written"):
        train(settings, run, block)
