"""The second stage on the tiny model: the same rows as preferences, on the first's adapter."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny import make_pairs, tiny_settings
from trainings import new_run, start

from ledger.dataset import Pair
from ledger.errors import ConfigError, DatasetError
from ledger.registry import Registry, check_adapter
from ledger.settings import Settings
from ledger.store import Store
from train import job, preference
from train.publish import publish
from train.report import refusal
from train.result import TrainResult
from train.sft import train

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]


def rows() -> list[Pair]:
    """24 edits, one good answer, one that changed nothing, one voted down, 2 held out."""
    pairs = make_pairs(29)
    pairs[24] = pairs[24].model_copy(update={"kind": "replay", "rejected": None})
    pairs[25] = pairs[25].model_copy(update={"rejected": pairs[25].messages[-1]["content"]})
    said = {"role": "assistant", "content": "I will not say"}
    pairs[26] = pairs[26].model_copy(
        update={
            "kind": "disliked",
            "rejected": None,
            "messages": [*pairs[26].prompt, said],
        }
    )
    held = {"split": "heldout"}
    return [*pairs[:27], *(pair.model_copy(update=held) for pair in pairs[27:])]


def settings_for(model: Path, folder: Path, method: str, **options: Any) -> Settings:
    given = {"epochs": 1, "checkpoint_steps": 2, "preference": method, "learning_rate": 1e-2}
    return tiny_settings(
        model,
        folder / "var",
        train={**given, "preference_learning_rate": 1e-2, "preference_epochs": 2, **options},
    )


def prepared(settings: Settings, run: Path, model: Path) -> job.Job:
    from ledger.dataset import load

    with closing(Store.open(settings)) as store:
        manifest, frozen = load(run / "dataset", store)
    return job.prepare(settings, run, model, manifest, frozen, leave_out=False)


@pytest.fixture(scope="module")
def dpo(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("dpo")
    run = new_run(folder / "run", rows())
    return run, train(settings_for(model, folder, "dpo"), run, lambda step: None)


def test_edits_are_preferred_over_what_they_replace(dpo: tuple[Path, TrainResult]) -> None:
    run, found = dpo
    stage = found.preference
    assert stage is not None
    assert (found.pairs, stage.method, stage.examples, stage.steps) == (26, "dpo", 24, 6)
    assert stage.left_out == {
        preference.NOTHING_REJECTED: {"chatcmpl-024": "it was good already"},
        preference.SAME: {"chatcmpl-025": ""},
    }
    # The reference is the first stage's adapter: on the first step nothing differs from it.
    details = stage.details
    assert details["rewards_margins_first"] == pytest.approx(0, abs=1e-4)
    assert details["rewards_margins_last"] > 0.1
    assert details["rewards_accuracies_last"] > 0.9
    assert stage.loss[-1] < stage.loss[0]
    # Against the base the divergence goes on from where the first stage left it.
    assert stage.kl["replay"]["before"] > 0
    assert found.kl["replay"]["before"] == 0
    assert found.kl["replay"]["after"] == stage.kl["replay"]["mean"]
    assert found.heldout is not None
    assert stage.heldout is not None
    assert found.heldout["after"] == stage.heldout["after"]
    assert stage.heldout["before"] < found.heldout["before"]
    assert "## Second stage: dpo" in (run / "training.md").read_text()


def test_the_first_stage_stays_and_the_second_is_published(
    dpo: tuple[Path, TrainResult], model: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file

    run, found = dpo
    assert found.recipe != json.loads((run / "sft/stage.json").read_text())["recipe"]
    first = load_file(run / "sft/adapter_model.safetensors")
    last = load_file(run / "adapter/adapter_model.safetensors")
    assert first.keys() == last.keys()
    assert any((first[name] != last[name]).any() for name in first)
    assert not list(run.glob("checkpoints*"))
    check_adapter(run / "adapter", max_rank=16)
    assert sorted(p.name for p in (run / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    settings = settings_for(model, tmp_path, "dpo")
    version = publish(settings, "support", copy, None)
    Registry(settings.registry).verify(version)
    card = (version.path / "README.md").read_text()
    assert "| second stage | dpo on 24 examples, 6 steps, beta 0.1, learning rate 0.01 |" in card
    assert "- dpo" in card.split("---")[1]
    assert "I will not say" not in card
    text = (version.path / "training_data.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 26
    with closing(Store.open(settings)) as store:
        opened = list(store.opened_lines(lines, "training_data.jsonl"))
    assert sum(row is not None and row.get("rejected") == "I do not know" for row in opened) == 24


def test_killed_in_the_second_stage_it_goes_on_there_and_ends_alike(
    dpo: tuple[Path, TrainResult], model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    whole, found = dpo
    run = new_run(tmp_path / "run", rows())
    settings = settings_for(model, tmp_path, "dpo")
    process = start(settings, run, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/6"):  # the first stage has four steps
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (run / "sft/stage.json").exists()
    assert not (run / "train.json").exists()
    process = start(settings, run, tmp_path)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "resuming from checkpoint-2 of 6 steps of dpo" in out
    steps = [line.split()[1] for line in out.splitlines() if line.startswith("step ")]
    assert steps == ["3/6", "4/6", "5/6", "6/6"]  # nothing of the first stage
    again = TrainResult.model_validate_json((run / "train.json").read_text())
    assert again.loss == pytest.approx(found.loss, rel=1e-3)
    assert again.preference is not None
    assert found.preference is not None
    assert again.preference.loss == pytest.approx(found.preference.loss, rel=1e-3)
    # The kept reference is the first stage's still.
    assert again.preference.kl["replay"]["before"] == pytest.approx(
        found.preference.kl["replay"]["before"], rel=1e-3
    )
    first, second = (load_file(one / "adapter/adapter_model.safetensors") for one in (whole, run))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_what_trl_is_fed_is_what_was_proved(model: Path, tmp_path: Path) -> None:
    """Prompt, chosen and rejected ids come to the loss as they were proved, masks and all."""
    from train.preference.stage import _trainer

    run = new_run(tmp_path / "run", rows())
    todo = prepared(settings_for(model, tmp_path, "dpo"), run, model)
    found = preference.examples(todo)
    by_row = {row.row_id: row for row in todo.prepared.rows}
    end = todo.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for one in found.rows:
        assert by_row[one.row_id].ids == [*one.prompt, *(one.chosen or [])]
        assert todo.tokenizer.decode(one.rejected) == "I do not know<|im_end|>"
        assert one.chosen is not None
        assert one.chosen[-1] == end
    first = tmp_path / "sft"
    made_first(model, first)
    plan = list(range(len(found.rows)))
    trainer = _trainer(todo, found.rows, first, tmp_path / "out", "cpu", plan, 1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    for place, one in enumerate(found.rows[:3]):
        for offset, answer in ((0, one.chosen), (3, one.rejected)):
            ids, mask = batch["input_ids"][place + offset], batch["completion_mask"][place + offset]
            assert answer is not None
            length = len(one.prompt) + len(answer)
            assert ids[:length].tolist() == [*one.prompt, *answer]
            assert mask[:length].tolist() == [0] * len(one.prompt) + [1] * len(answer)
            assert not mask[length:].any()


def made_first(model: Path, folder: Path) -> None:
    """An adapter that was not trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from train import adapter

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    made = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter.write(made, folder, "tiny")


