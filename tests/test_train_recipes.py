"""Recipes: numbers by the size of the data, stopping by held-out pairs, divergence, reports."""

from __future__ import annotations

import json
import random
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny import make_pairs, tiny_settings
from trainings import new_run, same, start

from ledger.dataset import Pair
from ledger.errors import ConfigError, DatasetError
from ledger.registry import check_adapter
from ledger.settings import Settings
from train import divergence, heldout, job, report, trackers
from train.looks import Look, clearly_worse
from train.recipe import resolve
from train.result import TrainResult
from train.sft import train

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]

QWEN = {"model_type": "qwen3", "hidden_size": 4096}
LLAMA = {"model_type": "llama", "hidden_size": 576}


# -- the numbers --------------------------------------------------------------------------------


def numbers(pairs: int, tokens: int, model: dict[str, Any] = QWEN, **options: Any) -> Any:
    from ledger.settings import Train

    train = Train(**options)
    return resolve(train, max_rank=64, pairs=pairs, tokens=tokens, model=model)


def test_defaults_follow_the_size_of_the_data() -> None:
    found = [numbers(n, 30 * n) for n in (50, 300, 3_000, 30_000, 300_000)]
    assert [one.epochs for one in found] == [8, 4, 3, 2, 1]
    assert [one.rank for one in found] == [8, 8, 16, 16, 32]
    assert numbers(10_000, 20_000_000).rank == 64
    assert {one.alpha for one in found} == {32}
    assert numbers(300, 9_000, rslora=True).alpha == 8
    for one in found:
        assert set(one.why) == {"rank", "alpha", "epochs", "learning_rate", "eval_steps"}


def test_the_learning_rate_follows_the_models_width_and_the_length_of_the_run() -> None:
    assert numbers(3_000, 9_000).learning_rate == pytest.approx(
        5e-4 * (2000 / 4096) ** 0.0775, 0.01
    )
    small = numbers(3_000, 9_000, LLAMA).learning_rate
    assert small == pytest.approx(5e-4 * (2000 / 576) ** 0.781, 0.01)
    # Under a hundred steps it is half as much again.
    assert numbers(100, 900, LLAMA).learning_rate == pytest.approx(1.5 * small, 0.01)
    nested = {"model_type": "qwen3_5", "text_config": {"hidden_size": 2000}}
    assert numbers(3_000, 9_000, nested).learning_rate == pytest.approx(5e-4)


def test_what_is_set_holds_and_the_server_caps_the_rank() -> None:
    given = {"rank": 5, "alpha": 7, "learning_rate": 1e-3, "epochs": 2.5, "eval_steps": 9}
    found = numbers(300, 9_000, preference="dpo", **given)
    assert {name: getattr(found, name) for name in given} == given
    assert found.why == {"preference_learning_rate": "a twentieth of the first stage's"}
    assert found.preference_learning_rate == pytest.approx(5e-5)
    from ledger.settings import Train

    low = resolve(Train(), max_rank=4, pairs=300, tokens=9_000, model=QWEN)
    assert low.rank == 4
    assert "serve.max_lora_rank" in low.why["rank"]


