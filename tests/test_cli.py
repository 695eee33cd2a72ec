"""The command line: its exit codes, what it says where something is wrong, and its JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import MakeSettings
from test_registry import publish
from tiny import write_config

from flywheel import cli, hardware
from flywheel.running import free_port
from ledger.deployments import Deployments
from ledger.fingerprint import base_fingerprint
from ledger.records import Evaluation, Interaction
from ledger.registry import MANIFEST, Registry
from ledger.settings import Settings, load
from ledger.store import Store

ROOT = Path(__file__).resolve().parents[1]


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("FLYWHEEL_USER", "ada")
    monkeypatch.setattr(hardware, "has_cuda", hardware.has_cuda.__wrapped__)


@pytest.fixture
def config(make_settings: MakeSettings, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(b"x" * 10)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    gold = {
        "id": "g1",
        "messages": [{"role": "user", "content": "Where is it?"}],
        "checks": [{"type": "exact", "value": "delivery"}],
    }
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    settings = make_settings(
        aliases={"support": {"gate": {"gold": [str(tmp_path / "gold.jsonl")]}}},
        serve={"port": free_port()},  # nothing answers there
        ledger={"lock_seconds": 0.2},
    )
    return write_config(settings, tmp_path / "config.yaml")


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config)


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as the shell would, on the configuration unless another is named."""

    def run(*arguments: str, on: Path | str | None = config) -> Said:
        given = [] if on is None else ["--config", str(on)]
        monkeypatch.setattr("sys.argv", ["flywheel", *given, *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return run


def version(settings: Settings, verdict: str | None = None) -> str:
    """Publish a version that fits the model, with a verdict of its gate."""
    made = publish(Registry(settings.registry))
    manifest = made.manifest.model_copy(
        update={"base_fingerprint": base_fingerprint(Path(settings.model.path))}
    )
    (made.path / MANIFEST).write_text(manifest.model_dump_json())
    if verdict is not None:
        store = Store.open(settings)
        with closing(store):
            store.add_evaluation(
                Evaluation(
                    run_id="run",
                    ts=1.0,
                    alias="support",
                    candidate=made.name,
                    baseline="base",
                    verdict=verdict,
                    report={"gold_candidate": 0.9, "gold_baseline": 0.1},
                )
            )
    return made.name


def answer(settings: Settings, row_id: str = "chatcmpl-1") -> None:
    store = Store.open(settings)
    with closing(store):
        store.add_interactions(
            [
                Interaction(
                    row_id=row_id,
                    request_id=row_id,
                    ts=1.0,
                    api="chat",
                    alias="support",
                    version="base",
                    base_model="base",
                    messages=[{"role": "user", "content": "Where is my card?"}],
                    response="billing",
                )
            ]
        )


# -- usage and configuration -------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["promote", "--share", "0"],
        ["promote", "--share", "101"],
        ["promote", "--share", "many"],
        ["tag", "row"],
        ["export", "--format", "parquet", "--out", "x"],
        ["promote", "--version", "four"],
        ["promote"],
        ["rollback"],
    ],
)
def test_words_that_are_off_exit_with_2(run: Run, arguments: list[str]) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert said.err
    assert said.out == ""


def test_help_and_version_exit_with_0(run: Run) -> None:
    assert run("--help", on=None).code == 0
    assert run("promote", "-h").code == 0
    assert "0." in run("--version", on=None).out


def test_a_configuration_that_is_not_there_or_wrong(run: Run, tmp_path: Path) -> None:
    said = run("status", on=tmp_path / "none.yaml")
    assert said.code == 1
    assert "no configuration at" in said.err
    assert "configs/demo.yaml" in said.err
    file = tmp_path / "wrong.yaml"
    file.write_text("model: {name: m, path: p, nmae: x}\naliases: {support: {}}\nsevre: {}\n")
    said = run("status", on=file)
    assert said.code == 1
    assert "model.nmae: no such setting" in said.err
    assert "sevre: no such setting" in said.err