def test_kto_takes_each_answer_by_itself_and_those_voted_down(model: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", rows())
    settings = settings_for(model, tmp_path, "kto")
    todo = prepared(settings, run, model)
    assert "chatcmpl-026" not in todo.pairs  # nothing to imitate
    found = preference.examples(todo)
    good = {one.row_id for one in found.rows if one.chosen is not None}
    bad = {one.row_id for one in found.rows if one.rejected is not None}
    assert len(good) == 26
    assert bad == {f"chatcmpl-{number:03d}" for number in range(24)} | {"chatcmpl-026"}
    columns = preference_columns(found.rows[:5], 2)
    answers = columns["completion_ids"]
    assert columns["KL_completion_ids"] == [answers[i] for i in (1, 0, 3, 2, 4)]
    done = train(settings, run, lambda step: None)
    assert done.preference is not None
    assert (done.preference.method, done.preference.examples) == ("kto", 51)
    assert done.preference.details["rewards_margins_last"] > 0
    assert done.pairs == 26


def preference_columns(planned: list[preference.Example], size: int) -> dict[str, list[Any]]:
    from train.preference.trainer import columns

    return columns(planned, size)


def test_what_a_second_stage_needs_is_asked_for_before_the_first(
    model: Path, tmp_path: Path
) -> None:
    pairs = [pair.model_copy(update={"rejected": None}) for pair in make_pairs(12)]
    run = new_run(tmp_path / "run", pairs)
    with pytest.raises(DatasetError, match="0 answers of the dataset were rejected"):
        train(settings_for(model, tmp_path, "dpo"), run)
    assert "0 answers of the dataset were rejected" in refusal(run)
    other = new_run(tmp_path / "other", make_pairs(12))
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        train(settings_for(model, tmp_path, "kto", batch_size=1), other)
    several = settings_for(model, tmp_path, "dpo", processes=2)
    with pytest.raises(ConfigError, match="one process"):
        preference.examples(prepared(several, other, model))
    for one in (run, other):
        assert not (one / "checkpoints").exists()
        assert not (one / "sft").exists()
