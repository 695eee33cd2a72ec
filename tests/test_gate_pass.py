"""One pass: interleaved, kept while it runs, nothing asked twice of the same weights."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest
import sqlalchemy as sa
from servers import KEY
from tiny import write_config

from benchmarks.adapters import publish_random_adapter
from eval.asking import Wanted, ask, concurrency, identities
from eval.client import Client, Sampling
from eval.fake import FakeServer
from eval.gate import RESULTS, run_gate
from eval.reports import JUNIT, MARKDOWN, PAGE, PICTURE
from ledger import clock
from ledger.database import tables
from ledger.errors import ServerError
from ledger.files import read_json, write_json, write_jsonl
from ledger.records import Interaction
from ledger.registry import ADAPTER_CONFIG, WEIGHTS, Registry
from ledger.store import GateAnswer, Store

MODELS = ("support@v2", "support@v1", "base")
KNOWN = {name: f"fw1:model:{name}" for name in MODELS}
DAY = 86_400.0


def said(messages):
    return messages[-1]["content"].upper()


def wanted(count=5, **more):
    return [
        Wanted(f"q{n}", [{"role": "user", "content": f"say {n}"}], 16, **more) for n in range(count)
    ]


def run(store, server, questions, *, known=KNOWN, models=MODELS, at_once=4, **more):
    async def go():
        async with Client(server.url, "none", concurrency=at_once, retries=0) as client:
            return await ask(
                client, questions, models, store=store, alias="support", known=known, **more
            )

    return asyncio.run(go())


@pytest.fixture
def server():
    with FakeServer(dict.fromkeys(MODELS, said)) as running:
        yield running


def bodies(server):
    return [request.body for request in server.seen]


@pytest.mark.sqlite
def test_all_models_copies_and_samples_of_a_question_stand_side_by_side(store, server):
    sets = wanted(2) + wanted(3, samples=2, sampling=Sampling(temperature=0.7, top_p=0.9))[2:]
    done = run(store, server, sets, at_once=1)
    asked = [(b["messages"][0]["content"], b["model"], b["seed"]) for b in bodies(server)]
    greedy = [(f"say {n}", model, 0) for n in range(2) for model in MODELS]
    sampled = [("say 2", model, sample) for sample in range(2) for model in MODELS]
    assert asked == greedy + sampled
    assert [b["temperature"] for b in bodies(server)[-2:]] == [0.7, 0.7]
    assert bodies(server)[-1]["top_p"] == 0.9
    assert done.asked == 12
    assert [len(given) for given in done.answers["base"].values()] == [1, 1, 2]
    assert done.answers["support@v1"]["q1"][0].text == "SAY 1"


def test_a_rerun_asks_nothing_and_says_the_same(store, server):
    seen = []
    first = run(store, server, wanted())
    again = run(store, server, wanted(), on_progress=lambda *told: seen.append(told))
    assert len(server.seen) == 15
    assert (again.asked, again.cached) == (0, 15)
    assert seen == [(15, 15, 15)]
    for model in MODELS:
        for name, (answer,) in again.answers[model].items():
            assert answer == first.answers[model][name][0].model_copy(update={"cached": True})


@pytest.mark.sqlite
def test_the_next_gate_asks_only_the_new_candidate(store, server):
    run(store, server, wanted())
    server.models["support@v3"] = said
    models = ("support@v3", "support@v2", "base")
    done = run(
        store, server, wanted(), models=models, known={**KNOWN, "support@v3": "fw1:model:new"}
    )
    assert {body["model"] for body in bodies(server)[15:]} == {"support@v3"}
    assert (done.asked, done.cached) == (5, 10)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "say other"}]},
        {"max_tokens": 17},
        {"sampling": Sampling(temperature=0.1)},
        {"sampling": Sampling(seed=1)},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_whatever_bears_on_the_answer_is_asked_anew(store, server, change):
    run(store, server, wanted(1))
    done = run(store, server, [wanted(1)[0]._replace(**change)])
    assert done.cached == 0


@pytest.mark.sqlite
def test_more_samples_ask_only_those_that_are_new(store, server):
    hot = Sampling(temperature=1.0)
    run(store, server, wanted(1, samples=2, sampling=hot))
    done = run(store, server, wanted(1, samples=3, sampling=hot))
    assert (done.asked, done.cached) == (3, 6)
    assert [answer.cached for answer in done.answers["base"]["q0"]] == [True, True, False]


@pytest.mark.sqlite
def test_the_same_name_with_other_weights_is_asked_anew(store, server):
    run(store, server, wanted())
    done = run(store, server, wanted(), known={**KNOWN, "support@v1": "fw1:model:another"})
    assert {body["model"] for body in bodies(server)[15:]} == {"support@v1"}
    assert done.asked == 5


@pytest.mark.sqlite
def test_what_is_not_known_and_what_is_not_wanted_is_not_kept(store, server):
    some = {"base": KNOWN["base"]}
    run(store, server, wanted(), known=some)
    assert run(store, server, wanted(), known=some).cached == 5
    for more in ({"known": None}, {"known": KNOWN, "days": 0}):
        assert run(store, server, wanted(), **more).cached == 0


def test_old_answers_are_asked_anew_and_removed(store, server):
    run(store, server, wanted())
    with clock.at(lambda: time.time() + 91 * DAY):
        assert run(store, server, wanted(1)).cached == 0
    with store.reading() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(tables.gate_answers))
    assert count == 3


@pytest.mark.sqlite
def test_an_answer_by_another_model_is_not_kept(store, server):
    server.renames["support@v1"] = "support@v2"
    with pytest.raises(ServerError, match="'support@v1' and 'support@v2' answered"):
        run(store, server, wanted(1))
    with store.reading() as connection:
        kept = set(connection.scalars(sa.select(tables.gate_answers.c.version)))
    assert "support@v1" not in kept


@pytest.mark.sqlite
def test_a_server_that_goes_away_leaves_what_it_answered(store, server):
    left = [20]

    def says(messages):
        left[0] -= 1
        if left[0] <= 0:
            server.close()
        return said(messages)

    for model in MODELS:
        server.models[model] = says
    with pytest.raises(ServerError, match="cannot be reached"):
        run(store, server, wanted(30), at_once=2)
    with FakeServer(dict.fromkeys(MODELS, said)) as back:
        done = run(store, back, wanted(30))
        assert done.cached >= 15
        assert len(back.seen) == 90 - done.cached


# -- sealed as the row -------------------------------------------------------------------------


def add_row(store, subject="subject-1"):
    row = Interaction(
        row_id="chatcmpl-1",
        request_id="chatcmpl-1",
        ts=time.time(),
        api="chat",
        alias="support",
        version="support@v1",
        base_model="base",
        deployment=0,
        arm="live",
        messages=[{"role": "user", "content": "say it"}],
        response="IT",
        subject=subject,
        prompt_tokens=1,
        completion_tokens=1,
    )
    store.add_interactions([row])
    return row


def test_answers_to_rows_are_sealed_with_the_rows_key_and_go_with_it(store, server):
    add_row(store)
    questions = [*wanted(1), wanted(2, row_id="chatcmpl-1")[1]]
    run(store, server, questions)
    with store.reading() as connection:
        texts = list(connection.scalars(sa.select(tables.gate_answers.c.text)))
    assert len(texts) == 6
    assert not any(b"SAY" in text for text in texts)
    store.forget("subject-1", who="test", why="asked to")
    done = run(store, server, questions)
    assert (done.asked, done.cached) == (3, 3)
    # Nor does an answer that comes after it make the person a new key.
    assert run(store, server, questions).cached == 3


def test_an_answer_whose_row_is_not_there_is_not_kept(store):
    answers = [GateAnswer("k", "support@v1", "nobody", {"text": "x"})]
    assert store.add_gate_answers("support", answers) == 0
    answers = [GateAnswer("k", "support@v1", None, {"text": "x"})]
    assert store.add_gate_answers("support", answers) == 1
    assert store.add_gate_answers("support", answers) == 0
    assert store.gate_answers(["k", "other"]) == {"k": {"text": "x"}}


# -- who a model is ----------------------------------------------------------------------------


def model_folder(folder):
    folder.mkdir()
    write_json(folder / "config.json", {"hidden_size": 8})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def publish(settings, weights):
    registry = Registry(settings.registry)
    with registry.building("support") as (number, lora_id, folder):
        (folder / WEIGHTS).write_bytes(weights)
        write_json(folder / ADAPTER_CONFIG, {"r": 8, "peft_type": "LORA"})
        facts = dict.fromkeys(("base_model", "base_fingerprint", "template_hash"), "x")
        facts |= {"dataset_id": "d", "run_id": "r"}
        numbers = {"version": number, "lora_id": lora_id, "rank": 8, "pairs": 1, "created": 1.0}
        return registry.publish(folder, {"alias": "support", **facts, **numbers})


def test_an_identity_is_the_weights_the_template_and_the_options(make_settings, tmp_path):
    folder = model_folder(tmp_path / "model")
    settings = make_settings()
    publish(settings, b"one")
    publish(settings, b"two")
    names = ["support@v1", "support@v2", "base", "stranger", "support@v9"]
    found = identities(settings, "support", names)
    assert sorted(found) == ["base", "support@v1", "support@v2"]
    assert len(set(found.values())) == 3
    assert identities(settings, "support", names) == found

    more = make_settings(serve={"vllm": {"max_num_seqs": 7}})
    assert identities(more, "support", names) == found
    other = make_settings(serve={"vllm": {"quantization": "fp8"}})
    assert not set(identities(other, "support", names).values()) & set(found.values())
    (folder / "chat_template.jinja").write_text("{{ other }}")
    assert not set(identities(settings, "support", names).values()) & set(found.values())
    (folder / "config.json").unlink()
    assert identities(settings, "support", names) == {}


def test_as_much_at_once_as_the_batch_takes_but_for_a_quarter(make_settings):
    def at_once(gate, **vllm):
        settings = make_settings(aliases={"support": {"gate": gate}}, serve={"vllm": vllm})
        return concurrency(settings, "support")

    assert at_once({}, max_num_seqs=32) == 24
    assert at_once({}, max_num_seqs=1) == 1
    assert at_once({}) == 96
    assert at_once({"concurrency": 5}, max_num_seqs=32) == 5


# -- what it leaves ----------------------------------------------------------------------------


@pytest.mark.sqlite
def test_a_gate_and_its_replay_write_the_reports(make_settings, tmp_path):
    new, old = "support@v2", "support@v1"
    line = {"messages": [{"role": "user", "content": "say it"}], "slice": "one"}
    line["checks"] = [{"type": "exact", "value": "it"}]
    gold = tmp_path / "gold.jsonl"
    write_jsonl(gold, ({**line, "id": f"q{n}"} for n in range(40)))
    settings = make_settings(aliases={"support": {"gate": {"gold": [str(gold)], "margin": 0.1}}})
    config = write_config(settings, tmp_path / "config.yaml")
    folder = settings.runs / "r1"
    with FakeServer({"base": lambda _: "no", old: lambda _: "it", new: lambda _: "bad"}) as server:
        report = asyncio.run(run_gate(settings, "support", new, old, server.url, "none", folder))
    assert report.also == {"base": 0.0}  # asked in the same pass
    reports = (MARKDOWN, JUNIT, PAGE, PICTURE)
    assert {path.name for path in folder.iterdir()} == {*reports, RESULTS}
    for name in reports:
        (folder / name).unlink()
    command = [sys.executable, "-m", "flywheel.cli", "--config", str(config), "gate"]
    done = subprocess.run([*command, "--replay", str(folder)], capture_output=True, text=True)
    assert done.returncode == 100, done.stderr
    assert "Broken answers (40): gold" in done.stdout
    assert str(folder / PAGE) in done.stderr
    assert {path.name for path in folder.iterdir()} == {*reports, RESULTS}
    assert new in (folder / MARKDOWN).read_text()


# -- the real thing, killed half way -----------------------------------------------------------


def test_a_gate_that_was_killed_goes_on_where_it_was(make_settings, tmp_path):
    model_folder(tmp_path / "model")
    gold = tmp_path / "gold.jsonl"
    count = 120
    gold.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"q{n}",
                    "messages": [{"role": "user", "content": f"say {n}"}],
                    "checks": [{"type": "exact", "value": f"SAY {n}"}],
                }
            )
            + "\n"
            for n in range(count)
        )
    )
    gate = {"gold": [str(gold)], "concurrency": 4, "base": False, "resamples": 1000, "margin": 0.1}
    settings = make_settings(aliases={"support": {"gate": gate}})
    for weights in (b"one", b"two"):
        publish(settings, weights)
    command = [sys.executable, "-m", "eval.gate", "--alias", "support"]
    command += ["--config", str(write_config(settings, tmp_path / "config.yaml"))]
    command += ["--candidate", "support@v2", "--baseline", "support@v1"]
    command += ["--run", str(tmp_path / "run")]

    def slow(messages):
        time.sleep(0.01)  # so that there is a half way
        return said(messages)

    models = {"base": lambda _: "no", "support@v1": slow, "support@v2": slow}
    with FakeServer(models) as server, closing(Store.open(settings)) as store:
        command += ["--base-url", server.url]
        asking = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        counted = sa.select(sa.func.count()).select_from(tables.gate_answers)
        kept = 0
        while kept < 64:
            assert time.monotonic() < deadline
            assert asking.poll() is None, asking.stderr.read()
            with store.reading() as connection:
                kept = connection.scalar(counted)
            time.sleep(0.01)
        os.kill(asking.pid, signal.SIGKILL)
        asking.communicate()
        before = sum(not request.body.get("logprobs") for request in server.seen)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        after = sum(not request.body.get("logprobs") for request in server.seen) - before
    results = json.loads((tmp_path / "run/eval_results.json").read_text())
    asked = results["asked"]
    # Four were under way when it was killed; the server may have seen them only after that.
    assert asked <= after <= asked + 4
    assert 64 <= 2 * count - asked <= before + 4
    assert results["cached"] == 2 * count - asked
    assert "answers are known from earlier gates" in done.stderr


def test_a_real_server_is_asked_once(ours, tmp_path):
    version = publish_random_adapter(ours.settings, "support", ours.model, 23)
    ours.follow(
        ours.deployments.candidate("support", version.manifest.version, who="test", why="gate")
    )
    ours.server.wait_for_candidate("support", version.name)

    def gate(run, baseline="tiny"):
        asked = run_gate(
            ours.settings, "support", version.name, baseline, ours.url, KEY, tmp_path / run
        )
        asyncio.run(asked)
        return read_json(tmp_path / run / RESULTS)

    try:
        first, again = gate("one"), gate("two")
    finally:
        ours.deployments.withdraw("support", who="test", why="gate")
    questions = len(first["sets"][0]["questions"])
    assert (first["asked"], first["cached"]) == (2 * questions, 0)
    assert (again["asked"], again["cached"]) == (0, 2 * questions)

    def texts(results):
        return {
            (model, name): [one["text"] for one in samples]
            for model, given in results["sets"][0]["answers"].items()
            for name, samples in given.items()
        }

    assert texts(again) == texts(first)
    assert again["report"]["sets"] == first["report"]["sets"]
