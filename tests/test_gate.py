"""The gate from end to end, against a real HTTP server that speaks the OpenAI protocol."""

import asyncio
import copy
import io
import json
import threading

import pytest
from rich.console import Console

from eval.client import Client, Question
from eval.fake import FakeFailure, FakeServer
from eval.gate import RESULTS, main, recompute, run_gate
from eval.reports import print_report
from eval.verdict import EvalResults, Probe
from ledger import settings as configuration
from ledger.errors import ConfigError, GoldError, RecordError, ServerError, UsageError
from ledger.settings import parse
from ledger.store import Store

QUESTIONS = 40


def right(messages):
    """The right answer: the last word of the question."""
    return messages[-1]["content"].split()[-1]


def wrong_from(first):
    """Right on questions before number `first`, wrong from there on."""

    def says(messages):
        number = int(right(messages).removeprefix("answer"))
        return right(messages) if number < first else "no \x1b[31midea[/red]"

    return says


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.delenv(configuration.KEYS_VARIABLE, raising=False)
    gold = tmp_path / "gold.jsonl"
    lines = [
        {
            "id": f"q{number}",
            "messages": [{"role": "user", "content": f"Say answer{number}"}],
            "checks": [{"type": "exact", "value": f"answer{number}"}],
            "slice": "even" if number % 2 == 0 else "odd",
        }
        for number in range(QUESTIONS)
    ]
    gold.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return parse(
        {
            "var": str(tmp_path / "var"),
            "model": {"name": "tiny", "path": "nowhere"},
            "aliases": {
                "support": {
                    "gate": {
                        "gold": [str(gold)],
                        "margin": 0.1,  # nothing broken in 40 rules out a loss of 9 points
                        "resamples": 1000,
                        "concurrency": 16,
                        "base": False,
                    }
                }
            },
            "ledger": {"url": f"sqlite:///{tmp_path / 'ledger.db'}"},
            "privacy": {"key_file": str(tmp_path / "subject.key")},
        },
        name="test",
    )


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "runs" / "r1"


def gate(settings, server, run_dir, *, baseline="support@v1", key="none", **more):
    return asyncio.run(
        run_gate(
            settings,
            "support",
            "support@v2",
            baseline,
            server.url,
            key,
            run_dir,
            **{"retries": 0} | more,
        )
    )


nothing_right = wrong_from(0)


def served(candidate=right, live=right, base=nothing_right, **more):
    return FakeServer({"tiny": base, "support@v1": live, "support@v2": candidate}, **more)


