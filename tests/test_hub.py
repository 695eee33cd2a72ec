"""Versions pushed to and pulled from a folder, fsspec's memory, and a small hub over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakeSettings
from fake_hub import TOKEN, FakeHub
from test_verify import write_keys
from versions_made import SETS, judge, make_version, write_model

from flywheel.sharing import place_of, pull, push
from flywheel.sharing.bucket import FsspecPlace
from flywheel.sharing.hub import HubPlace
from flywheel.sharing.place import Place, PlaceError
from ledger.deployments import Deployments
from ledger.errors import ConfigError, RegistryError
from ledger.hashing import file_sha256
from ledger.registry import MANIFEST, TRAINING_DATA, WEIGHTS, Registry, content_id
from ledger.registry.verify import verify_alias
from ledger.settings import Settings, parse
from ledger.store import Store

pytestmark = [
    pytest.mark.sqlite,
    # huggingface_hub's own way of sending a large file.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    write_model(tmp_path / "model")
    return make_settings()


class Other:
    """Another box: the same base model, a registry and a ledger of its own."""

    def __init__(self, settings: Settings, folder: Path, **sections: Any) -> None:
        raw = json.loads(settings.model_dump_json(exclude_unset=True)) | {
            "var": str(folder / "var"),
            "ledger": {"url": f"sqlite:///{folder}/var/ledger.db"},
            "privacy": {"key_file": str(folder / "var/keys/subject.key")},
            **sections,
        }
        self.settings = parse(raw, name="other")
        self.store = Store.open(self.settings)
        self.registry = Registry.of(self.settings)

    def pull(self, place: Place, number: int | None = None, **options: Any) -> Any:
        return pull(self.settings, self.store, place, "support", number, who="test", **options)


@pytest.fixture
def other(settings: Settings, tmp_path: Path) -> Iterator[Other]:
    found = Other(settings, tmp_path / "other")
    yield found
    found.store.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    # Xet is the hub's newer way for large files, with a server of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with FakeHub() as running:  # as HF_ENDPOINT does, which is read when the library is imported
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


@pytest.fixture(params=["folder", "memory", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "hub":
        request.getfixturevalue("hub")
        return HubPlace("hf://team/support")
    url = (
        f"memory://shared-{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/p"
    )
    return FsspecPlace(url)


def send(settings: Settings, store: Store, place: Place, number: int = 1, **options: Any) -> Any:
    return push(settings, store, place, "support", number, who="test", **options)


def test_a_version_goes_there_and_comes_back_whole(
    settings: Settings, store: Store, place: Place, other: Other
) -> None:
    make_version(settings, store)
    second = make_version(settings, store, parent="support@v1", seed=1)
    judge(store, second, "pass", sets=SETS)
    done = send(settings, store, place, 2)
    assert (done.version, done.new, done.without_data) == ("support@v2", True, True)
    assert TRAINING_DATA not in done.files
    # Again: nothing to do.
    before = place.files("")
    assert send(settings, store, place, 2).new is False
    assert place.files("") == before
    card = place.read(place.card_path("support")) or b""
    found = yaml.safe_load(card.decode().split("---\n")[1])
    assert found["model-index"][0]["name"] == "support@v2"
    values = [r["metrics"][0]["value"] for r in found["model-index"][0]["results"]]
    assert values == [0.9, 0.75]
    assert [note.kind for note in store.version_notes("support")[2]] == ["published", "pushed"]

    # Elsewhere other ids are taken; the number is kept.
    make_version(other.settings, other.store, seed=7)
    pulled = other.pull(place)
    assert (pulled.version, pulled.new, pulled.lora_id) == ("support@v2", True, 2)
    here = other.registry.get("support", 2)
    assert content_id(here.manifest) == content_id(second.manifest)
    assert (here.path / WEIGHTS).read_bytes() == (second.path / WEIGHTS).read_bytes()
    assert here.manifest.origin == f"{place.url}/support/v2"
    facts = second.manifest
    other.registry.servable("support", 2, fingerprint=facts.base_fingerprint, max_rank=4)
    state = Deployments(other.store).state("support")
    assert [e.problems for e in verify_alias(other.settings, other.store, "support", state)] == [
        [],
        [],
    ]
    assert other.pull(place, 2).new is False
    with pytest.raises(RegistryError, match="has no manifest"):
        other.pull(place, 9)
    assert other.registry.incomplete() == []


def test_a_name_is_never_given_twice(
    settings: Settings, store: Store, place: Place, other: Other
) -> None:
    make_version(settings, store)
    send(settings, store, place)
    make_version(other.settings, other.store, seed=5)
    # Another version 1 there, and another one here.
    before = place.read(f"support/v1/{MANIFEST}")
    with pytest.raises(RegistryError, match="holds another version"):
        send(other.settings, other.store, place)
    assert place.read(f"support/v1/{MANIFEST}") == before
    with pytest.raises(RegistryError, match="support@v1 is here, and is another version") as caught:
        other.pull(place)
    assert "--as-new" in caught.value.remedy
    pulled = other.pull(place, as_new=True)
    assert (pulled.version, pulled.lora_id) == ("support@v2", 2)
    assert other.registry.get("support", 2).manifest.origin == f"{place.url}/support/v1"
    assert other.pull(place, as_new=True).version == "support@v2"  # once is enough


def test_training_data_goes_only_where_it_is_asked_for(
    settings: Settings, store: Store, place: Place, other: Other
) -> None:
    version = make_version(settings, store)
    send(settings, store, place)
    assert place.read(f"support/v1/{TRAINING_DATA}") is None
    assert send(settings, store, place, with_data=True).new
    assert place.read(f"support/v1/{TRAINING_DATA}") == (version.path / TRAINING_DATA).read_bytes()
    assert send(settings, store, place).new is False  # and is not taken back
    other.pull(place)
    lines = (other.registry.get("support", 1).path / TRAINING_DATA).read_text().splitlines()
    # The other ledger has no key for it.
    rows = [json.loads(line) for line in lines]
    assert other.store.opened_lines(rows, TRAINING_DATA) == [None] * len(rows)


def _replace(place: FsspecPlace, path: str, data: bytes) -> None:
    place._fs.pipe_file(place._path(path), data)


def _remanifest(place: FsspecPlace, **changes: Any) -> None:
    path = f"support/v1/{MANIFEST}"
    found = json.loads(place.read(path) or b"")
    _replace(place, path, json.dumps({**found, **changes}).encode())


def _files(place: FsspecPlace, **more: str) -> dict[str, str]:
    files: dict[str, str] = json.loads(place.read(f"support/v1/{MANIFEST}") or b"")["files"]
    return {**files, **more}


def test_what_is_not_what_it_says_never_appears(
    settings: Settings, store: Store, tmp_path: Path, other: Other
) -> None:
    make_version(settings, store)
    nothing = file_sha256(Path("/dev/null"))

    def tries(number: int) -> FsspecPlace:
        place = FsspecPlace(f"file://{tmp_path}/place-{number}")
        send(settings, store, place)
        return place

    def refused(place: FsspecPlace, said: str) -> None:
        with pytest.raises((RegistryError, PlaceError), match=said):
            other.pull(place)
        assert other.registry.versions("support") == []
        assert other.registry.incomplete() == []
        assert not (other.settings.var / "evil").exists()

    place = tries(1)
    _replace(place, f"support/v1/{WEIGHTS}", b"other")
    refused(place, f"{WEIGHTS} has SHA-256")
    place = tries(2)
    (tmp_path / "place-2/support/v1" / WEIGHTS).unlink()
    refused(place, "cannot fetch")
    for number, name in enumerate(
        ("../../../evil", "/etc/evil", "a/../../evil", "a\\evil", "", ".hidden", MANIFEST, "a//b")
    ):
        place = tries(10 + number)
        _remanifest(place, files=_files(place, **{name: nothing}))
        refused(place, "names a file")
    place = tries(30)
    _replace(place, "support/v1/model.bin", b"")
    _remanifest(place, files=_files(place, **{"model.bin": nothing}))
    refused(place, "holds model.bin")
    place = tries(31)
    _remanifest(place, run_id="../../x")
    refused(place, "names a run")
    place = tries(32)
    _remanifest(place, alias="sales")
    refused(place, "says it is sales@v1")
    place = tries(33)
    _remanifest(place, files={f"f{n}": nothing for n in range(65)})
    refused(place, "65 files")
    place = tries(34)
    _replace(place, f"support/v1/{MANIFEST}", b'{"alias": "support"')
    refused(place, "is damaged")
    with pytest.raises(RegistryError, match="is damaged"):  # a push does not guess either
        send(settings, store, place)
    place = tries(35)
    config = b'{"r": 4, "use_dora": true}'
    _replace(place, "support/v1/adapter_config.json", config)
    sha = __import__("hashlib").sha256(config).hexdigest()
    _remanifest(place, files=_files(place, **{"adapter_config.json": sha}))
    refused(place, "use_dora")
    # No try used up the number.
    pulled = other.pull(tries(36))
    assert (pulled.version, pulled.lora_id) == ("support@v1", 1)


def test_a_push_that_was_cut_off_is_no_version_and_is_finished(
    settings: Settings, store: Store, tmp_path: Path, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version(settings, store)
    place = FsspecPlace(str(tmp_path / "place"))
    write = FsspecPlace._write

    def broken(self: FsspecPlace, path: str, data: Any) -> None:
        if path.endswith(MANIFEST):
            raise PlaceError("the disk is full")
        write(self, path, data)

    monkeypatch.setattr(FsspecPlace, "_write", broken)
    with pytest.raises(PlaceError):
        send(settings, store, place)
    assert f"support/v1/{WEIGHTS}" in place.files("support")
    with pytest.raises(RegistryError, match="has no version of support"):
        other.pull(place)
    monkeypatch.setattr(FsspecPlace, "_write", write)
    assert send(settings, store, place).new
    assert other.pull(place).new


def test_a_signature_travels_and_is_asked_for(
    make_settings: MakeSettings, settings: Settings, store: Store, tmp_path: Path
) -> None:
    private, public = write_keys(tmp_path)
    signing = {"private_key": str(private), "public_key": str(public), "required": True}
    ours = make_settings(signing=signing)
    version = make_version(ours, store)
    place = FsspecPlace(str(tmp_path / "place"))
    unsigned = send(ours, store, place)
    assert unsigned.signed is False
    theirs = Other(
        settings, tmp_path / "theirs", signing={"public_key": str(public), "required": 1}
    )
    with pytest.raises(RegistryError, match="support/v1 is not signed"):
        theirs.pull(place)
    Registry.of(ours).sign(version, store, who="test")
    again = send(ours, store, place)
    assert (again.new, again.signed) == (True, True)
    assert theirs.pull(place, as_new=True).new  # under another number it is the same version
    state = Deployments(theirs.store).state("support")
    (found,) = verify_alias(theirs.settings, theirs.store, "support", state)
    assert (found.signature, found.problems) == ("valid", [])
    _, wrong = write_keys(tmp_path, "wrong")
    third = Other(settings, tmp_path / "third", signing={"public_key": str(wrong)})
    with pytest.raises(RegistryError, match="is not valid"):
        third.pull(place)
    assert third.registry.versions("support") == []
    for box in (theirs, third):
        box.store.close()


def test_a_pruned_or_altered_version_is_not_pushed(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    version, place = make_version(settings, store), FsspecPlace(str(tmp_path / "place"))
    (version.path / WEIGHTS).write_bytes(b"x")
    with pytest.raises(RegistryError, match="has SHA-256"):
        send(settings, store, place)
    registry = Registry.of(settings)
    registry.write_pruned_note("support", 1, {"ts": 1.0, "files": [WEIGHTS]})
    with pytest.raises(RegistryError, match="was pruned"):
        send(settings, store, place)
    assert place.files("") == []


# -- what only the hub does --------------------------------------------------------------------


def test_the_hub_gets_one_commit_and_refuses_a_race(
    settings: Settings, store: Store, hub: FakeHub
) -> None:
    make_version(settings, store)
    make_version(settings, store, seed=1)
    place = HubPlace("hf://team/support")
    send(settings, store, place)
    assert hub.private == {"team/support": True}
    assert len(hub.repos["team/support"]) == 2  # made, and one commit
    assert "library_name: peft" in hub.cards[0]
    hub.before_commit = lambda: hub.commit("team/support", other=b"x")
    with pytest.raises(PlaceError, match="cannot write"):
        send(settings, store, place, 2)
    assert f"support/v2/{MANIFEST}" not in hub.files("team/support")
    hub.before_commit = lambda: None
    assert send(settings, store, place, 2).new


def test_who_we_are_matters(
    settings: Settings, store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version(settings, store)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(PlaceError, match="cannot"):
        send(settings, store, HubPlace("hf://team/support"))
    assert hub.repos == {}


@pytest.mark.parametrize("url", ["hf://", "hf://team", "hf://a/b/c", "hf://a/../b", "nofs://x/y"])
def test_addresses_that_are_none(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigError):
        place_of(settings, url)


def test_the_place_of_the_configuration(make_settings: MakeSettings, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"sharing\.url is not set"):
        place_of(settings, None)
    configured = make_settings(sharing={"url": "memory://x"})
    assert place_of(configured, None).url == "memory://x"
    assert place_of(configured, "memory://y").url == "memory://y"