def test_a_gpu_configuration_without_a_gpu_names_what_works(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for command in ("serve", "retrain", "status", "doctor"):
        said = run(command, on="configs/gpu.yaml")
        assert said.code == 1
        assert "configs/gpu.yaml needs a CUDA device and this machine shows none" in said.err
        assert "make serve CONFIG=configs/demo.yaml" in said.err


def test_without_a_name_the_hardware_decides(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert hardware.default_config() == "configs/demo.yaml"
    monkeypatch.setattr(hardware, "has_cuda", lambda: True)
    assert hardware.default_config() == "configs/gpu.yaml"
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(config))
    assert list(run("status", "--json", on=None).json["aliases"]) == ["support"]


def test_an_alias_that_is_not_there(run: Run, config: Path, tmp_path: Path) -> None:
    said = run("versions", "sales")
    assert said.code == 1
    assert "'sales'" in said.err
    assert "support" in said.err
    raw = yaml.safe_load(config.read_text())
    raw["aliases"]["sales"] = {}
    both = tmp_path / "both.yaml"
    both.write_text(yaml.safe_dump(raw))
    said = run("versions", on=both)
    assert said.code == 2
    assert "sales, support" in said.err


# -- a new ledger, no server -------------------------------------------------------------


def test_status_of_nothing(run: Run, settings: Settings) -> None:
    found = run("status", "--json").json
    assert found["server"]["up"] is False
    assert f":{settings.serve.port}/" in found["server"]["reason"]
    state = found["aliases"]["support"]
    assert state.pop("waits_for")["action"] == "wait"
    assert state == {
        "live": "base",
        "previous": None,
        "candidate": None,
        "share": 0.0,
        "stage": "live",
        "since": None,
        "why": "",
        "event": 0,
        "answers": {},
        "confidence": {},
        "last_verdicts": {},
        "drift": [],
        "signals": {},
        "alerts": [],
        "loop": None,
        "cost": {"currency": "USD", "total": {"cost": 0, "known": 0}, "lines": []},
    }
    assert (found["tags"], found["incomplete"]) == ({}, [])
    assert found["to_review"] == {"support": {}}
    text = run("status").out
    assert "live base" in text
    assert "down" in text


def test_versions_of_nothing(run: Run) -> None:
    assert run("versions", "--json").json == []
    assert "flywheel retrain support" in run("versions").out


def test_review_of_nothing(run: Run) -> None:
    assert run("review", "--json").json == []


def test_doctor_says_what_is_broken(run: Run, settings: Settings, tmp_path: Path) -> None:
    said = run("doctor", "--json")
    levels = {found["what"]: found["level"] for found in said.json}
    assert said.code == 0, said.out
    assert levels["server"] == "note"  # a server that is down is no defect
    assert {levels[what] for what in ("ledger", "keys", "model", "gold", "registry")} == {"ok"}
    (tmp_path / "gold.jsonl").write_text("{")
    (settings.registry / "support" / "v1").mkdir(parents=True)
    settings.privacy.key_file.chmod(0o644)
    said = run("doctor")
    assert said.code == 1
    for part in ("gold.jsonl:1: not JSON", "not complete", "chmod 600"):
        assert part in said.out


def test_a_ledger_that_cannot_be_read(run: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "ledger.db").write_bytes(b"not a database " * 100)
    said = run("status")
    assert said.code == 1
    assert "not a database" in said.err
    assert {f["what"]: f["level"] for f in run("doctor", "--json").json}["ledger"] == "broken"


def test_a_ledger_that_somebody_holds(run: Run, settings: Settings, tmp_path: Path) -> None:
    version(settings, "pass")
    with closing(sqlite3.connect(tmp_path / "var" / "ledger.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        said = run("promote", "--version", "1")
        assert said.code == 1
        assert "locked by another process" in said.err
        other.rollback()
    assert run("promote", "--version", "1").code == 0


# -- what is live ------------------------------------------------------------------------


def test_a_version_that_passed_goes_live_and_back(run: Run, settings: Settings) -> None:
    version(settings, "pass")
    version(settings, "pass")
    found = run("promote", "--version", "v1", "--because", "first", "--json").json
    assert found == {
        "event": 1,
        "kind": "promote",
        "alias": "support",
        "live": "support@v1",
        "candidate": None,
        "share": 0.0,
        "paused": False,
    }
    text = run("promote", "--version", "support@v2", "--share", "5").out
    assert "support@v1 is live, support@v2 gets 5 % (event 2" in text
    rows = run("versions", "--json").json
    assert [(r["version"], r["role"], r["verdict"], r["score"]) for r in rows] == [
        ("support@v1", "live", "pass", 0.9),
        ("support@v2", "candidate", "pass", 0.9),
    ]
    assert run("promote", "--share", "100", "--json").json["live"] == "support@v2"
    assert run("rollback", "--because", "worse", "--json").json["live"] == "support@v1"
    assert run("rollback", "--json").json["live"] == "base"
    said = run("rollback")
    assert said.code == 2
    assert "nothing to go back to" in said.err
    store = Store.open(settings)
    with closing(store):
        events = Deployments(store).events("support")
    assert [e.kind for e in events] == ["promote", "share", "promote", "rollback", "rollback"]
    assert {e.who for e in events} == {"operator:ada"}
    assert events[0].why == "first"


@pytest.mark.parametrize("verdict", [None, "fail", "underpowered"])
def test_a_version_that_did_not_pass_gets_no_traffic(
    run: Run, settings: Settings, verdict: str | None
) -> None:
    name = version(settings, verdict)
    for share in ([], ["--share", "5"]):
        said = run("promote", "--version", "1", *share)
        assert said.code == 100
        assert name in said.err
        assert "--force --because" in said.err
    said = run("promote", "--version", "1", "--force")
    assert said.code == 2
    assert "--force needs --because" in said.err
    said = run("promote", "--version", "1", "--force", "--because", "a demonstration", "--json")
    assert (said.code, said.json["live"]) == (0, name)
    assert run("status", "--json").json["aliases"]["support"]["why"] == "a demonstration"


def test_a_version_that_is_not_whole_gets_no_traffic(run: Run, settings: Settings) -> None:
    said = run("promote", "--version", "9")
    assert said.code == 1
    assert "support@v9 is not in the registry" in said.err
    version(settings, "pass")
    (settings.registry / "support" / "v1" / "adapter_model.safetensors").write_bytes(b"other")
    said = run("promote", "--version", "1")
    assert said.code == 1
    assert "SHA-256" in said.err


# -- rows --------------------------------------------------------------------------------


def test_tags_and_corrections(run: Run, settings: Settings, tmp_path: Path) -> None:
    answer(settings)
    assert "is tagged odd" in run("tag", "chatcmpl-1", "odd").out
    assert "already" in run("tag", "chatcmpl-1", "odd").out
    assert run("correct", "chatcmpl-1", "accounts", "--because", "it is").code == 0
    for command in (["tag", "chatcmpl-9", "odd"], ["correct", "chatcmpl-9", "x"]):
        said = run(*command)
        assert said.code == 1
        assert "chatcmpl-9" in said.err
    said = run("tag", "chatcmpl-1", "Not A Tag")
    assert said.code in (1, 2)
    assert said.err
    assert run("tag", "chatcmpl-1", "strange", "--because", "half \udcff").code in (0, 1)
    out = tmp_path / "pairs.jsonl"
    assert "1 pairs" in run("export", "--out", str(out)).out
    (pair,) = map(json.loads, out.read_text().splitlines())
    assert pair["messages"][-1] == {"role": "assistant", "content": "accounts"}
    assert run("status", "--json").json["tags"]["odd"] == 1


def test_export_of_nothing_and_to_nowhere(run: Run, settings: Settings, tmp_path: Path) -> None:
    said = run("export", "--out", str(tmp_path / "none.jsonl"))
    assert said.code in (0, 1)
    answer(settings)
    run("correct", "chatcmpl-1", "accounts")
    (tmp_path / "file").write_text("")
    said = run("export", "--out", str(tmp_path / "file" / "pairs.jsonl"))
    assert said.code == 1
    assert "file" in said.err


def test_retrain_without_a_server(run: Run) -> None:
    said = run("retrain")
    assert said.code == 1
    assert said.err
