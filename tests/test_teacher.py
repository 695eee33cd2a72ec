"""The teacher on the gate's questions: informative, priced, asked once, no part of the verdict."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSettings
from curate_rows import add_row
from teacher import Reply, TeacherServer
from tiny import write_config

from eval.fake import FakeServer
from eval.gate import main as gate_main
from eval.gate import run_gate
from eval.teacher import FILE, main, run_teacher
from flywheel.distilling import run as distil
from flywheel.running import free_port
from ledger.errors import ConfigError, RecordError, ServerError
from ledger.files import read_json
from ledger.records import Tag
from ledger.settings import Settings
from ledger.store import SpentOn, Store

pytestmark = pytest.mark.sqlite
NUMBER = 30


def _said(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"]).removeprefix("Say ")


def _half(messages: list[dict[str, Any]]) -> str:
    text = _said(messages)
    return text if int(text.removeprefix("answer")) % 2 else "nothing"


@pytest.fixture
def make(make_settings: MakeSettings, tmp_path: Path) -> Any:
    gold = tmp_path / "gold.jsonl"
    rows = [
        {
            "id": f"q{n}",
            "messages": [{"role": "user", "content": f"Say answer{n}"}],
            "checks": [{"type": "exact", "value": f"answer{n}"}],
        }
        for n in range(NUMBER)
    ]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(teacher: dict[str, Any] | None, **sections: Any) -> Settings:
        return make_settings(
            aliases={
                "support": {
                    "gate": {"gold": [str(gold)], "resamples": 1000},
                    "answer_checks": [{"type": "regex", "value": "(?s).*"}],
                }
            },
            serve={"port": free_port()},
            curate={"teacher": teacher} if teacher else {},
            **sections,
        )

    return make


def gate(settings: Settings, server: FakeServer, run_dir: Path) -> Any:
    return asyncio.run(
        run_gate(settings, "support", "support@v2", "base", server.url, "none", run_dir, retries=0)
    )


def test_it_is_asked_its_own_way_and_scored_like_the_others(make: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "var" / "runs" / "r1"
    models = {"base": lambda messages: "nothing", "support@v2": _half}
    # A teacher that is called otherwise than it was asked for, and thinks aloud.
    wise = FakeServer(
        {"big": lambda messages: f"let me see</think>{_said(messages)}"},
        api_key="secret",
        renames={"big": "big-2026-11"},
    )
    with FakeServer(models) as server, wise:
        settings = make(
            {
                "url": wise.url,
                "model": "big",
                "key_variable": "TEACHER_KEY_OF_THE_TESTS",
                "instructions": "Be brief.",
                "prompt_price": 2.0,
                "completion_price": 8.0,
            }
        )
        before = gate(settings, server, run_dir)
        with pytest.raises(ServerError, match=r"the teacher big: .* refused the API key"):
            run_teacher(settings, "support", run_dir)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TEACHER_KEY_OF_THE_TESTS", "secret")
            found = run_teacher(settings, "support", run_dir)
            asked = len(wise.seen)
            again = run_teacher(settings, "support", run_dir)
        assert len(wise.seen) == asked == NUMBER  # what it said once is kept
        after = gate(settings, server, run_dir)
    assert wise.seen[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    ((key, scored),) = found.sets.items()
    assert (scored.questions, scored.teacher, scored.candidate, scored.baseline) == (
        NUMBER, 1.0, 0.5, 0.0,
    )  # fmt: skip
    assert (found.calls, found.cached, again.calls, again.cached) == (NUMBER, 0, 0, NUMBER)
    paid = (found.prompt_tokens * 2.0 + found.completion_tokens * 8.0) / 1e6
    assert found.cost == pytest.approx(paid)
    assert found.answers[key]["q1"].text == "answer1"
    assert read_json(run_dir / FILE)["sets"][key]["teacher"] == 1.0
    with closing(Store.open(settings)) as store:
        spent = store.spending_by_version("support")[SpentOn("teacher", "big", "support@v2")]
    assert (spent.calls, spent.cost) == (NUMBER, pytest.approx(paid))
    # A perfect teacher beside it changes nothing about the verdict.
    assert after.verdict == before.verdict
    assert "big" not in json.dumps(after.model_dump(mode="json"))


def test_a_teacher_that_is_away_takes_nothing_from_the_gate(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make({"url": f"http://127.0.0.1:{free_port()}/v1", "model": "big", "retries": 0})
    config, run_dir = write_config(settings, tmp_path / "config.yaml"), tmp_path / "r1"
    with FakeServer({"base": lambda m: "nothing", "support@v2": _said}) as server:
        words = ["--config", str(config), "--alias", "support", "--candidate", "support@v2"]
        words += ["--baseline", "base", "--base-url", server.url, "--run", str(run_dir)]
        assert gate_main([*words, "--teacher"]) == 0
    said = capsys.readouterr()
    assert "PASS" in said.out
    assert "teacher: the teacher big" in said.err
    assert not (run_dir / FILE).exists()
    assert main(["--config", str(config), "--alias", "support", "--run", str(run_dir)]) == 1


def test_without_a_teacher_or_a_gate_it_says_so(make: Any, tmp_path: Path) -> None:
    teacher = {"url": "http://127.0.0.1:9/v1", "model": "big"}
    with pytest.raises(RecordError, match=r"has no eval_results\.json"):
        run_teacher(make(teacher), "support", tmp_path)
    with FakeServer({"base": lambda m: "nothing", "support@v2": _said}) as server:
        settings = make(None)
        gate(settings, server, tmp_path / "r1")
        with pytest.raises(ConfigError, match=r"curate\.teacher is not set"):
            run_teacher(settings, "support", tmp_path / "r1")


def test_a_distillation_that_was_cut_off_asks_no_more_than_it_was_told_to(
    make: Any, tmp_path: Path
) -> None:
    """The retrain cannot start (no server): what was distilled stays, and is not asked again."""
    with TeacherServer(lambda body, number: Reply("delivery")) as server:
        settings = make({"url": server.url, "model": "big"})
        config = str(write_config(settings, tmp_path / "config.yaml"))
        with closing(Store.open(settings)) as store:
            for number in range(6):
                add_row(store, f"r{number}", f"Question {number}?", ts=900.0 + number)
                tag = Tag(row_id=f"r{number}", tag="user_negative", who="test", ts=1.0)
                store.add_tags([tag])

            def turn(count: int) -> None:
                distil(
                    settings, config, store, "support", count=count, accept="check",
                    say=lambda line: None,
                )  # fmt: skip

            for _ in range(2):
                with pytest.raises(ServerError, match="no server answers"):
                    turn(4)
                assert len(server.seen) == 4
            with pytest.raises(ServerError, match="no server answers"):
                turn(5)  # told to ask one more
            assert len(server.seen) == 5
            with pytest.raises(ConfigError, match="every answer waits for eyes"):
                distil(settings, config, store, "support", count=1, accept="operator")
