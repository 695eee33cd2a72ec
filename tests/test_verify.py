"""`flywheel verify`: whatever of a version was changed after it was made is named."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeSettings
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from versions_made import make_version, write_model

from ledger.deployments import Deployment, Deployments
from ledger.errors import ConfigError, RegistryError
from ledger.files import read_json, write_json
from ledger.hashing import file_sha256
from ledger.registry import MANIFEST, TRAINING_DATA, WEIGHTS, Registry, Version
from ledger.registry.verify import Examined, verify_alias
from ledger.settings import Settings
from ledger.store import Store

pytestmark = pytest.mark.sqlite


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    write_model(tmp_path / "model")
    return make_settings()


def examine(settings: Settings, store: Store, only: int | None = None) -> list[Examined]:
    return verify_alias(settings, store, "support", Deployments(store).state("support"), only)


def write_keys(folder: Path, name: str = "key", password: bytes | None = None) -> tuple[Path, Path]:
    """A private key and its public one, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_what_is_as_it_was_made(settings: Settings, store: Store) -> None:
    make_version(settings, store)
    make_version(settings, store, seed=1)
    for found in examine(settings, store):
        assert found.problems == []
        assert found.notes == []
        assert found.signature == "none"
    (one,) = examine(settings, store, only=2)
    assert one.version == "support@v2"
    with pytest.raises(RegistryError, match="support@v7 is not in the registry"):
        examine(settings, store, only=7)


def _rewrite_manifest(version: Version, **changes: object) -> None:
    file = version.path / MANIFEST
    write_json(file, {**read_json(file), **changes})


def _swap_weights(version: Version) -> None:
    """As somebody who knows how manifests are made."""
    (version.path / WEIGHTS).write_bytes(b"other weights")
    files = {**version.manifest.files, WEIGHTS: file_sha256(version.path / WEIGHTS)}
    _rewrite_manifest(version, files=files)


def _swap_answer(version: Version) -> None:
    """One line of the training data under another row's name, and the manifest made to fit."""
    file = version.path / TRAINING_DATA
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["sealed"] = lines[1]["sealed"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _rewrite_manifest(version, files={**version.manifest.files, TRAINING_DATA: file_sha256(file)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: (v.path / WEIGHTS).write_bytes(b"x"), f"{WEIGHTS} has SHA-256"),
        (lambda v: (v.path / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda v: (v.path / "x.py").write_text(""), "x.py is not in its manifest"),
        (lambda v: (v.path / "link").symlink_to("/etc/hostname"), "link is not in its manifest"),
        (lambda v: (v.path / MANIFEST).write_text("{"), "is damaged"),
        (lambda v: (v.path / MANIFEST).unlink(), "is not complete"),
        (lambda v: shutil.rmtree(v.path), "is not in the registry"),
        (_swap_weights, "the ledger wrote down"),
        (_swap_weights, f"{WEIGHTS} is not what was trained"),
        (lambda v: _rewrite_manifest(v, dataset_id="fw1:dataset:0"), "train.json says fw1:dataset"),
        (lambda v: _rewrite_manifest(v, dataset_id="fw1:dataset:0"), "it was trained on fw1"),
        (lambda v: _rewrite_manifest(v, lora_id=9), "adapter id is 9, which is nobody's"),
        (_swap_answer, f"{TRAINING_DATA}: the line of row"),
    ],
)
def test_what_was_changed_is_named(
    settings: Settings, store: Store, change: Callable[[Version], object], said: str
) -> None:
    change(make_version(settings, store))
    (found,) = examine(settings, store)
    assert said in "\n".join(found.problems)


def test_a_dataset_that_was_changed_is_named(settings: Settings, store: Store) -> None:
    version = make_version(settings, store)
    pairs = settings.runs / version.manifest.run_id / "dataset" / "pairs.jsonl"
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(lines[1:]) + "\n")
    (found,) = examine(settings, store)
    assert "dataset has the content" in found.problems[0]


def test_where_the_dataset_is_not_here_its_rows_are_compared(
    settings: Settings, store: Store
) -> None:
    version = make_version(settings, store)
    shutil.rmtree(settings.runs)
    (found,) = examine(settings, store)
    assert found.problems == []
    assert "was not compared" in found.notes[0] or "rows were compared" in found.notes[0]
    assert version.manifest.dataset_id


