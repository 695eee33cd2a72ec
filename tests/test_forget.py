"""Forgetting somebody: in the ledger, in datasets, in versions, and in every copy."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from conftest import MakeSettings
from test_registry import write_adapter

from curate.datasets.build import build, collect
from curate.judging.decisions import correct
from curate.tagging.sweep import sweep
from flywheel.cli import cli
from flywheel.forget import forget, subject_of, text, trained_on_forgotten
from flywheel.status import status, status_text
from ledger import dataset
from ledger.database import tables
from ledger.deployments import Deployments
from ledger.errors import DatasetError, UsageError
from ledger.files import read_json, write_json, write_jsonl
from ledger.keys.vault import Vault
from ledger.records import DatasetRecord, Feedback, Interaction
from ledger.registry import Registry, Version
from ledger.settings import Settings
from ledger.store import Line, Store

ADA, BOB = "ada", "bob"
WHO = {"who": "operator:x", "why": "asked to"}


def said(name: str, number: int) -> str:
    return f"zebra-{name}-{number}"


@pytest.fixture
def subjects(settings: Settings) -> dict[str, str]:
    vault = Vault.open(settings.privacy.key_file)
    return {name: vault.subject(name) for name in (ADA, BOB)}


@pytest.fixture
def filled(settings: Settings, store: Store, subjects: dict[str, str]) -> Store:
    """Three answers each to Ada and Bob; all corrected; one of Bob's by Ada."""
    for name in (ADA, BOB):
        for number in range(3):
            row_id = f"{name}{number}"
            store.add_interactions(
                [
                    Interaction(
                        row_id=row_id,
                        request_id=row_id,
                        ts=100.0 + number,
                        api="chat",
                        alias="support",
                        version="base",
                        base_model="base",
                        subject=subjects[name],
                        messages=[{"role": "user", "content": said(name, number)}],
                        response="no",
                    )
                ]
            )
            by = ADA if row_id == "bob2" else name
            given = {"correction": f"giraffe {by} {row_id}", "reason": f"okapi {by}"}
            store.add_feedback(
                Feedback(feedback_id=row_id, row_id=row_id, ts=200.0, subject=subjects[by], **given)
            )
    store.add_feedback(
        Feedback(feedback_id="v", row_id="bob0", ts=201.0, rating="down", subject=subjects[ADA])
    )
    sweep(settings.model_copy(update={"curate": trusting(settings)}), store)
    return store


def trusting(settings: Settings) -> Any:
    known = settings.curate.acceptance.model_copy(update={"new_subject_hours": 0})
    trusted = {"trusted_sources": ("user", "operator"), "acceptance": known}
    return settings.curate.model_copy(update=trusted)


def version_of(settings: Settings, store: Store, run: Path) -> Version:
    """A version as train.publish makes it, but for the weights."""
    manifest, pairs = dataset.load(run / "dataset", store)
    registry = Registry(settings.registry)
    with registry.building("support") as (number, lora_id, folder):
        write_adapter(folder)
        lines = [Line(p.row_id, p.user, {"messages": p.messages}) for p in pairs]
        write_jsonl(
            folder / "training_data.jsonl", store.sealed_lines(lines, "training_data.jsonl")
        )
        return registry.publish(
            folder,
            {
                "alias": "support",
                "version": number,
                "lora_id": lora_id,
                "base_model": "base",
                "base_fingerprint": "fw1:base:1",
                "template_hash": "fw1:template:1",
                "rank": 16,
                "dataset_id": manifest.dataset_id,
                "pairs": manifest.pairs,
                "run_id": run.name,
                "created": 1.0,
            },
        )


@pytest.fixture
def run(settings: Settings, filled: Store) -> Path:
    folder = settings.runs / "2026-01-01T00h00m00s-support"
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"alias": "support", "started": 1.0, "verdict": "pass"})
    build(settings, filled, "support", folder)
    return folder


def grep(word: str, *folders: Path) -> list[str]:
    """Files with a word in them."""
    found = subprocess.run(
        ["grep", "-rl", word, *map(str, folders)], capture_output=True, text=True
    )
    return found.stdout.split()


