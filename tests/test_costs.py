"""The bill, number by number: serving, training, gates, teachers, and 1,000 answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from gate_made import gold
from kept_rows import DAY, fill, make
from tiny import write_config

from eval.client import Answer
from eval.results import EvalResults, PackUsed, SetResults, question_hash, save
from eval.teacher import FILE, TeacherResults
from flywheel.cli import cli
from flywheel.costs import Line, costs, text
from ledger import clock
from ledger.deployments import Deployments
from ledger.files import write_json
from ledger.keeping.rollups import SECONDS, Gone, Used, totals, used
from ledger.packs import GoldSet, LoadedPack, Pack
from ledger.records import Evaluation
from ledger.settings import Gate, Settings
from ledger.store import Spent, Store

START = DAY * SECONDS
NOW = START + 10 * 86_400.0
#: An hour of the box is 3,600 s, so that a second costs 0.001.
PRICES = {"currency": "EUR", "gpu_hour": 3.6}
TEACHER = {
    "url": "http://127.0.0.1:9/v1",
    "model": "big",
    "prompt_price": 2,
    "completion_price": 10,
}

Makes = Callable[..., Settings]


@pytest.fixture
def settings(make_settings: Makes) -> Settings:
    """Priced, with a teacher."""
    return make_settings(
        prices=PRICES, curate={"teacher": TEACHER}, aliases={"support": {}, "sales": {}}
    )


def lived(store: Store, settings: Settings) -> None:
    """Ten days: answers of two versions and the base, a training, a gate, a teacher, a shadow."""
    with clock.at(lambda: START + 86_400.0):
        fill(store, 10, "a", prompt_tokens=80, completion_tokens=20, hour=DAY)
        fill(store, 5, "b", prompt_tokens=30, completion_tokens=10, version="base", hour=DAY + 1)
        fill(store, 4, "c", prompt_tokens=100, completion_tokens=100, alias="sales",
             version="sales@v1", hour=DAY + 2)  # fmt: skip
        # 100 s for 2,000 tokens: a token takes 0.05 s.
        price = settings.prices.gpu_hour
        of_box = (lambda s: None) if price is None else (lambda s: s * price / 3600)
        store.add_spending(
            "support", "gate", "base", Spent(40, 1500, 500, of_box(100.0), 100.0),
            version="support@v1",
        )  # fmt: skip
        store.add_spending(
            "support", "training", "base", Spent(1, 9000, 0, of_box(1800.0), 1800.0),
            version="support@v1",
        )  # fmt: skip
        store.add_spending("support", "teacher", "big", Spent(50, 1000, 200, 0.004))
        # A shadow is written down with its seconds and no price.
        store.add_spending(
            "support", "shadow", "support@v1", Spent(2, 60, 20, None, 4.0), version="support@v1"
        )


def line(found: list[Line], what: str, version: str | None, alias: str = "support") -> Line:
    [one] = [o for o in found if (o.alias, o.what, o.version) == (alias, what, version)]
    return one


# -- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_of_all_answers_whose_rows_were_let_go_too(store: Store) -> None:
    fill(store, 3, "a", prompt_tokens=7, completion_tokens=2, hour=DAY)
    fill(store, 2, "z", prompt_tokens=1, completion_tokens=1, hour=DAY + 30, alias=None,
         version="base")  # fmt: skip
    gone = Gone()
    for number in range(4):
        row = make(f"g{number}", prompt_tokens=10, completion_tokens=5, hour=DAY + 1)
        gone.add(row)
    with store.transaction() as connection:
        gone.save(connection)
    found = used(store, since=DAY)
    assert found == {("support", "support@v1"): Used(7, 61, 26), (None, "base"): Used(2, 2, 2)}
    assert used(store, since=DAY + 1, until=DAY + 2) == {("support", "support@v1"): Used(4, 40, 20)}
    slow = {(g.alias, g.version): s for g, s in totals(store).items()}
    assert {
        key: (s.rows, s.counts["prompt_tokens"], s.counts["completion_tokens"])
        for key, s in slow.items()
    } == {key: tuple(one) for key, one in found.items()}


# -- the bill -------------------------------------------------------------------------------------


def test_each_line_of_the_bill(store: Store, settings: Settings) -> None:
    lived(store, settings)
    found = costs(settings, store, since=START, until=NOW)
    v1 = line(found.lines, "serving", "support@v1")
    assert (v1.calls, v1.prompt_tokens, v1.completion_tokens) == (10, 800, 200)
    # 1,000 tokens at 0.05 s are 50 s, which cost 0.05: 5.00 for 1,000 answers.
    assert v1.gpu_seconds == pytest.approx(50)
    assert v1.cost == pytest.approx(0.05)
    assert v1.per_1000 == pytest.approx(5.0)
    base = line(found.lines, "serving", "base")
    assert (base.gpu_seconds, base.cost) == (pytest.approx(10), pytest.approx(0.01))
    # No gate of its own: another alias's on the same box says how long a token takes.
    sales = line(found.lines, "serving", "sales@v1", "sales")
    assert sales.gpu_seconds == pytest.approx(40)
    assert "of other aliases" in found.rates["sales"].said
    assert "100 s for 2,000 tokens in 1 gate(s)" in found.rates["support"].said

    training = line(found.lines, "training", "support@v1")
    assert (training.gpu_seconds, training.cost) == (1800.0, pytest.approx(1.8))
    gate = line(found.lines, "gate", "support@v1")
    assert (gate.calls, gate.gpu_seconds, gate.cost) == (40, 100.0, pytest.approx(0.1))
    teacher = line(found.lines, "teacher", None)
    assert (teacher.gpu_seconds, teacher.cost, teacher.by_token) == (None, 0.004, True)
    shadow = line(found.lines, "shadow", "support@v1")
    assert shadow.cost == pytest.approx(0.004)
    assert shadow.cost_from == "at today's prices.gpu_hour"
    whole = 0.05 + 0.01 + 1.8 + 0.1 + 0.004 + 0.004
    assert found.totals["support"].cost == pytest.approx(whole)
    assert found.totals["sales"].cost == pytest.approx(0.04)
    # A training, whatever its tokens, has no part in how long a token of an answer takes.
    assert found.rates["support"].seconds == pytest.approx(0.05)


def test_the_box_costs_what_it_costs_however_idle(store: Store, settings: Settings) -> None:
    lived(store, settings)
    found = costs(settings, store, since=0.0, until=NOW)
    first = min(row.ts for row in store.interactions())
    assert found.box.hours == pytest.approx((NOW - first) / 3600)
    assert found.box.a_month == pytest.approx(3.6 * 730)
    assert found.box.paid == pytest.approx(3.6 * found.box.hours)
    busy = 50 + 10 + 40 + 1800 + 100 + 4
    assert found.box.busy == pytest.approx(busy / (NOW - first))
    # What is paid by the token comes on top; what the box did is in its price.
    assert found.outlay == pytest.approx(found.box.paid + 0.004)
    # Idle hours fall on answers by their tokens: 1,000 of 2,000 are of v1.
    v1 = line(found.lines, "serving", "support@v1")
    assert v1.whole_per_1000 == pytest.approx(1000 * found.box.paid * 0.5 / 10)
    served = [one for one in found.lines if one.what == "serving"]
    assert sum(one.whole_per_1000 / 1000 * one.calls for one in served) == pytest.approx(
        found.box.paid
    )
    one_alias = costs(settings, store, since=0.0, until=NOW, aliases=["support"])
    assert {one.alias for one in one_alias.lines} == {"support"}
    assert line(one_alias.lines, "serving", "support@v1") == v1
    assert one_alias.box == found.box


def test_boxes_that_are_paid_by_the_hour_used(
    store: Store, settings: Settings, make_settings: Makes
) -> None:
    lived(store, settings)
    rented = make_settings(
        prices={**PRICES, "boxes": 0}, curate={"teacher": TEACHER}, aliases={"sales": {}}
    )
    found = costs(rented, store, since=START, until=NOW)
    assert (found.box.a_month, found.box.paid, found.box.busy) == (None, None, None)
    assert found.outlay == pytest.approx(
        sum(total.cost for total in found.totals.values() if total.cost is not None)
    )
    two = make_settings(prices={**PRICES, "boxes": 2})
    assert costs(two, store, since=START, until=NOW).box.a_month == pytest.approx(2 * 3.6 * 730)


@pytest.mark.sqlite
def test_what_has_no_price_is_unknown_and_never_nothing(store: Store, make_settings: Makes) -> None:
    plain = make_settings()
    lived(store, plain)
    with clock.at(lambda: START + 90_000.0):
        store.add_spending("support", "judge", "old-judge", Spent(9, 900, 90, None))
    found = costs(plain, store, since=START, until=NOW)
    priced = {one.what for one in found.lines if one.cost is not None}
    assert priced == {"teacher"}
    assert found.totals["support"].cost is None
    assert found.totals["support"].known == pytest.approx(0.004)
    assert (found.box.a_month, found.box.paid, found.outlay) == (None, None, None)
    assert found.box.busy is not None  # seconds are known without any price
    assert "prices.gpu_hour" in line(found.lines, "serving", "support@v1").cost_from
    assert "not configured now" in line(found.lines, "judge", None).cost_from
    said = text(found)
    assert "unknown" in said
    assert not re.search(r"\b0\.00\b", said)
    # A price that is set later is today's, for what had none; what was priced stays so.
    later = make_settings(prices=PRICES)
    again = costs(later, store, since=START, until=NOW)
    assert line(again.lines, "training", "support@v1").cost == pytest.approx(1.8)
    assert line(again.lines, "training", "support@v1").cost_from == "at today's prices.gpu_hour"
    assert line(again.lines, "teacher", None).cost == 0.004


@pytest.mark.sqlite
def test_without_a_gate_nobody_knows_how_long_a_token_takes(
    store: Store, settings: Settings
) -> None:
    fill(store, 10, "a", prompt_tokens=80, completion_tokens=20, hour=DAY)
    found = costs(settings, store, since=START, until=NOW)
    v1 = line(found.lines, "serving", "support@v1")
    assert (v1.gpu_seconds, v1.cost, v1.per_1000) == (None, None, None)
    assert "no gate has measured" in v1.cost_from
    assert found.box.busy is None
    # The box itself has a price, and so has its part of each answer.
    assert v1.whole_per_1000 == pytest.approx(100 * found.box.paid)


@pytest.mark.sqlite
def test_what_is_paid_by_the_token_costs_its_tokens(store: Store, make_settings: Makes) -> None:
    priced = make_settings(prices={**PRICES, "models": {"support": {"prompt": 1, "completion": 5}}})
    lived(store, priced)
    v1 = line(costs(priced, store, since=START, until=NOW).lines, "serving", "support@v1")
    assert v1.cost == pytest.approx((800 * 1 + 200 * 5) / 1e6)
    assert (v1.cost_from, v1.by_token) == ("prices.models.support", True)


@pytest.mark.sqlite
def test_only_the_time_asked_for_counts(store: Store, settings: Settings) -> None:
    lived(store, settings)
    early = costs(settings, store, since=START, until=START + 2 * SECONDS)
    assert {one.what for one in early.lines} == {"serving"}
    assert {one.version for one in early.lines} == {"support@v1", "base"}
    assert costs(settings, store, since=NOW, until=NOW + 86_400).lines == []


# -- 1,000 answers --------------------------------------------------------------------------------


def judged(settings: Settings, store: Store, cached: bool = False) -> Path:
    """A gate's run: v1 with 20 tokens an answer, the base with 60, 8 s for 160 tokens."""
    questions = [gold(number) for number in range(2)]
    rules = GoldSet(kind="gold", name="main", gold=[Path("gold.jsonl")])
    pack = LoadedPack(pack=Pack(name="main", sets=(rules,)), questions={"main": questions})
    answers = {
        name: {
            q.id: [
                Answer(
                    model=name,
                    text="delivery",
                    finish_reason="stop",
                    prompt_tokens=tokens,
                    completion_tokens=tokens,
                    latency_s=1.0,
                    cached=cached,
                )
            ]
            for q in questions
        }
        for name, tokens in (("support@v1", 10), ("base", 30))
    }
    results = EvalResults(
        run_id="run-1", alias="support", candidate="support@v1", baseline="base",
        base_model="base", created=START, seconds=8.0, gate=Gate(), bootstrap_seed=0, packages={},
        probes=[],
        packs=[
            PackUsed(name="main", pack_hash=pack.pack_hash, description="", origin="configured")
        ],
        sets=[
            SetResults(
                pack="main", name="main", rules=rules, sampling={}, questions=questions,
                question_hash=question_hash(questions, of_users=False), answers=answers,
            )
        ],
    )  # fmt: skip
    folder = settings.runs / "run-1"
    folder.mkdir(parents=True, exist_ok=True)
    save(results, folder, store)
    store.add_evaluation(
        Evaluation(
            run_id="run-1", ts=START, alias="support", candidate="support@v1", baseline="base",
            verdict="pass", report={},
        )
    )  # fmt: skip
    return folder