def test_another_base_model_matters_where_the_version_is_served(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    make_version(settings, store)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x" * 11)
    (found,) = examine(settings, store)
    assert found.problems == []
    assert "trained on the base" in found.notes[0]
    live = Deployment("support", history=(0, 1))
    (found,) = verify_alias(settings, store, "support", live)
    assert "trained on the base" in found.problems[0]


def test_forgetting_somebody_does_not_look_like_tampering(settings: Settings, store: Store) -> None:
    version = make_version(settings, store)
    lines = (version.path / TRAINING_DATA).read_text().splitlines()
    row = json.loads(lines[0])["row_id"]
    Registry.of(settings).remove_lines(version, TRAINING_DATA, "row_id", {row})
    (found,) = examine(settings, store)
    assert found.problems == []


# -- signatures ----------------------------------------------------------------------------


@pytest.fixture
def signing(make_settings: MakeSettings, settings: Settings, tmp_path: Path) -> Settings:
    private, public = write_keys(tmp_path)
    return make_settings(
        signing={"private_key": str(private), "public_key": str(public), "required": True}
    )


def test_only_signed_versions_are_served_where_that_is_required(
    signing: Settings, store: Store
) -> None:
    version = make_version(signing, store)
    registry, facts = Registry.of(signing), version.manifest

    def serve() -> Version:
        return registry.servable("support", 1, fingerprint=facts.base_fingerprint, max_rank=4)

    with pytest.raises(RegistryError, match="support@v1 is not signed"):
        serve()
    (found,) = examine(signing, store)
    assert (found.signature, len(found.problems)) == ("missing", 1)
    assert registry.sign(version, store, who="test")
    assert not registry.sign(version, store, who="test")  # once is enough
    assert serve() == version
    assert [n.kind for n in store.version_notes("support")[1]] == ["published", "signed"]
    # It lies beside the folder, which did not change, and is no incomplete version.
    assert registry.signature("support", 1).parent.parent == version.path.parent
    assert registry.incomplete() == []
    (found,) = examine(signing, store)
    assert (found.signature, found.problems) == ("valid", [])
    # Forgetting somebody needs no private key.
    row = json.loads((version.path / TRAINING_DATA).read_text().splitlines()[0])["row_id"]
    registry.remove_lines(version, TRAINING_DATA, "row_id", {row})
    assert serve().name == "support@v1"
    # Weights that were changed with the manifest fitted to them pass every hash but this one.
    _swap_weights(registry.get("support", 1))
    with pytest.raises(RegistryError, match=r"signature of support@v1 is not valid.*Hash mismatch"):
        serve()


def test_a_signature_of_another_key_or_version_is_none(
    signing: Settings, store: Store, tmp_path: Path, make_settings: MakeSettings
) -> None:
    first, second = make_version(signing, store), make_version(signing, store, seed=1)
    private, _ = write_keys(tmp_path, "other")
    other = signing.model_copy(
        update={"signing": signing.signing.model_copy(update={"private_key": private})}
    )
    Registry.of(other).sign(first, store, who="thief")
    (found, _) = examine(signing, store)
    assert found.signature == "invalid"
    assert "Key mismatch" in found.problems[0]
    registry = Registry.of(signing)
    registry.sign(second, store, who="test")
    shutil.copy(registry.signature("support", 2), registry.signature("support", 1))
    assert examine(signing, store)[0].signature == "invalid"
    # The payload of a good signature, changed.
    file = registry.signature("support", 2)
    bundle = json.loads(file.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    changed = payload.replace(b'"sha256": "', b'"sha256": "0', 1)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
    file.write_text(json.dumps(bundle))
    assert examine(signing, store)[1].signature == "invalid"


def test_keys_that_are_not_there_or_locked(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(settings, store)
    with pytest.raises(ConfigError, match=r"signing\.private_key is not set"):
        Registry.of(settings).sign(version, store, who="test")
    private, _ = write_keys(tmp_path, password=b"pass phrase")
    with_key = settings.model_copy(
        update={"signing": settings.signing.model_copy(update={"private_key": private})}
    )
    registry = Registry.of(with_key)
    with pytest.raises(RegistryError, match="FLYWHEEL_SIGNING_PASSWORD"):
        registry.sign(version, store, who="test")
    assert not registry.signature("support", 1).exists()
    monkeypatch.setenv("FLYWHEEL_SIGNING_PASSWORD", "pass phrase")
    assert registry.sign(version, store, who="test")
    (found,) = examine(settings, store)
    assert (found.signature, found.problems) == ("unchecked", [])


def test_the_tool_of_the_library_reads_our_signatures(
    signing: Settings, store: Store, tmp_path: Path
) -> None:
    import subprocess
    import sys

    version = make_version(signing, store)
    registry = Registry.of(signing)
    registry.sign(version, store, who="test")
    command = [sys.executable, "-W", "ignore", "-m", "model_signing", "verify", "key"]
    command += [str(version.path), "--signature", str(registry.signature("support", 1))]
    command += ["--public_key", str(signing.signing.public_key)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