def test_nothing_of_a_person_is_left(
    settings: Settings, filled: Store, run: Path, subjects: dict[str, str], tmp_path: Path
) -> None:
    version = version_of(settings, filled, run)
    backup = tmp_path / "backup"
    shutil.copytree(settings.var, backup, ignore=shutil.ignore_patterns("*.key"))
    outcome = forget(settings, filled, subjects[ADA], **WHO)
    assert outcome.keys == 1
    assert outcome.rows == 4  # three answers of hers, and the one that she corrected
    assert outcome.pairs == 4
    assert outcome.versions == [version.name]
    # The ledger: her rows are there, as numbers; Bob's are whole, but for what she wrote.
    rows = {row.row_id: row for row in filled.interactions()}
    assert len(rows) == 6
    for row in rows.values():
        mine = row.row_id.startswith(ADA)
        assert (row.messages is None) == (row.response is None) == mine
        assert row.stored_text != mine
    feedback = {row.feedback_id: row for _, row in filled.feedback()}
    assert [feedback[f"bob{n}"].correction is None for n in range(3)] == [False, False, True]
    assert feedback["v"].rating == "down"
    assert sorted(filled.corrections()) == ["bob0", "bob1"]
    # Datasets and versions are whole without her pairs.
    manifest, pairs = dataset.load(run / "dataset", filled)
    assert [pair.row_id for pair in pairs] == ["bob0", "bob1"]
    assert (manifest.pairs, manifest.removed) == (6, 4)
    registry = Registry(settings.registry)
    again = registry.get("support", 1)
    registry.verify(again)
    lines = (again.path / "training_data.jsonl").read_text().splitlines()
    assert {json.loads(line)["row_id"] for line in lines} == {"bob0", "bob1"}
    # A backup of everything but the keys, opened with today's keys, gives nothing of hers.
    old = dataset._read(backup / "runs" / run.name / "dataset")[1]
    opened = filled.opened_lines(old, dataset.KIND)
    assert [line and line["row_id"] for line in opened].count(None) == 4
    for word in ("zebra", "giraffe", "okapi"):
        assert grep(word, settings.var, backup) == []


def test_drafts_and_what_a_build_knows_go_too(
    settings: Settings, filled: Store, run: Path, subjects: dict[str, str]
) -> None:
    drafts, candidates, queue = tables.drafts, tables.candidates, tables.queue
    mine = f"{ADA}0"
    filled.save_draft(mine, "ben", "a zebra is meant")
    with filled.transaction() as connection:
        filled.requeue(mine, connection)
    with filled.reading() as connection:
        assert b"zebra" not in connection.scalar(sa.select(drafts.c.text))
        assert mine in set(connection.scalars(sa.select(candidates.c.row_id)))
    assert filled.draft(mine, "ben") == "a zebra is meant"
    forget(settings, filled, subjects[ADA], **WHO)
    assert filled.draft(mine, "ben") is None
    with filled.reading() as connection:
        assert connection.execute(sa.select(drafts)).all() == []
        assert set(connection.scalars(sa.select(candidates.c.row_id))) == {"bob0", "bob1"}
        assert connection.execute(sa.select(queue).where(queue.c.waiting)).all() == []
    assert filled.claim("support", "ben", seconds=60) is None


def test_a_retrain_leaves_them_out(
    settings: Settings, filled: Store, subjects: dict[str, str]
) -> None:
    assert len(collect(settings, filled, "support").pairs) == 6
    forget(settings, filled, subjects[ADA], **WHO)
    assert [p.row_id for p in collect(settings, filled, "support").pairs] == ["bob0", "bob1"]


def test_status_names_what_was_trained_on_them_until_it_is_replaced(
    settings: Settings, filled: Store, run: Path, subjects: dict[str, str]
) -> None:
    version_of(settings, filled, run)
    deployments = Deployments(filled)
    deployments.promote("support", 1, who="operator:x", why="")
    assert trained_on_forgotten(settings, filled) == []
    forget(settings, filled, subjects[ADA], **WHO)
    assert trained_on_forgotten(settings, filled) == ["support@v1"]
    found = status(settings, filled, ["support"], "http://127.0.0.1:9/v1")
    assert "support@v1 (live) was trained on pairs of somebody" in status_text(found)
    new = settings.runs / "2026-01-02T00h00m00s-support"
    build(settings, filled, "support", new)
    version_of(settings, filled, new)
    deployments.promote("support", 2, who="operator:x", why="")
    assert trained_on_forgotten(settings, filled) == ["support@v1"]
    found = status(settings, filled, ["support"], "http://127.0.0.1:9/v1")
    assert "support@v2 (live) was trained" not in status_text(found)
    assert "support@v1 (previous) was trained" in status_text(found)


def test_an_unfinished_run_is_closed(
    settings: Settings, filled: Store, run: Path, subjects: dict[str, str]
) -> None:
    write_json(run / "run.json", {"alias": "support", "started": 1.0})
    outcome = forget(settings, filled, subjects[BOB], **WHO)
    assert outcome.closed_runs == [run.name]
    assert read_json(run / "run.json")["verdict"] == "closed"


def test_who_comes_back_is_kept_anew(
    settings: Settings, filled: Store, subjects: dict[str, str]
) -> None:
    late = filled.interaction("ada0")
    forget(settings, filled, subjects[ADA], **WHO)
    # On its way while she was forgotten: its text is not kept.
    filled.add_interactions([late.model_copy(update={"row_id": "late"})])
    assert not filled.interaction("late").stored_text
    new = late.model_copy(update={"row_id": "new", "ts": 9e9})
    filled.add_interactions([new])
    assert filled.interaction("new").messages == late.messages
    assert filled.interaction("ada0").messages is None


