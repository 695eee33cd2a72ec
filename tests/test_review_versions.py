"""The page of a version: sets, slices and every changed answer, with users' texts by key alone."""

from __future__ import annotations

import json
import time

import pytest
from browser import PHONE, axe_findings, is_wider_than_the_screen, logged_in, screenshot, served
from gate_made import NEW, OLD, SECRET, made
from review_client import enter

from curate.review.app import create
from curate.review.looks import judged
from eval import results as stored
from ledger.files import write_json
from ledger.records import Evaluation, Interaction
from ledger.registry import ADAPTER_CONFIG, WEIGHTS, Registry

PAGE = "/support/versions/2"


def publish(settings, count=2):
    registry = Registry(settings.registry)
    for number in range(1, count + 1):
        with registry.building("support") as (version, lora_id, folder):
            (folder / WEIGHTS).write_bytes(bytes([number]))
            write_json(folder / ADAPTER_CONFIG, {"r": 8, "peft_type": "LORA"})
            facts = dict.fromkeys(("base_model", "base_fingerprint", "template_hash"), "x")
            facts |= {"dataset_id": "fw1:dataset:1", "run_id": "r", "alias": "support"}
            numbers = {"version": version, "lora_id": lora_id, "rank": 8, "pairs": 1}
            registry.publish(folder, {**facts, **numbers, "created": 1.0})


def add_rows(store, count=4):
    store.add_interactions(
        [
            Interaction(
                row_id=f"chatcmpl-{n}",
                request_id=f"chatcmpl-{n}",
                ts=time.time(),
                api="chat",
                alias="support",
                version=OLD,
                base_model="base",
                deployment=0,
                arm="live",
                messages=[{"role": "user", "content": SECRET}],
                response="x",
                subject=f"s{n}",
                prompt_tokens=1,
                completion_tokens=1,
            )
            for n in range(count)
        ]
    )


@pytest.fixture
def gated(settings, store):
    """A ledger with a version that was judged on three sets; its run's folder."""
    publish(settings)
    add_rows(store)
    report, results = made()
    folder = settings.runs / "r1"
    stored.save(results, folder, store)
    store.add_evaluation(
        Evaluation(
            run_id="r1",
            ts=results.created,
            alias="support",
            candidate=NEW,
            baseline=OLD,
            verdict=report.verdict,
            report=report.model_dump(mode="json"),
        )
    )
    return folder


@pytest.fixture
def client(settings, store, gated):
    with enter(create(settings, store), "ada", "operator") as client:
        yield client


def test_the_page_shows_sets_slices_and_every_changed_answer(client, gated):
    text = client.get(PAGE).text
    for said in ("house/form", "house/past", "letters | post", "informative", "guard"):
        assert said in text
    assert "no_control_tokens" in text
    assert "all 8" in text
    for count in ("broken 4", "fixed 3", "both wrong 1"):
        assert count in text
    assert "Where is order 1?" in text
    assert "is not &#39;delivery&#39;" in text
    assert "&lt;b&gt;" in text  # what a model says is no markup
    assert "<b>billing" not in text
    assert SECRET not in (gated / "eval_results.json").read_text()
    assert text.count(SECRET) == 3  # opened by key: one broken, two fixed
    assert '<a href="/support/rows/chatcmpl-0">' in text


@pytest.mark.sqlite
def test_one_kind_is_shown_alone_and_pages_follow_each_other(client, settings, store):
    fixed = client.get(f"{PAGE}?kind=fixed").text
    assert fixed.count('class="changed"') == 3
    assert '<span class="badge bad">broken' not in fixed
    assert "8 of 8" not in fixed
    assert client.get(f"{PAGE}?kind=nonsense&start=0").text.count('class="changed"') == 8
    assert client.get(f"{PAGE}?start=6").text.count('class="changed"') == 2
    verdict = store.evaluations("support")[NEW]
    part = judged.changed(settings, store, verdict, only="house/past", start=1, most=1)
    assert (part.counts, part.total) == ({"broken": 1, "fixed": 2, "both": 0}, 3)
    assert [item.id for item in part.items] == ["chatcmpl-1"]


def test_who_is_forgotten_is_forgotten_here_too(client, store):
    store.forget("s0", who="test", why="asked to")
    text = client.get(f"{PAGE}?kind=broken").text
    assert SECRET not in text
    assert "Nobody can read it any more." in text


@pytest.mark.sqlite
def test_a_run_that_is_gone_or_damaged_leaves_the_numbers(client, gated):
    file = gated / "eval_results.json"
    results = json.loads(file.read_text())
    results["sets"][2]["lines"][0]["sealed"] = "AAAA"
    file.write_text(json.dumps(results))
    assert "damaged or sealed" in client.get(PAGE).text
    file.write_text("{}")
    assert "are not in" in client.get(PAGE).text
    file.unlink()
    text = client.get(PAGE).text
    assert "the answers of run r1 are not in" in text
    assert "letters | post" in text


@pytest.mark.sqlite
def test_a_verdict_of_an_earlier_format_is_shown_as_before(settings, store):
    publish(settings)
    report = {"gold_candidate": 0.9, "gold_baseline": 0.8, "questions": 10, "slices": {}}
    report |= {"difference": 0.1, "interval": [0.0, 0.2], "margin": 0.02, "reasons": ["better"]}
    values = {"run_id": "old", "ts": 1.0, "alias": "support", "baseline": OLD, "verdict": "pass"}
    store.add_evaluation(Evaluation(candidate=NEW, report=report, **values))
    with enter(create(settings, store), "ada", "operator") as client:
        text = client.get(PAGE).text
    assert "better" in text
    assert "Answers that changed" not in text


@pytest.mark.sqlite
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_page_in_a_browser(settings, store, gated, browser, look):
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": {"viewport": PHONE}}[look]
    with served(settings, store) as page:
        tab = logged_in(browser, page, "ada", **options)
        tab.goto(PAGE)
        assert tab.get_by_text("Where is order 1?").is_visible()
        tab.get_by_role("link", name="fixed 3").click()
        tab.wait_for_url("**kind=fixed**")
        assert tab.locator(".changed").count() == 3
        tab.goto(PAGE)
        assert axe_findings(tab) == []
        assert not is_wider_than_the_screen(tab)
        screenshot(tab, f"version-{look}")
        tab.context.close()
