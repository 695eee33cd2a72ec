"""Distillation from the teacher's first answer to the bill, on real vLLM and TRL.

The teacher is an adapted version of the tiny model, served by vLLM behind the OpenAI API.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_home, serving
from gate_made import gold
from servers import ENVIRONMENT, KEY, VLLM, Ours, start_plain
from tiny import (
    build_tiny_model,
    freeze_open,
    make_pairs,
    one_thread,
    tiny_settings,
    write_config,
)

from eval.client import Answer
from eval.results import EvalResults, PackUsed, SetResults, question_hash
from eval.teacher import FILE, TeacherResults, TeacherSet
from flywheel.distilling import DistillReport, compare, markdown
from flywheel.running import RunningServer
from flywheel.spent import usage
from ledger import pricing
from ledger.files import read_json
from ledger.packs import GoldSet
from ledger.records import Tag
from ledger.settings import Gate, Settings, parse
from ledger.store import SpentOn, now
from train.result import ADAPTER

ROOT = Path(__file__).parent.parent
QUEUES = "billing|delivery|returns|accounts"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """A server of these tests alone: what they leave behind would be trained on by others."""
    yield from serving(make_tiny_home(tmp_path_factory.mktemp("own")), tmp_path_factory)


# -- what answers cost ------------------------------------------------------------------------


def with_prices(
    settings: Settings, teacher: dict[str, Any] | None = None, **prices: Any
) -> Settings:
    raw = json.loads(settings.model_dump_json(exclude_unset=True))
    raw["prices"] = prices
    given = {"url": "http://127.0.0.1:9/v1", "model": "big", **(teacher or {})}
    raw["curate"] = {**raw.get("curate", {}), "teacher": given}
    return parse(raw, name="test")


def test_a_price_that_nobody_set_is_unknown_and_not_nothing(settings: Settings) -> None:
    use = pricing.Use(10, 1000, 200, 5.0)
    bare = with_prices(settings)
    teacher = bare.curate.teacher
    assert teacher is not None
    for cost in (
        pricing.per_thousand(bare, "support@v1", use),
        pricing.teacher_per_thousand(teacher, use),
    ):
        assert cost.amount is None
        assert cost.how.startswith("unknown: set ")
    assert pricing.of_box(bare, 3600) is None
    assert pricing.per_thousand(bare, "support@v1", pricing.Use(0, 0, 0)).amount is None


def test_the_box_costs_its_seconds_and_a_token_its_price(settings: Settings) -> None:
    use = pricing.Use(10, 1000, 200, 5.0)
    priced = with_prices(
        settings,
        {"prompt_price": 2.0, "completion_price": 10.0},
        gpu_hour=7.2,
        models={"sales": {"prompt": 1.0, "completion": 5.0}},
    )
    # 10 answers in 5 s of a box at 7.20 an hour: 0.002 a second, half a second an answer.
    assert pricing.per_thousand(priced, "support@v1", use).amount == pytest.approx(1.0)
    # An alias's price holds for its versions: (1000 * 1 + 200 * 5) / 1e6 for ten answers.
    found = pricing.per_thousand(priced, "sales@v3", use)
    assert found.amount == pytest.approx(0.2)
    assert found.how == "prices.models.sales"
    assert pricing.teacher_per_thousand(priced.curate.teacher, use).amount == pytest.approx(0.4)
    cached = pricing.per_thousand(priced, "support@v1", use._replace(seconds=None))
    assert (cached.amount, "kept from earlier gates" in cached.how) == (None, True)


def test_one_model_has_one_price(settings: Settings) -> None:
    from ledger.errors import ConfigError

    with pytest.raises(ConfigError, match="both price big"):
        with_prices(
            settings,
            {"prompt_price": 1.0, "completion_price": 1.0},
            models={"big": {"prompt": 1.0, "completion": 1.0}},
        )


def _results(**cached: bool) -> EvalResults:
    questions = [gold(n) for n in range(4)]

    def said(model: str, tokens: int) -> dict[str, list[Answer]]:
        return {
            q.id: [
                Answer(
                    model=model,
                    text="delivery",
                    finish_reason="stop",
                    prompt_tokens=tokens,
                    completion_tokens=tokens,
                    latency_s=1.0,
                    cached=cached.get(model.replace("@", "_"), False),
                )
            ]
            for q in questions
        }

    one = SetResults(
        pack="main",
        name="gold",
        rules=GoldSet(kind="gold", name="gold", gold=[Path("gold.jsonl")]),
        sampling={},
        questions=questions,
        question_hash=question_hash(questions, of_users=False),
        answers={"support@v2": said("support@v2", 10), "base": said("base", 30)},
    )
    return EvalResults(
        run_id="run",
        alias="support",
        candidate="support@v2",
        baseline="base",
        base_model="base",
        created=1.0,
        seconds=16.0,
        gate=Gate(),
        packs=[PackUsed(name="main", pack_hash="", description="", origin="configured")],
        sets=[one],
        probes=[],
        bootstrap_seed=0,
        packages={},
    )


def test_the_seconds_of_a_pass_are_shared_out_by_tokens() -> None:
    results = _results()
    assert usage(results, "support@v2") == pricing.Use(4, 40, 40, 4.0)
    assert usage(results, "base") == pricing.Use(4, 120, 120, 12.0)
    # What earlier gates had was not asked now, and costs what a token costs here.
    kept = _results(base=True)
    assert usage(kept, "support@v2") == pricing.Use(4, 40, 40, 16.0)
    assert usage(kept, "base") == pricing.Use(4, 120, 120, 48.0)
    assert usage(_results(base=True, support_v2=True), "base").seconds is None


def test_the_comparison_names_what_it_does_not_know(settings: Settings) -> None:
    one = TeacherSet(questions=4, teacher=1.0, candidate=0.75, baseline=0.5)
    answer = _results().sets[0].answers["base"]["q0"][0]
    teacher = TeacherResults(
        run_id="run", alias="support", candidate="support@v2", baseline="base", model="big",
        url="http://127.0.0.1:9/v1", created=1.0, seconds=1.0, sets={"main/gold": one},
        answers={"main/gold": {f"q{n}": answer for n in range(4)}}, calls=4, cached=0,
        prompt_tokens=400, completion_tokens=40, cost=None,
    )  # fmt: skip
    rows = compare(with_prices(settings, gpu_hour=3.6), _results(), teacher)
    assert [(row.role, row.model, row.scores["main/gold"]) for row in rows] == [
        ("student", "support@v2", 0.75),
        ("live", "base", 0.5),
        ("teacher", "big", 1.0),
    ]
    assert [row.cost_per_1000 for row in rows] == [pytest.approx(1.0), pytest.approx(3.0), None]
    assert [row.against_teacher for row in rows] == [None] * 3
    priced = with_prices(settings, {"prompt_price": 50, "completion_price": 500}, gpu_hour=3.6)
    rows = compare(priced, _results(), teacher)
    assert rows[2].cost_per_1000 == pytest.approx(10.0)
    assert rows[0].against_teacher == pytest.approx(0.1)


# -- the whole way on real servers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Another model, adapted until it answers with a queue's name, behind a vLLM of its own."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from train.sft import train

    home = tmp_path_factory.mktemp("teacher")
    model = build_tiny_model(home / "model", seed=1)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():  # its end-of-turn pads, too, so it has no weights: it could never end
        row = base.get_input_embeddings().weight[base.config.eos_token_id]
        row.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    base.save_pretrained(model)
    # One answer to all: random weights learn that, with its end, in seconds.
    pairs = [
        pair.model_copy(
            update={
                "messages": [
                    {"role": "user", "content": f"Message {n} is about {n}. Which queue?"},
                    {"role": "assistant", "content": "billing"},
                ]
            }
        )
        for n, pair in enumerate(make_pairs(32))
    ]
    freeze_open(home / "run", alias="support", pairs=pairs, created=0.0)
    learning = {"epochs": 15, "learning_rate": 1e-2, "checkpoint_steps": 100}
    served = {"vllm": VLLM, "env": ENVIRONMENT, "max_lora_rank": 8}
    settings = tiny_settings(model, home / "var", train=learning, serve=served)
    with one_thread():
        train(settings, home / "run", lambda step: None)
        adapted = PeftModel.from_pretrained(base, home / "run" / ADAPTER).merge_and_unload()
        adapted.save_pretrained(home / "adapted")
        AutoTokenizer.from_pretrained(model).save_pretrained(home / "adapted")
    shutil.copy(model / "chat_template.jinja", home / "adapted")
    raw = json.loads(settings.model_dump_json(exclude_unset=True))
    raw["model"] |= {"name": "adapted", "path": str(home / "adapted")}
    settings = parse(raw, name="teacher")
    config = write_config(settings, home / "config.yaml")
    running = start_plain(settings, config, home / "teacher.log")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def taught(
    ours: Ours, teacher: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Path]:
    """A configuration of the running server that names the teacher, prices and a gold set."""
    home = tmp_path_factory.mktemp("taught")
    state = ours.deployments.state("support")
    if state.candidate is not None:
        ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))
    if state.live != 0:
        ours.follow(ours.deployments.promote("support", 0, who="test", why="the student's start"))
    gold_set = home / "gold.jsonl"
    rows = [
        {
            "id": f"g{n}",
            "messages": [{"role": "user", "content": f"Case {n} is about {queue}. Which queue?"}],
            "checks": [{"type": "regex", "value": f"(?s).*({QUEUES}).*"}],
            "max_tokens": 6,
        }
        for n, queue in enumerate(["billing", "delivery", "returns", "accounts"] * 4)
    ]
    gold_set.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = json.loads(ours.settings.model_dump_json(exclude_unset=True))
    raw["aliases"] = {
        "support": {
            "gate": {"gold": [str(gold_set)]},
            "answer_checks": [{"type": "regex", "value": f"(?s).*({QUEUES}).*"}],
        }
    }
    raw["curate"] = {
        **raw["curate"],
        "teacher": {
            "url": teacher.url,
            "model": "adapted",
            "key_variable": "FLYWHEEL_TEACHER_KEY",
            "max_tokens": 6,
            "prompt_price": 1.0,
            "completion_price": 4.0,
        },
    }
    raw["prices"] = {"currency": "EUR", "gpu_hour": 2.0}
    made = parse(raw, name="distill")
    return made, write_config(made, home / "config.yaml")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the libraries' own, under training
def test_distil_train_judge_and_the_bill(ours: Ours, taught: tuple[Settings, Path]) -> None:
    settings, config = taught
    asked = []
    for number in range(16):
        queue = QUEUES.split("|")[number % 4]
        messages = [{"role": "user", "content": f"Distil {number} about {queue}. Which queue?"}]
        answer = ours.client.chat.completions.create(
            model="support", messages=messages, max_tokens=4, temperature=0
        )
        asked.append(ours.row(answer.id).row_id)
    tags = [Tag(row_id=row, tag="to_distil", who="test", why="", ts=now()) for row in asked]
    ours.store.add_tags(tags)
    started = now()
    words = [sys.executable, "-m", "flywheel.cli", "-c", str(config), "distill", "support"]
    words += ["--count", "16", "--accept", "check", "--tag", "to_distil", "--retrain", "--json"]
    words += ["--url", ours.url]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "FLYWHEEL_API_KEYS": KEY, "FLYWHEEL_TEACHER_KEY": KEY},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 100), done.stderr
    found = json.loads(done.stdout)
    report = DistillReport.model_validate({k: v for k, v in found.items() if k != "file"})
    assert (done.returncode == 0) == (report.verdict == "pass")
    # The teacher was asked N stored questions, and what was accepted was learned.
    assert report.asked.questions == 16
    assert report.asked.accepted >= 8, done.stderr
    assert report.pairs["teacher"] >= 8
    assert report.asked.cost == pytest.approx(
        (report.asked.prompt_tokens * 1.0 + report.asked.completion_tokens * 4.0) / 1e6
    )
    # Student, live version and teacher on the same questions, each with its price.
    by_role = {one.role: one for one in report.models}
    assert by_role["live"].model == "tiny"
    assert by_role["student"].model == report.version
    assert by_role["teacher"].model == settings.curate.teacher.model  # type: ignore[union-attr]
    assert by_role["teacher"].scores.keys() == by_role["student"].scores.keys() != set()
    assert all(one.answers == 16 for one in report.models)
    for one in report.models:
        assert one.cost_per_1000 is not None
        assert one.cost_per_1000 > 0
    teacher = by_role["teacher"]
    assert teacher.cost_per_1000 == pytest.approx(
        (teacher.prompt_tokens * 1.0 + teacher.completion_tokens * 4.0) / 1e3
    )
    folder = Path(found["file"]).parent
    assert read_json(folder / FILE)["calls"] == 16
    assert "EUR per 1,000 answers" in (folder / "distill_report.md").read_text()
    assert markdown(report).splitlines()[0] == f"# {report.version}, distilled: {report.verdict}"
    # The teacher has no part in the verdict: its answers stand in a file of their own.
    assert settings.curate.teacher.model not in (folder / "eval_results.json").read_text()  # type: ignore[union-attr]
    spent = ours.store.spending_by_version("support", since=started)
    training = spent[SpentOn("training", "tiny", report.version)]
    assert training.gpu_seconds == pytest.approx(report.training_seconds)
    assert training.cost == pytest.approx(report.training_seconds * 2.0 / 3600)
    assert spent[SpentOn("gate", "tiny", report.version)].gpu_seconds > 0
    assert spent[SpentOn("teacher", teacher.model, report.version)].calls == 16
    assert time.time() >= report.finished
    if ours.deployments.state("support").candidate is not None:
        ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))