def test_another_process_that_has_the_keys_in_mind_forgets_too(
    settings: Settings, filled: Store, subjects: dict[str, str]
) -> None:
    with closing(Store.open(settings)) as other:
        assert other.interaction("ada0").messages
        before = other.interaction("ada0")
        forget(settings, filled, subjects[ADA], **WHO)
        assert other.interaction("ada0").messages is None
        other.add_interactions([before.model_copy(update={"row_id": "x", "ts": 9e9})])
        assert filled.interaction("x").messages == before.messages


def test_what_was_cut_off_is_finished_by_the_same_command(
    settings: Settings,
    filled: Store,
    run: Path,
    subjects: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version_of(settings, filled, run)
    writes = 0

    def dies_at(number: int) -> None:
        nonlocal writes
        writes = 0

        def write(*arguments: Any, real: Any = write_jsonl, **more: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == number:
                raise OSError("no space left on device")
            real(*arguments, **more)

        monkeypatch.setattr(dataset, "write_jsonl", write)
        monkeypatch.setattr(dataset, "write_json", lambda *a, **k: write(*a, real=write_json, **k))

    for number in (1, 2):
        dies_at(number)
        with pytest.raises(OSError, match="no space"):
            forget(settings, filled, subjects[ADA], **WHO)
        monkeypatch.undo()
        with pytest.raises(DatasetError, match="Build it again"):
            dataset.load(run / "dataset", filled)
    forget(settings, filled, subjects[ADA], **WHO)
    assert len(dataset.load(run / "dataset", filled)[1]) == 2
    Registry(settings.registry).verify(Registry(settings.registry).get("support", 1))


def test_an_operator_s_correction_of_their_row_goes_too(
    settings: Settings, filled: Store, subjects: dict[str, str]
) -> None:
    correct(filled, "ada1", "okapi of the operator", "x")
    forget(settings, filled, subjects[ADA], **WHO)
    assert "ada1" not in filled.corrections()


def test_a_session_of_nobody_known(settings: Settings, store: Store) -> None:
    session = Vault.open(settings.privacy.key_file).session("s")
    row = Interaction(
        row_id="r",
        request_id="r",
        ts=1,
        api="chat",
        version="base",
        base_model="base",
        session=session,
        response="zebra",
    )
    store.add_interactions([row])
    store.add_dataset(
        DatasetRecord(dataset_id="d", ts=2.0, alias="support", path="", pairs=1, row_ids=["r"])
    )
    assert store.datasets_with_forgotten() == set()
    subject = subject_of(settings, None, f"session:{session}")
    assert forget(settings, store, subject, **WHO).rows == 1
    assert store.interaction("r").response is None
    assert store.datasets_with_forgotten() == {"d"}


def test_whom_to_forget(settings: Settings, store: Store, subjects: dict[str, str]) -> None:
    assert subject_of(settings, ADA, None) == subjects[ADA]
    assert subject_of(settings, None, subjects[ADA]) == subjects[ADA]
    for user, subject in ((None, None), ("a", "b"), (None, "ada")):
        with pytest.raises(UsageError):
            subject_of(settings, user, subject)
    nobody = forget(settings, store, subject_of(settings, "nobody", None), **WHO)
    assert (nobody.rows, nobody.keys) == (0, 0)
    assert "There was no key" in text(nobody)


@pytest.mark.sqlite
def test_the_commands(
    settings: Settings, filled: Store, run: Path, tmp_path: Path, make_settings: MakeSettings
) -> None:
    config = tmp_path / "config.yaml"
    write_json(config, settings.model_dump(mode="json", exclude_defaults=True))  # JSON is YAML
    shell = CliRunner()

    def ask(*words: str) -> Any:
        done = shell.invoke(cli, ["--config", str(config), *words, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    version_of(settings, filled, run)
    opened = tmp_path / "opened.jsonl"

    def exported() -> list[str]:
        words = ["export", "support", "--version", "1", "--out", str(opened)]
        done = shell.invoke(cli, ["--config", str(config), *words])
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in opened.read_text().splitlines()]
        return [line["messages"][-1]["content"] for line in lines]

    assert len(exported()) == 6
    assert ask("forget", "--user", ADA, "--because", "she asked")["pairs"] == 4
    shown = ask("keys", "show")
    assert shown["known here"]
    assert exported() == ["giraffe bob bob0", "giraffe bob bob1"]
    rotated = ask("keys", "rotate")
    assert (rotated["before"], rotated["keys"]) == (shown["in use"], 1)
    assert ask("keys", "show")["in use"] == rotated["after"]
    refused = shell.invoke(cli, ["--config", str(config), "forget"])
    assert isinstance(refused.exception, UsageError)