@pytest.mark.sqlite
def test_a_thousand_answers_against_the_base_and_the_teacher(
    store: Store, settings: Settings
) -> None:
    lived(store, settings)
    run = judged(settings, store)
    with clock.at(lambda: START + 86_400.0):
        Deployments(store).promote("support", 1, who="test", why="")
    said = Answer(
        model="big",
        text="delivery",
        finish_reason="stop",
        prompt_tokens=1000,
        completion_tokens=200,
        latency_s=1.0,
    )
    write_json(
        run / FILE,
        TeacherResults(
            run_id="run-1", alias="support", candidate="support@v1", baseline="base", model="big",
            url=TEACHER["url"], created=START, seconds=1.0, sets={},
            answers={"main/main": {f"q{n}": said for n in range(2)}},
            calls=2, cached=0, prompt_tokens=2000, completion_tokens=400, cost=0.008,
        ).model_dump(mode="json"),
    )  # fmt: skip
    live, base, teacher = costs(settings, store, since=START, until=NOW).thousands["support"]
    # 160 tokens in 8 s: v1's 40 tokens are 2 s, 1 s an answer; the base's three times that.
    assert (live.role, live.model, live.asked) == ("live", "support@v1", "gate")
    assert (live.answers, live.tokens, live.cost) == (2, 20.0, pytest.approx(1.0))
    assert (base.tokens, base.cost) == (60.0, pytest.approx(3.0))
    # (2,000 * 2 + 400 * 10) / 1e6 for two answers.
    assert (teacher.asked, teacher.cost) == ("gate", pytest.approx(4.0))
    assert live.against_base == pytest.approx(1 / 3)
    assert live.against_teacher == pytest.approx(0.25)
    assert base.against_teacher == pytest.approx(0.75)


