"""A finished run becomes a version: whole, verifiable, once."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from tiny import freeze_open, make_pairs, tiny_settings, write_config

from ledger.errors import ConfigError, RegistryError
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store
from train import result
from train.publish import main, publish
from train.sft import train

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests copy."""
    folder = tmp_path_factory.mktemp("publish")
    pairs = make_pairs(12)
    pairs[2] = pairs[2].model_copy(update={"template_hash": "fw1:template:old"})
    pairs += [pair.model_copy(update={"split": "heldout"}) for pair in make_pairs(13)[12:]]
    freeze_open(
        folder / "run",
        alias="support",
        pairs=pairs,
        created=0.0,
        left_out={"duplicate": ["a", "b"]},
    )
    settings = tiny_settings(model, folder / "var", train={"epochs": 1})
    train(settings, folder / "run", lambda step: None, leave_out=True)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> Settings:
    return tiny_settings(model, tmp_path / "var")


def test_a_version_is_whole_and_says_where_it_comes_from(settings: Settings, run: Path) -> None:
    version = publish(settings, "support", run, "support@v0")
    registry = Registry(settings.registry)
    registry.verify(version)
    assert version.name == "support@v1"
    assert sorted(version.manifest.files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.png",
        "train.json",
        "training_data.jsonl",
    ]
    facts = version.manifest
    assert (facts.rank, facts.pairs, facts.parent, facts.run_id) == (8, 11, "support@v0", "run")
    text = (version.path / "training_data.jsonl").read_text()
    assert "billing" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    with closing(Store.open(settings)) as store:
        rows = [row or {} for row in store.opened_lines(lines, "training_data.jsonl")]
    assert len(rows) == 11  # what was left out or held out is not there
    assert "chatcmpl-002" not in {row["row_id"] for row in rows}
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": "billing"}
    assert all("author" not in row and "rejected" not in row for row in rows)


def test_the_card_has_the_hubs_form(settings: Settings, run: Path) -> None:
    version = publish(settings, "support", run, None)
    text = (version.path / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["base_model"] == "tiny"
    assert found["library_name"] == "peft"
    for part in (
        "support@v1",
        "| user |",
        "| duplicate | 2 |",
        "8, 16, 0",
        "![loss over the steps](loss.png)",
        "KL to the base",
        "Pending",
        "`run`",
    ):
        assert part in body, part
    assert version.manifest.dataset_id in body


def test_a_run_is_published_once(settings: Settings, run: Path, tmp_path: Path) -> None:
    first = publish(settings, "support", run, None)
    assert publish(settings, "support", run, "support@v9") == first
    (run / "publish.json").unlink()  # as after a crash between the rename and the note
    assert publish(settings, "support", run, None) == first
    assert json.loads((run / "publish.json").read_text()) == {"version": "support@v1"}
    assert [v.name for v in Registry(settings.registry).versions("support")] == ["support@v1"]
    (run / "publish.json").write_text("{")
    with pytest.raises(RegistryError, match=r"publish\.json is damaged"):
        publish(settings, "support", run, None)


def test_the_command_line(
    settings: Settings, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(settings, tmp_path / "config.yaml")
    command = ["--config", str(config), "--alias", "support", "--run", str(run), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "support@v1"
    command[3] = "nobody"
    assert main(command) == 1
    assert "nobody" in capsys.readouterr().err


def test_what_must_not_be_published_is_refused(
    settings: Settings, run: Path, tmp_path: Path
) -> None:
    def refused(
        match: str, folder: Path, alias: str = "support", given: Settings = settings
    ) -> None:
        with pytest.raises((RegistryError, ConfigError), match=match):
            publish(given, alias, folder, None)
        assert not Registry(settings.registry).versions(alias)
        assert not Registry(settings.registry).incomplete()

    def broken(name: str) -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    pickled = broken("pickled")
    (pickled / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused("pickled", pickled)
    altered = broken("altered")
    file = altered / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    refused("SHA-256", altered)
    unfinished = broken("unfinished")
    (unfinished / "train.json").unlink()
    refused("not finished", unfinished)
    based = broken("based")
    found = result.read(based)
    assert found is not None
    result.write(based, found.model_copy(update={"base_fingerprint": "fw1:base:other"}))
    refused("fw1:base:other", based)
    swapped = broken("swapped")
    shutil.rmtree(swapped / "dataset")
    freeze_open(swapped, alias="support", pairs=make_pairs(9), created=0.0)
    refused("was trained on", swapped)
    two = settings.model_copy(
        update={"aliases": {**settings.aliases, "sales": settings.aliases["support"]}}
    )
    refused("made for 'support'", run, alias="sales", given=two)
    low = tiny_settings(
        Path(settings.model.path), settings.var, train={"rank": 4}, serve={"max_lora_rank": 4}
    )
    refused("rank 8", run, given=low)


def test_the_hubs_own_reader_takes_the_card_and_scores_join_a_copy_of_it(
    model: Path, run: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard
    from versions_made import SETS, judge

    from flywheel.sharing import rendered
    from ledger.registry import content_id

    settings = tiny_settings(
        model,
        tmp_path / "var",
        sharing={"license": "apache-2.0", "languages": ["en"], "datasets": ["PolyAI/banking77"]},
    )
    version = publish(settings, "support", run, "support@v0")
    written = (version.path / "README.md").read_text()
    made = ModelCard(written).data
    assert (made.license, made.language, made.datasets) == (
        "apache-2.0", ["en"], ["PolyAI/banking77"],
    )  # fmt: skip
    assert (made.library_name, made.pipeline_tag) == ("peft", "text-generation")
    assert {"lora", "sft", "trl"} <= set(made.tags)
    assert made.eval_results is None
    with closing(Store.open(settings)) as store:
        (note,) = store.version_notes("support")[1]
        assert (note.kind, note.content_id) == ("published", content_id(version.manifest))
        judge(store, version, "pass", sets=SETS)
        text = rendered(settings, store, version, "hf://team/support")
    card = ModelCard(text)
    assert card.data.model_name == "support@v1"
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [
        ("main/queues", 0.9),
        ("main/general", 0.75),
    ]
    assert card.data.license == "apache-2.0"
    for part in ("| main/queues | 90.0% | 50.0% |", 'subfolder="support/v1"', "## Training data"):
        assert part in card.text, part
    assert "Pending" not in card.text
    assert (version.path / "README.md").read_text() == written
