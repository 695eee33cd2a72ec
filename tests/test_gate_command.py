"""`flywheel gate` by hand, `--replay`, and `flywheel gate packs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakeSettings
from test_cli import Run, Said
from tiny import write_config

from eval.fake import FakeServer
from flywheel import cli
from ledger.deployments import Deployments
from ledger.settings import Settings
from ledger.store import Store

QUESTIONS = 60


def right(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"]).split()[-1]


def wrong(messages: list[dict[str, Any]]) -> str:
    return "wrong"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer({"base": lambda _: "?", "support@v1": right, "support@v2": right}) as running:
        yield running


class Alias:
    """An alias whose live version is the first, with a pack in a file."""

    def __init__(self, make_settings: MakeSettings, folder: Path) -> None:
        self._make, self._folder = make_settings, folder
        lines = (
            {
                "id": f"q{n}",
                "messages": [{"role": "user", "content": f"Say answer{n}"}],
                "checks": [{"type": "exact", "value": f"answer{n}"}],
            }
            for n in range(QUESTIONS)
        )
        gold = folder / "gold.jsonl"
        gold.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._set = {"name": "main", "kind": "gold", "gold": [str(gold)]}
        self.file = folder / "config.yaml"
        self.settings: Settings
        self.packs(margin=0.1)
        with_store = Store.open(self.settings)
        deployments = Deployments(with_store)
        deployments.promote("support", 1, who="operator:ada", why="")
        deployments.candidate("support", 2, who="retrain", why="")
        with_store.close()

    def packs(self, **rules: Any) -> None:
        """Write the configuration with one pack; without rules with none."""
        pack = self._folder / "main.yaml"
        pack.write_text(yaml.safe_dump({"name": "main", "sets": [self._set | rules]}))
        gate = {"packs": [str(pack)]} if rules else {}
        gate |= {"resamples": 1000, "concurrency": 8}
        self.settings = self._make(aliases={"support": {"gate": gate}})
        write_config(self.settings, self.file)


@pytest.fixture
def alias(make_settings: MakeSettings, tmp_path: Path) -> Alias:
    return Alias(make_settings, tmp_path)


@pytest.fixture
def run(
    alias: Alias,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setenv("FLYWHEEL_USER", "ada")
    monkeypatch.setenv("FLYWHEEL_URL", server.url)

    def call(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["flywheel", "--config", str(alias.file), *words])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


def test_the_candidate_is_judged_against_what_is_live(run: Run, alias: Alias) -> None:
    said = run("gate", "support")
    assert said.code == 0, said.err
    assert "candidate support@v2, baseline support@v1" in said.out
    assert "Verdict: PASS" in said.out
    store = Store.open(alias.settings)
    recorded = store.evaluations("support")["support@v2"]
    store.close()
    assert (recorded.verdict, recorded.report["packs"].keys()) == ("pass", {"main"})
    assert recorded.run_id.endswith("-support-gate")


def test_a_run_is_judged_again_with_no_server(run: Run, alias: Alias, server: FakeServer) -> None:
    server.models["support@v2"] = wrong
    said = run("gate", "--version", "2", "--baseline", "1", "--json")
    assert (said.code, said.json["verdict"]) == (100, "fail")
    assert len(said.json["sets"][0]["broken"]) == QUESTIONS
    name = said.json["run_id"]
    server.close()
    asked = len(server.seen)
    again = run("gate", "--replay", name, "--json")
    assert (again.code, again.json["verdict"], again.json["same"]) == (100, "fail", True)
    assert again.json["report"] == said.json
    text = run("gate", "--replay", str(alias.settings.runs / name))
    assert text.code == 100
    assert "Broken answers (60)" in text.out
    assert "Verdict: FAIL" in text.out
    assert len(server.seen) == asked

    file = alias.settings.runs / name / "eval_results.json"
    content = json.loads(file.read_text())
    content["report"]["verdict"] = "pass"
    file.write_text(json.dumps(content))
    changed = run("gate", "--replay", name)
    assert changed.code == 100
    assert "the file says pass, its answers say fail" in changed.err
    content["sets"][0]["questions"][3]["checks"][0]["value"] = "wrong"
    file.write_text(json.dumps(content))
    damaged = run("gate", "--replay", name)
    assert damaged.code == 1
    assert "the questions of main/main have the hash" in damaged.err
    absent = run("gate", "--replay", "nothing")
    assert absent.code == 1
    assert "has no eval_results.json" in absent.err


def test_a_version_that_is_not_live_is_refused_unasked(run: Run, server: FakeServer) -> None:
    server.models["support@v2"] = server.models["base"]
    said = run("gate")
    assert said.code == 100
    assert "is not really live" in said.out
    assert run("gate", "--replay", said.err.split("/")[-2], "--json").json["same"] is True


def test_what_is_asked_for_must_make_sense(run: Run, alias: Alias) -> None:
    store = Store.open(alias.settings)
    Deployments(store).withdraw("support", who="gate", why="")
    store.close()
    none = run("gate")
    assert none.code == 2
    assert "support has no candidate" in none.err
    assert run("gate", "sales").code != 0
    itself = run("gate", "--version", "1")
    assert itself.code == 2
    assert "is also the baseline" in itself.err


def listed(run: Run) -> dict[str, Any]:
    (one,) = run("gate", "packs", "list", "--json").json["packs"]
    return dict(one)


def test_packs_bind_and_are_let_go_with_a_reason(run: Run, alias: Alias) -> None:
    assert listed(run)["binds"] is False
    assert run("gate").code == 0
    store = Store.open(alias.settings)
    Deployments(store).promote("support", 2, who="operator:ada", why="")
    Deployments(store).candidate("support", 1, who="operator:ada", why="")
    store.close()
    assert listed(run)["binds"] is True

    alias.packs(margin=0.3)
    one = listed(run)
    assert one["demands_less"] == ["set 'main': the margin was 0.1, now 0.3"]
    refused = run("gate")
    assert refused.code == 2
    assert "demands less than it did" in refused.err
    silent = run("gate", "packs", "accept", "main")
    assert silent.code == 2
    assert "--because is missing" in silent.err
    done = run("gate", "packs", "accept", "main", "--because", "too strict")
    assert done.code == 0
    assert "the margin was 0.1, now 0.3" in done.out
    assert run("gate").code == 0

    alias.packs()  # no pack at all any more
    one = listed(run)
    assert (one["origin"], one["binds"], one["sets"][0]["margin"]) == ("recorded", True, 0.3)
    gone = run("gate", "packs", "remove", "main", "--because", "the product is gone")
    assert gone.code == 0
    text = run("gate", "packs", "list").out
    assert "support has no gate pack" in text
    assert "main loosened by operator:ada: too strict" in text
    assert "main removed by operator:ada: the product is gone" in text
    without = run("gate")
    assert without.code == 1
    assert "support has no gate pack" in without.err