def test_a_first_adapter_passes_against_a_base_that_knows_nothing(settings, run_dir):
    seen = []
    with served() as server:
        report = gate(
            settings,
            server,
            run_dir,
            baseline="tiny",
            on_progress=lambda done, total, cached: seen.append((done, total, cached)),
            also=["support@v1", "tiny"],
            template_hash="fw1:template:abc",
        )
        requests = list(server.seen)
    assert (report.verdict, report.passed) == ("pass", True)
    assert (report.gold_candidate, report.gold_baseline, report.difference) == (1.0, 0.0, 1.0)
    # 40 of 40 do not prove that it is always so.
    assert report.interval == (pytest.approx(0.78, abs=0.01), 1.0)
    assert report.p_value < 1e-9
    assert (len(report.fixed), report.broken) == (QUESTIONS, [])
    assert report.also == {"support@v1": 1.0}
    even = report.slices["even"]
    assert (even.questions, even.candidate, even.baseline) == (QUESTIONS // 2, 1.0, 0.0)
    assert even.verdict is None  # it has no rule
    assert seen == [(n, 3 * QUESTIONS, 0) for n in range(3 * QUESTIONS + 1)]

    assert {request.headers["x-flywheel-purpose"] for request in requests} == {"evaluation"}
    assert {request.body["temperature"] for request in requests} == {0.0}
    assert {request.body["seed"] for request in requests} == {0}
    stored = json.loads((run_dir / RESULTS).read_text())
    assert stored["template_hash"] == "fw1:template:abc"
    assert stored["report"] == report.model_dump(mode="json")
    assert stored["sets"][0]["checks"]["tiny"]["q3"] == [
        [{"passed": False, "reason": "is not exactly 'answer3'"}]
    ]
    assert stored["packages"]["openai"]
    store = Store.open(settings)
    recorded = store.evaluations("support")["support@v2"]
    store.close()
    assert (recorded.run_id, recorded.baseline, recorded.verdict) == ("r1", "tiny", "pass")
    assert recorded.report == stored["report"]


def test_both_versions_are_asked_the_same_question_side_by_side(settings, run_dir):
    one = settings.alias("support").gate.model_copy(update={"concurrency": 1})
    alias = settings.alias("support").model_copy(update={"gate": one})
    with served() as server:
        gate(settings.model_copy(update={"aliases": {"support": alias}}), server, run_dir)
        asked = [request.body for request in server.seen if not request.body.get("logprobs")]
    assert [body["model"] for body in asked] == ["support@v2", "support@v1"] * QUESTIONS
    assert all(a["messages"] == b["messages"] for a, b in zip(asked[::2], asked[1::2], strict=True))


def test_the_same_answers_as_the_live_version_pass(settings, run_dir):
    with served(candidate=wrong_from(30), live=wrong_from(30)) as server:
        report = gate(settings, server, run_dir)
    assert (report.verdict, report.difference, report.p_value) == ("pass", 0.0, 1.0)
    # The exact bound: nothing broke in 40 questions.
    most = 1 - 0.025 ** (1 / QUESTIONS)
    assert report.interval == (pytest.approx(-most), pytest.approx(most))


def test_few_questions_on_which_nothing_changed_are_no_proof(settings, run_dir):
    strict = settings.alias("support").gate.model_copy(update={"margin": 0.02})
    alias = settings.alias("support").model_copy(update={"gate": strict})
    with served() as server:
        report = gate(settings.model_copy(update={"aliases": {"support": alias}}), server, run_dir)
    assert (report.verdict, report.difference) == ("underpowered", 0.0)
    assert report.needed > 150


def test_a_clearly_worse_version_fails(settings, run_dir):
    with served(candidate=wrong_from(20)) as server:
        report = gate(settings, server, run_dir)
    assert report.verdict == "fail"
    assert report.broken == [f"q{number}" for number in range(20, QUESTIONS)]
    assert report.difference == -0.5


def test_a_version_that_is_perhaps_worse_is_underpowered(settings, run_dir):
    with served(candidate=wrong_from(38)) as server:
        report = gate(settings, server, run_dir)
    assert report.verdict == "underpowered"
    assert 0.1 < report.detectable < 0.5
    assert report.needed > QUESTIONS
    assert any(str(report.needed) in reason for reason in report.reasons)


def test_a_candidate_that_is_the_base_in_disguise_fails_before_it_is_asked(settings, run_dir):
    with served(candidate=right, base=right) as server:
        report = gate(settings, server, run_dir)
        assert len(server.seen) == 3 * settings.alias("support").gate.probes
    assert report.verdict == "fail"
    assert "answers exactly like the base model tiny" in report.reasons[0]
    assert report.gold_candidate is None
    assert recompute(json.loads((run_dir / RESULTS).read_text())) == report


def test_the_same_words_with_other_logprobs_are_another_model(settings, run_dir):
    with served(base=right, offsets={"support@v2": -0.1}) as server:
        assert gate(settings, server, run_dir).verdict == "pass"


def test_a_difference_within_the_servers_own_noise_is_none():
    def probe(candidate, again):
        return Probe(question="q", base=[("a", -1.0)], candidate=candidate, base_again=again)

    assert not probe([("a", -1.0005)], [("a", -1.0)]).differs
    assert probe([("a", -1.05)], [("a", -1.0)]).differs
    assert not probe([("a", -1.05)], [("a", -1.04)]).differs
    assert probe([("b", -1.0)], [("a", -1.04)]).differs
    assert not probe([("b", -1.0)], [("b", -1.0)]).differs


def test_a_version_that_is_not_served_is_an_error(settings, run_dir):
    said = pytest.raises(ServerError, match=r"does not serve support@v2\n.*tiny, support@v1")
    with FakeServer({"tiny": right, "support@v1": right}) as server, said:
        gate(settings, server, run_dir)
    assert not run_dir.exists()


def test_a_wrong_key_is_an_error_that_says_so(settings, run_dir):
    with served(api_key="right") as server:
        with pytest.raises(ServerError, match=r"refused the API key \(HTTP 401\)"):
            gate(settings, server, run_dir, key="wrong")
        assert gate(settings, server, run_dir, key="right").passed


def test_a_server_that_goes_away_midway_leaves_no_verdict(settings, run_dir):
    server = served()
    answered = threading.Semaphore(30)

    def says(messages):
        if not answered.acquire(blocking=False):
            server.close()
        return right(messages)

    server.models["support@v2"] = says
    with server, pytest.raises(ServerError, match="cannot be reached"):
        gate(settings, server, run_dir)
    assert not run_dir.exists()
    store = Store.open(settings)
    assert store.evaluations("support") == {}
    store.close()


def test_an_answer_by_another_model_is_an_error(settings, run_dir):
    said = pytest.raises(ServerError, match="'support@v2' and 'support@v1' answered")
    with served(renames={"support@v2": "support@v1"}) as server, said:
        gate(settings, server, run_dir)


def test_short_trouble_is_overcome_and_lasting_trouble_is_named(settings, run_dir):
    troubles = [FakeFailure(503), FakeFailure(429)]

    def says(messages):
        if troubles:
            raise troubles.pop()
        return right(messages)

    def never(_):
        raise FakeFailure(400, "the prompt is too long")

    with served(candidate=says) as server:
        assert gate(settings, server, run_dir, retries=2).passed
        server.models["support@v2"] = never
        with pytest.raises(ServerError, match="HTTP 400 on the probe: the prompt is too long"):
            gate(settings, server, run_dir)


def test_one_version_against_itself_or_the_base_as_candidate_is_wrong_usage(settings, run_dir):
    async def ask(candidate, baseline):
        await run_gate(settings, "support", candidate, baseline, "http://x", "none", run_dir)

    for candidate, baseline in (("support@v1", "support@v1"), ("tiny", "support@v1")):
        with pytest.raises(UsageError, match="candidate"):
            asyncio.run(ask(candidate, baseline))
    with pytest.raises(ConfigError, match="'sales'"):
        asyncio.run(run_gate(settings, "sales", "sales@v1", "tiny", "http://x", "none", run_dir))


def test_no_gold_is_an_error_before_anything_is_asked(settings, run_dir):
    settings.alias("support").gate.gold[0].write_text("")
    with served() as server:
        with pytest.raises(GoldError, match="empty"):
            gate(settings, server, run_dir)
        assert server.seen == []


@pytest.mark.parametrize("first_wrong", [40, 38, 20])
def test_the_verdict_follows_from_the_file_alone(settings, run_dir, first_wrong):
    with served(candidate=wrong_from(first_wrong)) as server:
        report = gate(settings, server, run_dir)
    stored = json.loads((run_dir / RESULTS).read_text())
    assert recompute(stored) == report

    better = copy.deepcopy(stored)
    for number in range(QUESTIONS):
        better["sets"][0]["answers"]["support@v2"][f"q{number}"][0]["text"] = f"answer{number}"
    assert recompute(better).verdict == "pass"  # it counts answers, not the stored checks

    del better["sets"][0]["answers"]["support@v2"]["q0"]
    with pytest.raises(RecordError, match="support@v2 has no answer to 1 question"):
        recompute(better)
    with pytest.raises(RecordError, match="not the results of a gate"):
        recompute({"format": 2})
    with pytest.raises(RecordError, match="have the format 1"):
        recompute({"format": 1})
    loose = copy.deepcopy(stored)
    loose["sets"][0]["rules"]["margin"] = 0.5
    with pytest.raises(RecordError, match="the pack 'gold' have the hash"):
        recompute(loose)
    stored["sets"][0]["questions"][0]["checks"][0]["value"] = "else"
    with pytest.raises(RecordError, match="questions of gold/gold have the hash"):
        recompute(stored)


def command(settings, tmp_path, server, candidate="support@v2"):
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(settings.model_dump_json())
    words = ["--config", str(config), "--alias", "support", "--candidate", candidate]
    words += ["--baseline", "support@v1", "--base-url", server.url]
    return main([*words, "--run", str(tmp_path / "run")])


def test_the_command_passes(settings, tmp_path, capsys):
    with served() as server:
        assert command(settings, tmp_path, server) == 0
    out, err = capsys.readouterr()
    assert "candidate support@v2" in out
    assert "100.0%" in out
    assert "Verdict: PASS" in out
    assert out.isascii()
    assert "80 of 80 answers" in err


def test_the_command_refuses_and_lists_what_broke(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(configuration.KEYS_VARIABLE, "secret")
    with served(candidate=wrong_from(20), api_key="secret") as server:
        assert command(settings, tmp_path, server) == 100
    out, err = capsys.readouterr()
    assert "Verdict: FAIL - support@v2 gives worse answers than support@v1" in out
    assert "Broken answers (20):" in out
    assert "q20: Say answer20" in out
    assert "support@v2: no ?[31midea[/red]  (is not exactly 'answer20')" in out
    assert "and 10 more" in out
    assert "support@v2: fail" in err


def test_the_command_says_underpowered_as_a_refusal(settings, tmp_path, capsys):
    with served(candidate=wrong_from(38)) as server:
        assert command(settings, tmp_path, server) == 100
    assert "cannot tell whether support@v2 is as good as support@v1" in capsys.readouterr().out


def test_the_command_is_broken_or_misused(settings, tmp_path, capsys):
    with served() as server:
        assert command(settings, tmp_path, server, candidate="support@v9") == 1
        assert command(settings, tmp_path, server, candidate="support@v1") == 2
    assert main(["--alias", "support"]) == 2
    assert "does not serve support@v9" in capsys.readouterr().err


def test_the_report_on_a_terminal(settings, run_dir):
    with served(candidate=right, base=right) as server:
        report = gate(settings, server, run_dir)
    results = EvalResults.model_validate_json((run_dir / RESULTS).read_text())
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    print_report(report, results, console)
    assert "not really live" in console.file.getvalue()


def test_a_stranger_behind_the_url_is_named():
    with FakeServer({"m": right}) as server:
        root = server.url.removesuffix("/v1")

        async def ask(url):
            async with Client(url, "none", retries=0) as client:
                models = await client.models()
                return models, await client.ask(
                    Question("m", [{"role": "user", "content": "a b"}], 1)
                )

        models, answer = asyncio.run(ask(root))
        assert models == ["m"]
        assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("b", "stop", 1)
        with pytest.raises(ServerError, match="does not know 'this path'"):
            asyncio.run(ask(f"{root}/elsewhere"))
    with pytest.raises(ServerError, match="cannot be reached"):
        asyncio.run(ask(root))
