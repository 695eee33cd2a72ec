"""Settings: what is refused, how it is said, and that the documentation is current."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from conftest import MakeSettings
from pydantic import BaseModel

from ledger.errors import ConfigError
from ledger.keys.vault import Vault
from ledger.settings import Serve, Settings, api_keys, load, parse
from ledger.settings.rollout import Rollout
from ledger.settings_doc import document

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LEAST: dict[str, Any] = {"model": {"name": "m", "path": "p"}, "aliases": {"support": {}}}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_configuration_in_the_repository_parses(file: Path) -> None:
    settings = load(file)
    for alias in settings.aliases.values():
        for gold in alias.gate.gold:
            assert (ROOT / gold).is_file()


def test_all_errors_are_said_at_once_with_their_keys() -> None:
    raw = {
        "model": {"name": "m", "path": "p", "dtyp": "float32", "max_length": 1},
        "aliases": {"support": {"gate": {"margins": 0.1, "confidence": 2}}},
        "serve": {"port": "eighty"},
        "servr": {},
        "train": {"learning_rate": float("inf")},
    }
    with pytest.raises(ConfigError) as caught:
        parse(raw, name="my.yaml")
    said = str(caught.value)
    assert "my.yaml: 7 setting(s) are wrong" in said
    for key in ("model.dtyp", "aliases.support.gate.margins", "servr"):
        assert f"{key}: no such setting" in said
    for key in ("model.max_length", "aliases.support.gate.confidence", "serve.port"):
        assert f"  {key}: " in said
    assert "found 'eighty'" in said
    assert "docs/configuration.md" in said


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"rank": 32}}, "serve.max_lora_rank is 16"),
        ({"model": {"name": "support", "path": "p"}}, "also model.name"),
        ({"train": {"max_length": 4096}}, "above model.max_length 2048"),
        ({"aliases": {"a@v1": {}}}, "use letters"),
        ({"aliases": {"../up": {}}}, "use letters"),
        ({"aliases": {".ids": {}}}, "not '.' or '-' first"),
        ({"aliases": {"": {}}}, "use letters"),
        ({"aliases": {}}, "aliases"),
        ({"serve": {"max_loras": 2}}, "serve.max_loras"),
        ({"serve": {"buffer_mib": float("inf")}}, "serve.buffer_mib"),
        ({"curate": {"trusted_sources": ["strangers"]}}, "curate.trusted_sources.0"),
    ],
)
def test_what_contradicts_itself_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse({**LEAST, **sections}, name="x")


def test_contradictions_are_said_together() -> None:
    raw = {
        "model": {"name": "support", "path": "p"},
        "aliases": {"support": {}, "a b": {}},
        "train": {"rank": 64, "max_length": 9999},
    }
    with pytest.raises(ConfigError) as caught:
        parse(raw, name="x")
    for part in ("serve.max_lora_rank", "also model.name", "'a b'", "train.max_length"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is a mapping, found NoneType"),
        ("- a\n- b\n", "is a mapping, found list"),
        ("model: {name: [", "cannot be read as YAML"),
        ("model: {name: m, path: p}\naliases: {s: {}}\nmodel: {name: n, path: p}\n", "given twice"),
        ("train:\n  rank: 8\n  rank: 16\n", "rank: given twice"),
        ("model: !!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(file)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration at") as caught:
        load(tmp_path / "none.yaml")
    assert "configs/demo.yaml" in caught.value.remedy
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"model: \xe9\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "latin")


def test_settings_do_not_change(make_settings: MakeSettings) -> None:
    settings = make_settings(aliases={"other": {}})
    with pytest.raises(ValueError, match="frozen"):
        settings.serve.port = 1  # type: ignore[misc]
    assert settings.only_alias is None
    with pytest.raises(ConfigError, match=r"'nobody'.*\n.*other, support"):
        settings.alias("nobody")


# -- keys --------------------------------------------------------------------------------


def test_api_keys_come_from_the_file_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst\n\n  second \n")
    file.chmod(0o600)
    monkeypatch.setenv("FLYWHEEL_API_KEYS", "third, ,fourth")
    assert sorted(api_keys(Serve(api_keys_file=file))) == ["first", "fourth", "second", "third"]
    assert api_keys(Serve()) == ["third", "fourth"]
    monkeypatch.delenv("FLYWHEEL_API_KEYS")
    assert api_keys(Serve()) == []


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("key\n", 0o644, "has mode 0644"),
        ("# none\n\n", 0o600, "holds no key"),
        (None, 0, "No such"),
    ],
)
def test_a_bad_api_key_file(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        api_keys(Serve(api_keys_file=file))


def test_the_subject_key_is_made_once_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "subject.key"
    vault = Vault.open(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in file.parent.iterdir()] == ["subject.key"]
    ada = vault.subject("ada")
    assert Vault.open(file).subject("ada") == ada
    assert re.fullmatch("[0-9a-f]{32}", ada)
    assert len({ada, vault.subject("bob"), vault.session("ada")}) == 3
    assert Vault.open(tmp_path / "other.key").subject("ada") != ada


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"00" * 32, 0o640, "has mode 0640"),
        (b"", 0o600, "does not hold a key"),
        (b"00" * 31, 0o600, "does not hold a key"),
        (b"\xff\xfe" * 32, 0o600, "does not hold a key"),
        (b"zz" * 32, 0o600, "does not hold a key"),
    ],
)
def test_a_bad_subject_key(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    file = tmp_path / "subject.key"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        Vault.open(file)
    assert file.read_bytes() == content


def test_a_subject_key_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can be neither read nor made"):
        Vault.open(tmp_path / "file" / "subject.key")


# -- documentation -----------------------------------------------------------------------


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        key = f"{prefix}{name}"
        if get_origin(inner) is dict:
            inner, key = get_args(inner)[1], f"{key}.<alias>"
        elif get_origin(inner) is types.UnionType:  # a section that may be absent
            inner = get_args(inner)[0]
        if (
            get_origin(inner) is tuple
            and isinstance(get_args(inner)[0], type)
            and (issubclass(get_args(inner)[0], BaseModel))
        ):
            yield key, field.description
            inner, key = get_args(inner)[0], f"{key}[]"
        if prefix and inner is Rollout:  # described once, where it holds for all
            yield key, field.description
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{key}.")
        else:
            yield f"{prefix}{name}", field.description


def test_every_setting_says_what_it_is() -> None:
    fields = dict(_fields(Settings))
    assert len(fields) >= 50
    assert [key for key, description in fields.items() if not description] == []


def test_the_documentation_is_current() -> None:
    page = document()
    for key, description in _fields(Settings):
        assert f"| `{key}` |" in page
        assert str(description) in page
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page, "run: python -m ledger.settings_doc > docs/configuration.md"