# -- what vLLM cannot serve ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lora": {"use_dora": True}}, "use_dora"),
        ({"lora": {"init_lora_weights": "pissa"}}, "init_lora_weights=pissa"),
        ({"lora": {"init_lora_weights": "olora"}}, "init_lora_weights=olora"),
        ({"lora": {"init_lora_weights": "eva"}}, "eva"),
        ({"lora": {"lora_bias": True}}, "lora_bias"),
        ({"lora": {"bias": "all"}}, "bias"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ({"lora": {"trainable_token_indices": [1]}}, "trainable_token_indices"),
        ({"lora": {"rank_pattern": {"q_proj": 32}}}, "q_proj: 32"),
        ({"lora": {"use_doora": True}}, "use_doora"),
        ({"lora": {"r": 4}}, "train.rank"),
        ({"target_modules": ["q_proj", "model.embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name_before_training(
    model: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    run = new_run(tmp_path / "run", make_pairs(8))
    settings = tiny_settings(model, tmp_path / "var", train=options)
    with pytest.raises(ConfigError, match=named):
        train(settings, run)
    assert [p.name for p in run.iterdir() if p.name not in ("var", "dataset")] == []


def test_rank_stabilised_lora_and_options_of_peft_reach_the_adapter(
    model: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", make_pairs(8))
    options: dict[str, Any] = {"rslora": True, "rank": None, "alpha": None, "epochs": 1}
    options["target_modules"] = ["q_proj", "down_proj"]
    options["lora"] = {"layers_to_transform": [1], "init_lora_weights": "gaussian"}
    settings = tiny_settings(model, tmp_path / "var", train=options)
    found = train(settings, run, lambda step: None)
    config = check_adapter(run / "adapter", max_rank=settings.serve.max_lora_rank)
    assert (config["use_rslora"], config["r"], config["lora_alpha"]) == (True, 8, 8)
    from safetensors import safe_open

    with safe_open(run / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert all(".layers.1." in name for name in file.keys())  # noqa: SIM118
    assert found.chosen["rank"] == 8
    assert "tokens carry loss" in found.chosen["why"]["rank"]


# -- held-out pairs say when to stop ------------------------------------------------------------


def contradicting(count: int, held: int) -> list[Pair]:
    """Pairs that can only be learned by heart, and held-out ones that say something else."""
    pairs = make_pairs(count + held)
    queues = ("billing", "delivery", "returns", "accounts")
    return [
        pair
        if number < count
        else pair.model_copy(
            update={
                "split": "heldout",
                "messages": [
                    *pair.prompt,
                    {"role": "assistant", "content": queues[(number + 1 + number // 4 % 3) % 4]},
                ],
            }
        )
        for number, pair in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def stopped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A run that learns by heart until its held-out pairs stop it."""
    folder = tmp_path_factory.mktemp("stopped")
    run = new_run(folder / "run", contradicting(24, 16))
    found = train(early(model, folder), run, lambda step: None)
    return run, found


def early(model: Path, folder: Path) -> Settings:
    return tiny_settings(
        model,
        folder / "var",
        train={
            "epochs": 20,
            "eval_steps": 3,
            "patience": 2,
            "checkpoint_steps": 4,
            "learning_rate": 2e-2,
            "report_to": ["tensorboard"],
        },
    )


def test_training_stops_when_the_held_out_loss_rises_and_keeps_the_best(
    stopped: tuple[Path, TrainResult], model: Path
) -> None:
    run, found = stopped
    assert found.stopped_early
    assert found.planned_steps == 60
    assert found.steps < 60
    assert len(found.loss) == found.steps
    steps, losses = zip(*found.looks, strict=True)
    assert steps == tuple(range(3, found.steps + 1, 3))
    best = losses.index(min(losses))
    assert found.best_step == steps[best]
    assert len(losses) - 1 - best >= 2  # as many worse looks in a row as are allowed
    # What is kept is the adapter of that step: its loss, measured anew, is that look's.
    assert found.heldout is not None
    assert found.heldout["after"] == pytest.approx(min(losses), abs=1e-5)
    assert found.heldout["after"] < losses[-1]
    assert measured(model, run) == pytest.approx(found.heldout["after"], abs=1e-4)


def measured(model: Path, run: Path) -> float:
    """The held-out loss of the adapter on the disk, by transformers and PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = early(model, run.parent)
    todo = prepared(settings, run, model)
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), run / "adapter"
    ).eval()
    total, tokens = 0.0, 0
    for row in todo.held:
        with torch.no_grad():
            logits = adapted(torch.tensor([row.ids])).logits[0]
        answer = torch.tensor(row.ids[row.prompt :])
        kept = logits[row.prompt - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(kept, answer, reduction="sum"))
        tokens += len(answer)
    return total / tokens


def prepared(settings: Settings, run: Path, model: Path) -> job.Job:
    from contextlib import closing

    from ledger.dataset import load
    from ledger.store import Store

    with closing(Store.open(settings)) as store:
        manifest, frozen = load(run / "dataset", store)
    return job.prepare(settings, run, model, manifest, frozen, leave_out=False)


def test_killed_at_any_look_it_ends_with_the_same_adapter(
    stopped: tuple[Path, TrainResult], model: Path, tmp_path: Path
) -> None:
    whole, found = stopped
    run = new_run(tmp_path / "run", contradicting(24, 16))
    settings = early(model, tmp_path)
    process = start(settings, run, tmp_path)
    assert process.stdout is not None
    # After the look at step 9, whose adapter may be the best, and before the checkpoint of 12.
    for line in process.stdout:
        if line.startswith("step 11/"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    process = start(settings, run, tmp_path)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "resuming from checkpoint-8 of 60 steps" in out
    again = TrainResult.model_validate_json((run / "train.json").read_text())
    assert (again.steps, again.best_step) == (found.steps, found.best_step)
    assert [step for step, _ in again.looks] == [step for step, _ in found.looks]
    assert again.loss == pytest.approx(found.loss, rel=1e-3)
    assert same(whole, run)


def test_a_look_is_worse_only_where_chance_does_not_explain_it() -> None:
    draw = random.Random(5)
    lowest = [draw.expovariate(1) for _ in range(24)]

    def worse(rise: float, noise: float) -> bool:
        now = [one + draw.gauss(rise, noise) for one in lowest]
        return clearly_worse(Look(9, sum(now), now), Look(3, sum(lowest), lowest))

    assert not clearly_worse(Look(3, 1.0, lowest), Look(3, 1.0, lowest))
    assert sum(worse(0.0, 0.5) for _ in range(2000)) / 2000 < 0.07
    assert sum(worse(-0.2, 0.5) for _ in range(200)) == 0
    assert sum(worse(0.5, 0.5) for _ in range(200)) > 195


def test_a_loss_that_only_wavers_ends_nothing_and_the_last_step_is_kept(
    model: Path, tmp_path: Path
) -> None:
    """Held-out pairs that are much like the others: the loss goes down, a little up, and down."""
    held = [pair.model_copy(update={"split": "heldout"}) for pair in make_pairs(60)[40:]]
    run = new_run(tmp_path / "run", [*make_pairs(40), *held])
    options = {"epochs": 6, "eval_steps": 1, "patience": 2, "learning_rate": 2e-2}
    found = train(tiny_settings(model, tmp_path / "var", train=options), run)
    losses = [loss for _, loss in found.looks]
    assert any(b > a for a, b in pairwise(losses))
    assert (found.stopped_early, found.best_step, found.steps) == (False, None, 30)


def test_few_held_out_pairs_are_looked_at_but_stop_nothing(model: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", contradicting(16, 4))
    settings = tiny_settings(
        model, tmp_path / "var", train={"epochs": 4, "eval_steps": 2, "patience": 1}
    )
    found = train(settings, run, lambda step: None)
    assert (found.steps, found.best_step, found.stopped_early) == (8, None, False)
    assert [step for step, _ in found.looks] == [2, 4, 6, 8]


# -- what is reported ---------------------------------------------------------------------------


def test_replay_reaches_training_and_is_reported(model: Path, tmp_path: Path) -> None:
    pairs = make_pairs(20)
    pairs[3:5] = [
        pair.model_copy(update={"kind": "replay", "rejected": None}) for pair in pairs[3:5]
    ]
    run = new_run(tmp_path / "run", pairs)
    found = train(tiny_settings(model, tmp_path / "var", train={"epochs": 1}), run)
    assert found.kinds == {"correction": 18, "replay": 2}
    assert found.pairs == 20
    assert list(found.kl) == ["replay"]
    assert found.kl["replay"]["pairs"] == 2
    text = (run / "training.md").read_text()
    assert "| replay | 2 |" in text


def test_the_divergence_is_exact_over_the_vocabulary(model: Path, tmp_path: Path) -> None:
    import torch

    from train.fast.memory import Fit
    from train.sft import _trainer

    run = new_run(tmp_path / "run", make_pairs(8))
    todo = prepared(tiny_settings(model, tmp_path / "var"), run, model)
    fit = Fit(tokens=2048, checkpointing=False, peak=0)
    trainer = _trainer(todo, tmp_path / "out", "cpu", fit, list(range(8)), 1)
    rows = todo.prepared.rows
    assert divergence.rows_to_measure([], [], rows) == {"trained": rows}
    untrained = divergence.measure(trainer, {"heldout": rows})["heldout"]
    assert (untrained.mean, untrained.most) == (0.0, 0.0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
    found = divergence.measure(trainer, {"heldout": rows})["heldout"]
    trainer.model.eval()
    each = []
    for row in rows:
        with torch.no_grad():
            adapted = trainer.model(torch.tensor([row.ids])).logits[0, row.prompt - 1 : -1]
            with trainer.model.disable_adapter():
                base = trainer.model(torch.tensor([row.ids])).logits[0, row.prompt - 1 : -1]
        p, q = adapted.double().softmax(-1), base.double().softmax(-1)
        each += (p * (p / q).log()).sum(-1).tolist()
    assert found.tokens == len(each)
    assert found.mean == pytest.approx(sum(each) / len(each), rel=1e-4)
    assert found.most == pytest.approx(max(each), rel=1e-3)
    assert found.mean > 0.01
    # Measuring left the trainer as it was.
    assert not trainer.model.training
    assert heldout.measure(trainer, []) is None


def test_losses_go_to_tensorboard_in_the_runs_folder(stopped: tuple[Path, TrainResult]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, found = stopped
    (file,) = (run / "tensorboard").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == list(range(1, found.steps + 1))
    assert [event.value for event in logged] == pytest.approx(found.loss, abs=1e-4)
    looks = events.Scalars("eval/loss")
    assert [event.step for event in looks] == [step for step, _ in found.looks]


def test_a_tracker_that_is_not_there_is_an_error_before_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", make_pairs(8))
    unknown = tiny_settings(model, tmp_path / "var", train={"report_to": ["tensorbord"]})
    with pytest.raises(ConfigError, match="tensorbord"):
        train(unknown, run)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", "no_such_package")
    missing = tiny_settings(model, tmp_path / "var", train={"report_to": ["wandb"]})
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        train(missing, run)
    assert not (run / "checkpoints").exists()


def test_the_picture_and_the_report_show_what_happened(stopped: tuple[Path, TrainResult]) -> None:
    from matplotlib import image

    run, found = stopped
    picture = image.imread(run / "loss.png")
    assert picture.shape[1] > 600
    assert len({tuple(pixel) for row in picture[::7, ::7] for pixel in row}) > 4
    text = (run / "training.md").read_text()
    for part in ("| correction | 24 |", "| held out | 16 |", f"step {found.best_step} is kept"):
        assert part in text, part
    assert "billing" not in text


def test_a_refusal_is_in_the_runs_folder_with_its_reasons(model: Path, tmp_path: Path) -> None:
    pairs = make_pairs(16)
    pairs[3] = pairs[3].model_copy(update={"template_hash": "fw1:template:old"})
    run = new_run(tmp_path / "run", pairs)
    with pytest.raises(DatasetError):
        train(tiny_settings(model, tmp_path / "var"), run)
    assert "served with another chat template (1)" in (run / "training.md").read_text()
    found = train(
        tiny_settings(model, tmp_path / "var", train={"epochs": 1}),
        run,
        lambda step: None,
        leave_out=True,
    )
    text = (run / "training.md").read_text()
    assert "- served with another chat template: 1" in text
    assert "`chatcmpl-003`" in text
    assert json.loads((run / "train.json").read_text())["kinds"] == {"correction": found.pairs}


def test_few_rows_that_cannot_be_trained_on_are_left_out_and_many_are_refused(
    model: Path, tmp_path: Path
) -> None:
    pairs = make_pairs(40)
    old = {"template_hash": "fw1:template:old"}
    pairs[:2] = [pair.model_copy(update=old) for pair in pairs[:2]]
    run = new_run(tmp_path / "run", pairs)
    settings = tiny_settings(model, tmp_path / "var")
    todo = prepared(settings, run, model)
    assert len(todo.prepared.rows) == 38
    assert "left out 2: served with another chat template" in report.summary(todo)
    strict = tiny_settings(model, tmp_path / "var", train={"leave_out_share": 0.04})
    with pytest.raises(DatasetError, match="2 of 40 pairs"):
        prepared(strict, run, model)
