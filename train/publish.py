"""A finished training run becomes a version in the registry.

    python -m train.publish --config C --alias A --run DIR [--parent support@v3]

A run is published once: DIR/publish.json, written last, names the version, and publishing again
returns that one. Loading it into a server and giving it traffic are not done here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.clock import now
from ledger.dataset import DatasetManifest, Pair
from ledger.dataset import load as load_dataset
from ledger.errors import FlywheelError, RegistryError
from ledger.files import read_json, write_atomic, write_json, write_jsonl
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import file_sha256
from ledger.model import model_folder
from ledger.registry import (
    ADAPTER_CONFIG,
    TRAINING_DATA,
    WEIGHTS,
    Registry,
    Version,
    check_adapter,
    content_id,
)
from ledger.settings import Settings
from ledger.settings import load as load_settings
from ledger.store import Line, Store
from train import result
from train.card import card
from train.report import PICTURE
from train.result import TrainResult

FILE = "publish.json"
CARD = "README.md"


def publish(settings: Settings, alias: str, run_dir: Path, parent: str | None) -> Version:
    """Make a version of a run's adapter, or return the one that was made of it.

    Args:
        parent: the pinned name that is live now; None where the base model is.

    Raises:
        ConfigError: the alias or the base model is not there.
        DatasetError: the run's dataset is broken, or is not what the adapter was trained on.
        RegistryError: the run has not finished, the adapter was altered, cannot be served, or
            belongs to another base model or alias.
        FlywheelError: the disk does not take it.
    """
    settings.alias(alias)
    done = result.read(run_dir)
    if done is None:
        raise RegistryError(
            f"{run_dir} has no {result.FILE}: its training has not finished",
            remedy="Run the training again; it resumes.",
        )
    registry = Registry.of(settings)
    if earlier := _published(registry, alias, run_dir, done):
        _record(settings, registry, earlier)
        return earlier
    with closing(Store.open(settings)) as store:
        manifest, pairs = load_dataset(run_dir / "dataset", store)
        out = {row_id for rows in done.left_out.values() for row_id in rows}
        said = (p for p in pairs if p.split == "train" and p.kind != "disliked")
        trained = (p for p in said if p.row_id not in out)
        kept = (_line(pair, rejected=done.preference is not None) for pair in trained)
        lines = store.sealed_lines(kept, TRAINING_DATA)
    adapter = run_dir / result.ADAPTER
    config = check_adapter(adapter, max_rank=settings.serve.max_lora_rank)
    _belongs(settings, alias, done, manifest, adapter)
    try:
        version = _build(registry, settings, alias, parent, done, manifest, lines, adapter, config)
        write_json(run_dir / FILE, {"version": version.name})
    except OSError as error:
        raise FlywheelError(
            f"a version of {alias} cannot be written to {registry.root}: {error}",
            rule="Nothing was published: a version is there whole or not at all.",
            remedy="Make room or mend the path, and run the same command.",
        ) from error
    _record(settings, registry, version)
    return version


def _record(settings: Settings, registry: Registry, version: Version) -> None:
    """Write its hash into the ledger, and sign it where there is a key. Safe to repeat."""
    alias, number = version.manifest.alias, version.manifest.version
    with closing(Store.open(settings)) as store:
        what = content_id(version.manifest)
        run = f"run {version.manifest.run_id}"
        store.note_version(alias, number, "published", what, who="publish", why=run)
        if settings.signing.private_key is not None:
            registry.sign(version, store, who="publish")


def _published(registry: Registry, alias: str, run_dir: Path, done: TrainResult) -> Version | None:
    """The version that was made of this run, if any."""
    file = run_dir / FILE
    if file.exists():
        try:
            name, _, number = read_json(file)["version"].partition("@v")
            version = registry.get(name, int(number))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RegistryError(
                f"{file} is damaged: {error}",
                remedy=f"Look in `flywheel versions` for the run {done.run_id}, and remove the "
                "file if it was not published.",
            ) from error
        if name != alias:
            raise RegistryError(
                f"{run_dir} was published as {version.name}, not for {alias}",
                rule="A run belongs to one alias.",
            )
        return version
    # A crash between the registry's rename and our note leaves a version without the note.
    for version in registry.versions(alias):
        facts = version.manifest
        if (facts.run_id, facts.files.get(WEIGHTS)) == (done.run_id, done.adapter_sha256):
            write_json(file, {"version": version.name})
            return version
    return None


def _belongs(
    settings: Settings, alias: str, done: TrainResult, manifest: DatasetManifest, adapter: Path
) -> None:
    """The adapter is the one that was trained, on this dataset, for this base and alias."""
    if done.dataset_id != manifest.dataset_id:
        raise RegistryError(
            f"the adapter was trained on {done.dataset_id}, the run's dataset is "
            f"{manifest.dataset_id}",
            remedy="Train the dataset in a new run.",
        )
    if manifest.alias != alias:
        raise RegistryError(
            f"the run's dataset was made for {manifest.alias!r}, not for {alias!r}",
            rule="A run belongs to one alias.",
        )
    found = file_sha256(adapter / WEIGHTS)
    if found != done.adapter_sha256:
        raise RegistryError(
            f"{adapter / WEIGHTS} has SHA-256 {found}, its training says {done.adapter_sha256}",
            rule="What is published is what was trained.",
            remedy=f"Remove {result.FILE} and train again.",
        )
    folder = model_folder(settings, fetch=True)
    now = (base_fingerprint(folder), template_hash(folder))
    if now != (done.base_fingerprint, done.template_hash):
        raise RegistryError(
            f"the adapter was trained on {done.base_model} ({done.base_fingerprint}, "
            f"{done.template_hash}), the configuration has {settings.model.name} "
            f"({now[0]}, {now[1]})",
            rule="An adapter fits the base model and the chat template it was trained with.",
            remedy="Set model.path to that base model, or train again on the new one.",
        )


def _build(
    registry: Registry,
    settings: Settings,
    alias: str,
    parent: str | None,
    done: TrainResult,
    manifest: DatasetManifest,
    lines: list[dict[str, Any]],
    adapter: Path,
    config: dict[str, Any],
) -> Version:
    with registry.building(alias) as (number, lora_id, folder):
        for file in (WEIGHTS, ADAPTER_CONFIG):
            shutil.copyfile(adapter / file, folder / file)
        if picture := (adapter.parent / PICTURE).is_file():
            shutil.copyfile(adapter.parent / PICTURE, folder / PICTURE)
        name = f"{alias}@v{number}"
        text = card(settings, alias, name, parent, manifest, done, picture=picture)
        write_atomic(folder / CARD, text.encode())
        write_jsonl(folder / TRAINING_DATA, lines)
        write_json(folder / result.FILE, done.model_dump())
        return registry.publish(
            folder,
            {
                "alias": alias,
                "version": number,
                "lora_id": lora_id,
                "base_model": settings.model.name,
                "base_fingerprint": done.base_fingerprint,
                "template_hash": done.template_hash,
                "rank": config["r"],
                "dataset_id": done.dataset_id,
                "pairs": done.pairs,
                "parent": parent,
                "run_id": done.run_id,
                "created": now(),
            },
        )


def _line(pair: Pair, *, rejected: bool) -> Line:
    """One line of training_data.jsonl: the chat fine-tuning form, and which row it came from.

    Args:
        rejected: whether what a correction replaces was trained with, too.
    """
    fields: dict[str, Any] = {"messages": pair.messages, "source": pair.source}
    if pair.tools:
        fields["tools"] = pair.tools
    if pair.chat_template_kwargs:
        fields["chat_template_kwargs"] = pair.chat_template_kwargs
    if rejected and pair.rejected:
        fields["rejected"] = pair.rejected
    return Line(pair.row_id, pair.user, fields)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m train.publish", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", required=True, type=Path, help="configuration, YAML")
    parser.add_argument("--alias", required=True, help="the name that clients ask for")
    parser.add_argument("--run", required=True, type=Path, help="the run's folder")
    parser.add_argument("--parent", help="the pinned name that is live now")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    try:
        version = publish(load_settings(given.config), given.alias, given.run, given.parent)
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps({"version": version.name, "path": str(version.path)}))
    else:
        print(f"published {version.name} in {version.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
