"""Views of pairs for trainers, what changed between two datasets, and the commands for both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import MakeSettings
from curate_rows import SYSTEM, add_row
from curate_versions import publish, write_key
from test_curate_dataset import correct, questions, say

from curate.datasets import reasons
from curate.datasets.build import build
from curate.datasets.diff import diff, find
from curate.datasets.export import export
from flywheel.commands.console import Context
from flywheel.commands.dataset import dataset as dataset_commands
from flywheel.commands.dataset import export as export_command
from ledger.errors import DatasetError, UsageError
from ledger.settings import Settings
from ledger.store import Store

pytestmark = pytest.mark.sqlite
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


@pytest.fixture(autouse=True)
def _key(tmp_path: Path) -> None:
    """The same key each time: what is held out, and what similarity is estimated, hangs on it."""
    write_key(tmp_path / "var/keys/subject.key")


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(curate={"dataset": {"replay_share": 0.3}})


@pytest.fixture
def filled(store: Store) -> Store:
    """Two corrections, one of them of an answer that said nothing, and a good answer."""
    add_row(store, "a", "Where is it?", "I do not know", ts=1.0, tools=TOOLS)
    add_row(store, "b", "And my refund, when will that come?", "", ts=2.0)
    add_row(store, "c", "Do you sell lamps?", "Yes, we do", ts=3.0)
    for row_id in ("a", "b"):
        correct(store, row_id, "delivery")
    for number, question in enumerate(questions(3)):
        add_row(store, f"q{number}", question, "wrong", ts=10.0 + number)
        correct(store, f"q{number}", "right")
    say(store, "c", "good", "ada")
    return store


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_preferences_are_what_was_said_and_what_should_have_been(
    settings: Settings, filled: Store, tmp_path: Path
) -> None:
    pool = export(filled, settings, "support", "dpo", out=tmp_path / "dpo.jsonl")
    first, *others = written(tmp_path / "dpo.jsonl")
    assert first == {
        "prompt": [SYSTEM, {"role": "user", "content": "Where is it?"}],
        "chosen": [{"role": "assistant", "content": "delivery"}],
        "rejected": [{"role": "assistant", "content": "I do not know"}],
        "tools": TOOLS,
    }
    assert len(others) == 3
    assert pool.left_out == {reasons.NOT_REJECTED: ["b", "c"]}
    pool = export(filled, settings, "support", "kto", out=tmp_path / "kto.jsonl")
    lines = written(tmp_path / "kto.jsonl")
    said = [(line["completion"][0]["content"], line["label"]) for line in lines]
    assert said[:4] == [
        ("delivery", True),
        ("I do not know", False),
        ("delivery", True),
        ("Yes, we do", True),
    ]
    assert len(pool.pairs) == 6
    assert not pool.left_out


@pytest.mark.parametrize("form", ["sft", "dpo", "kto"])
def test_trl_knows_the_form(form: str, settings: Settings, filled: Store, tmp_path: Path) -> None:
    import datasets
    from trl.data_utils import is_conversational

    export(filled, settings, "support", form, out=tmp_path / "out.jsonl")
    # All lines have the same columns once they are loaded.
    datasets.disable_progress_bars()
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert len(table) == {"sft": 6, "dpo": 4, "kto": 10}[form]
    assert all(is_conversational(line) for line in table)


def test_what_is_held_out_can_be_written_alone(
    make_settings: MakeSettings, store: Store, tmp_path: Path
) -> None:
    settings = make_settings(curate={"dataset": {"heldout_share": 0.3}})
    for number, question in enumerate(questions(60)):
        add_row(store, f"r{number}", question, ts=float(number))
        correct(store, f"r{number}", "right")
    parts = {
        split: {p.row_id for p in export(
            store, settings, "support", out=tmp_path / "out.jsonl", split=split
        ).pairs}
        for split in ("train", "heldout", None)
    }  # fmt: skip
    assert parts["train"] | parts["heldout"] == parts[None]
    assert not parts["train"] & parts["heldout"]
    assert len(parts["heldout"]) > 5


@pytest.fixture
def two(settings: Settings, filled: Store, tmp_path: Path) -> tuple[Path, Path]:
    """Two datasets: a row came, one changed, one was corrected by another, one was forgotten."""
    add_row(filled, "gone", "Is this lamp blue or green?", subject="a" * 32, ts=4.0)
    correct(filled, "gone", "blue")
    first, second = tmp_path / "first", tmp_path / "second"
    build(settings, filled, "support", first)
    correct(filled, "q0", "something better")
    add_row(filled, "new", "Is there a warranty?", ts=20.0)
    correct(filled, "new", "yes")
    add_row(filled, "again", "where is it", ts=0.5)
    correct(filled, "again", "stock")
    filled.forget("a" * 32, who="op", why="")
    build(settings, filled, "support", second)
    return first, second


def test_a_difference_says_what_came_what_went_and_why(
    settings: Settings, filled: Store, two: tuple[Path, Path]
) -> None:
    a, b = (find(settings, filled, "support", word) for word in ("previous", "latest"))
    found = diff(filled, a, b)
    assert found.added == ["again", "new"]
    assert found.removed == {"a": reasons.CONTRADICTED, "gone": reasons.NO_TEXT}
    assert found.changed == ["q0"]
    assert found.moved == []
    assert found.counts["left_out"] == {reasons.CONTRADICTED: (0, 1), reasons.NO_TEXT: (0, 1)}
    back = diff(filled, b, a)
    assert back.added == ["a", "gone"]
    shutil.rmtree(two[0])
    assert diff(filled, a, b)._replace(changed=["q0"], moved=[]) == found


def test_a_dataset_has_many_names(
    settings: Settings, filled: Store, two: tuple[Path, Path]
) -> None:
    first, second = filled.datasets("support")
    manifest = json.loads((two[0] / "dataset/manifest.json").read_text())
    from ledger.dataset import DatasetManifest

    publish(settings, DatasetManifest.model_validate(manifest))
    digits = first.dataset_id.rpartition(":")[2]
    names = (first.dataset_id, digits[:12], "support@v1", "v1", str(two[0]), "previous")
    for name in names:
        assert find(settings, filled, "support", name) == first, name
    assert find(settings, filled, "support", str(two[1] / "dataset")) == second
    for name in ("nothing", "", "fw1:dataset:"):
        with pytest.raises(UsageError, match="names 0"):
            find(settings, filled, "support", name)
    with pytest.raises(UsageError, match="0 dataset"):
        find(settings, filled, "other", "latest")
    (two[0] / "dataset/manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match="holds no dataset"):
        find(settings, filled, "support", str(two[0]))


def test_the_commands(filled: Store, two: tuple[Path, Path], config: Path, tmp_path: Path) -> None:
    def run(command: Any, *words: str) -> str:
        shared = Context(str(config))
        try:
            done = CliRunner().invoke(command, words, obj=shared, catch_exceptions=False)
        finally:
            shared.store.close()
        assert done.exit_code == 0, done.output
        return done.output

    listed = run(dataset_commands, "list")
    assert listed.count("pairs") == 2
    latest = json.loads(run(dataset_commands, "show", "--json"))
    assert latest["report"]["kinds"] == {"correction": 6, "replay": 1}
    shown = run(dataset_commands, "show", "previous")
    assert "  6  correction" in shown
    text = run(dataset_commands, "diff")
    assert "added    2\n  again\n  new\n" in text
    assert f"a: {reasons.CONTRADICTED}" in text
    values = json.loads(
        run(dataset_commands, "diff", "previous", "latest", "--json", "--rows", "1")
    )
    assert (values["added"], values["rows"]["added"]) == (2, ["again"])
    assert values["removed_because"] == {reasons.CONTRADICTED: 1, reasons.NO_TEXT: 1}
    said = run(export_command, "--format", "dpo", "--out", str(tmp_path / "out.jsonl"))
    assert said.startswith("5 pairs in ")
    assert f"left out, {reasons.NOT_REJECTED}: 2" in said