@pytest.mark.sqlite
def test_where_the_gates_run_is_elsewhere_the_served_answers_count(
    store: Store, settings: Settings
) -> None:
    lived(store, settings)
    with clock.at(lambda: START + 86_400.0):
        Deployments(store).promote("support", 1, who="test", why="")
    live, base, teacher = costs(settings, store, since=START, until=NOW).thousands["support"]
    assert (live.asked, live.cost) == ("served", pytest.approx(5.0))
    assert (base.asked, base.cost) == ("served", pytest.approx(2.0))
    # What it was asked for corrections: (1,000 * 2 + 200 * 10) / 1e6 for 50 answers.
    assert (teacher.asked, teacher.cost) == ("asked", pytest.approx(0.08))
    assert live.against_base == pytest.approx(2.5)
    [base, teacher] = costs(settings, store, since=START, until=NOW).thousands["sales"]
    assert (base.asked, base.cost, teacher.asked, teacher.cost) == ("", None, "", None)
    assert base.against_teacher is None


@pytest.mark.sqlite
def test_the_command_prints_it(store: Store, settings: Settings, tmp_path: Path) -> None:
    lived(store, settings)
    judged(settings, store)
    config = write_config(settings, tmp_path / "config.yaml")

    def run(*words: str) -> Any:
        with clock.at(lambda: NOW):
            done = CliRunner().invoke(cli, ["-c", str(config), "costs", *words])
        assert done.exit_code == 0, done.output
        return done.output

    said = run("support", "--since", "2024-10-04")
    print(said)
    assert "a month however idle" in said
    assert "2,628.00 EUR" in said  # 3.6 * 730
    assert "1,000 answers of" in said
    assert "≈ is an estimate: 100 s for 2,000 tokens in 1 gate(s)" in said
    found = json.loads(run("--json", "--since", "2024-10-04"))
    assert found["currency"] == "EUR"
    assert {one["what"] for one in found["lines"]} == {
        "serving", "training", "gate", "teacher", "shadow",
    }  # fmt: skip
    assert set(found["totals"]) == {"support", "sales"}


def test_the_pages_example_can_be_read(make_settings: Makes) -> None:
    page = (Path(__file__).parent.parent / "docs/costs.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    read = make_settings(**yaml.safe_load(block))
    assert (read.prices.gpu_hour, read.prices.boxes) == (2.5, 1)
    assert read.curate.teacher is not None
