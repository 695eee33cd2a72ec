"""Imports: each format as its maker writes it, what is left out by its line, and twice is once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import MakeSettings

from curate.datasets.export import export
from curate.imports import Summary, imported
from curate.imports.read import LONGEST
from flywheel.commands.console import Context
from flywheel.commands.imports import import_
from ledger.errors import UsageError
from ledger.files import write_jsonl
from ledger.keys.vault import Vault
from ledger.marks import IMPORTED
from ledger.records import Correction, Interaction
from ledger.settings import Settings
from ledger.store import Store

Take = Callable[..., Summary]
ASKED = [{"role": "user", "content": "Where is my parcel?"}]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(aliases={"support": {}, "other": {}})


@pytest.fixture
def take(settings: Settings, store: Store, tmp_path: Path) -> Take:
    """Imports records, or text, as a file of that name."""

    def run(given: list[Any] | str | bytes, name: str = "file.jsonl", **options: Any) -> Summary:
        file = tmp_path / name
        if isinstance(given, list):
            write_jsonl(file, given)
        else:
            file.write_bytes(given if isinstance(given, bytes) else given.encode())
        return imported(settings, store, file, "support", **options)

    return run


def rows(store: Store) -> list[Interaction]:
    return list(store.interactions(alias="support"))


def corrections(store: Store) -> list[Correction]:
    return list(store.corrections().values())


def unread(done: Summary) -> dict[str, str]:
    return dict(done.unreadable)


# -- OpenAI ------------------------------------------------------------------------------------


def chat(answer: str = "delivery", question: str = "Where is my parcel?") -> dict[str, Any]:
    asked = {"role": "user", "content": question}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def test_chat_lines_become_accepted_pairs_of_the_operator(store: Store, take: Take) -> None:
    done = take([chat()])
    [row], [said] = rows(store), corrections(store)
    assert (done.format, done.counts.rows, done.unreadable) == ("openai", 1, [])
    assert (row.messages, row.response, row.version) == (ASKED, None, "imported")
    assert (row.held, row.kept_because, row.arm) == (False, "all", "pinned")
    where = {"file": "file.jsonl", "at": "line 1", "format": "openai"}
    assert row.metadata == {"import": where}
    assert (said.text, said.source, said.author) == ("delivery", "operator", "import:openai")
    assert said.decision == "accepted"
    [tag] = store.tags([row.row_id])[row.row_id]
    assert (tag.tag, tag.who) == (IMPORTED, "rule:import:openai")
    assert store.waiting("support") == {}


def test_a_file_twice_adds_nothing_whatever_its_time_is(
    settings: Settings, store: Store, take: Take, tmp_path: Path
) -> None:
    take([chat(), chat("billing", "Why twice?"), chat()])
    before = len(rows(store)), corrections(store)
    done = take([chat(), chat("billing", "Why twice?"), chat()])
    assert (done.counts.rows, done.counts.known) == (0, 3)
    assert (len(rows(store)), corrections(store)) == before == (2, before[1])
    other = imported(settings, store, tmp_path / "file.jsonl", "other")
    assert other.counts.rows == 2


@pytest.mark.sqlite
def test_the_answer_that_is_trained_on_makes_the_pair(store: Store, take: Take) -> None:
    said = [
        {"role": "developer", "content": "Answer with a queue."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "delivery", "weight": 1},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye", "weight": 0},
    ]
    take([{"messages": said}])
    [row], [right] = rows(store), corrections(store)
    system = {"role": "system", "content": "Answer with a queue."}
    assert (row.messages, right.text) == ([system, said[1]], "delivery")


@pytest.mark.sqlite
def test_preferences_keep_the_answer_that_was_not_wanted(store: Store, take: Take) -> None:
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
    take(
        [
            {
                "input": {"messages": ASKED, "tools": [tool], "parallel_tool_calls": True},
                "preferred_output": [{"role": "assistant", "content": "delivery"}],
                "non_preferred_output": [{"role": "assistant", "content": "billing"}],
            }
        ]
    )
    [row], [right] = rows(store), corrections(store)
    assert (row.response, right.text, right.decision) == ("billing", "delivery", "accepted")
    assert row.tools == [tool]


@pytest.mark.sqlite
def test_what_cannot_be_read_is_named_by_its_line_and_the_rest_comes_in(
    store: Store, take: Take
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    lines = [
        json.dumps(chat()),
        "{broken",
        json.dumps({"messages": ASKED}),
        json.dumps([1]),
        "",
        json.dumps({"messages": [*ASKED, {"role": "assistant", "tool_calls": [call]}]}),
        json.dumps({"messages": [{"role": "assistant", "content": "hi", "weight": 0}]}),
        json.dumps({"messages": [{"role": "robot", "content": "hi"}]}),
        json.dumps({"messages": [*ASKED, {"role": "assistant", "content": " "}]}),
        json.dumps(chat() | {"messages": "?"}),
        '{"messages": NaN}',
        json.dumps(chat("billing", "And the last?")),
    ]
    done = take("\n".join(lines).encode() + b"\n\xff\xfe")
    assert (done.counts.rows, done.records) == (2, 12)
    found = unread(done)
    assert found == {
        "line 2": "not JSON: Expecting property name enclosed in double quotes at column 2",
        "line 3": "there is no answer: no message of the role assistant",
        "line 4": "not a JSON object",
        "line 6": "the answer calls tools; only text can be a training target",
        "line 7": "every answer has weight 0",
        "line 8": "messages[0] has no role, or one that is not known",
        "line 9": "the answer is empty",
        "line 10": "messages is not a list of messages",
        "line 11": "not JSON: NaN, infinity, or nested too deeply",
        "line 13": "not UTF-8 from its byte 1 on; save the file as UTF-8",
    }
    assert sum(done.reasons.values()) == len(found)
    assert "line 6: the answer calls tools" in done.text()


@pytest.mark.sqlite
def test_the_policy_may_reject_what_an_operator_imports(store: Store, take: Take) -> None:
    done = take([chat("x" * 20_000), chat("delivery", "Where else?")])
    assert done.counts.decisions == {"accepted": 1, "rejected": 1}
    rejected = [said for said in corrections(store) if said.decision == "rejected"]
    assert "too long" in rejected[0].why
    assert done.counts.why["too long"] == 1
    assert "too long" in done.text()


@pytest.mark.sqlite
def test_as_answers_nothing_is_a_training_target(store: Store, take: Take) -> None:
    take([chat()], mode="answers")
    [row] = rows(store)
    assert (row.response, corrections(store)) == ("delivery", [])


def test_what_we_export_comes_in_again_as_the_same_pairs(
    settings: Settings, store: Store, take: Take, tmp_path: Path
) -> None:
    given = [chat(f"queue {n}", f"Where is parcel {word}?") for n, word in enumerate("abcd")]
    given[0]["messages"].insert(0, {"role": "system", "content": "One queue."})
    take(given)
    export(store, settings, "support", "sft", out=tmp_path / "one.jsonl")
    imported(settings, store, tmp_path / "one.jsonl", "other")
    export(store, settings, "other", "sft", out=tmp_path / "two.jsonl")

    def lines(name: str) -> list[str]:
        return sorted((tmp_path / name).read_text().splitlines())

    assert lines("one.jsonl") == lines("two.jsonl") == sorted(map(json.dumps, given))


# -- Langfuse ----------------------------------------------------------------------------------


def test_a_trace_of_langfuse_with_its_scores(settings: Settings, store: Store, take: Take) -> None:
    trace = {
        "id": "trace-one",
        "timestamp": "2026-01-02T03:04:05.000Z",
        "userId": "ada",
        "sessionId": "talk",
        "input": {"messages": ASKED},
        "output": {"role": "assistant", "content": "billing"},
        "tags": ["Web App"],
        "observations": [],
        "scores": [
            {"name": "user-feedback", "dataType": "NUMERIC", "value": 0, "comment": "no"},
            {"name": "thumbs", "dataType": "CATEGORICAL", "value": 0, "stringValue": "down"},
            {"name": "toxicity", "dataType": "NUMERIC", "value": 1, "source": "EVAL"},
            {"name": "output", "dataType": "CORRECTION", "longStringValue": "delivery"},
        ],
    }
    done = take([trace])
    [row], [said] = rows(store), corrections(store)
    vault = Vault.open(settings.privacy.key_file)
    assert (row.messages, row.response, row.ts) == (ASKED, "billing", 1767323045.0)
    assert (row.subject, row.session) == (vault.subject("ada"), vault.session("talk"))
    assert (said.text, said.source, said.author) == ("delivery", "user", row.subject)
    assert said.decision == "proposed"
    given = [one for _, one in store.feedback(row_ids=[row.row_id])]
    assert [(one.score, one.rating, one.reason) for one in given] == [
        (0.0, None, "no"),
        (None, "down", None),
    ]
    assert all(one.negative and one.subject == row.subject for one in given)
    assert {tag.tag for tag in store.tags([row.row_id])[row.row_id]} == {IMPORTED, "web_app"}
    assert (done.counts.feedback, store.waiting("support")) == (2, {0: 1})
    again = take([trace])
    assert (again.counts.rows, again.counts.feedback, len(corrections(store))) == (0, 0, 1)


@pytest.mark.sqlite
def test_observations_and_scores_of_the_blob_storage(store: Store, take: Take) -> None:
    start = {"trace_id": "t", "start_time": "2026-01-02 03:04:05.000000", "user_id": "ben"}
    done = take(
        [
            {"trace_id": "t", "observation_id": "o", "name": "user-feedback", "value": 1}
            | {"data_type": "BOOLEAN"},
            start | {"id": "s", "type": "SPAN", "input": "x", "output": "y"},
            start
            | {"id": "o", "type": "GENERATION", "input": json.dumps(ASKED)}
            | {"output": json.dumps({"choices": [{"message": {"content": "delivery"}}]})},
            {"trace_id": "gone", "name": "thumbs", "value": 0, "data_type": "NUMERIC"},
            {"trace_id": "t", "name": "latency", "value": 0.5, "data_type": "NUMERIC"},
        ]
    )
    [row] = rows(store)
    assert (row.messages, row.response, row.ts) == (ASKED, "delivery", 1767323045.0)
    [(_, given)] = store.feedback(row_ids=[row.row_id])
    assert given.rating == "up"
    assert unread(done) == {"line 4": "says something of an answer that is not here"}
    assert done.skipped == {
        "an observation that is no generation (span)": 1,
        "a score that no person gave, or of an unknown scale": 1,
    }


@pytest.mark.sqlite
def test_dataset_items_of_langfuse_are_pairs(store: Store, take: Take) -> None:
    items = [
        {"id": "d", "input": "Where is my parcel?", "expectedOutput": {"queue": "delivery"}},
        {"id": "e", "input": {"question": "And now?"}, "expectedOutput": None},
        {"id": "f", "input": {"args": ["And then?"], "kwargs": {}}, "expectedOutput": "billing"},
    ]
    done = take(json.dumps({"data": items, "meta": {"page": 1}}), "items.json")
    said = {one.text: one.decision for one in corrections(store)}
    assert said == {'{"queue": "delivery"}': "accepted", "billing": "accepted"}
    assert unread(done) == {"record 2": "a dataset item without an expected output"}


@pytest.mark.sqlite
def test_the_table_of_traces_as_csv(store: Store, take: Take, tmp_path: Path) -> None:
    file = tmp_path / "traces.csv"
    with open(file, "w", newline="") as handle:
        out, comments = csv.writer(handle), json.dumps([{"content": "wrong queue"}])
        out.writerow(["id", "timestamp", "userId", "input", "output", "user-feedback", "comments"])
        out.writerow(
            ["t", "2026-01-02T03:04:05Z", "ada", json.dumps(ASKED), '"billing"', "[0]", comments]
        )
    done = take(file.read_bytes(), "traces.csv")
    [row] = rows(store)
    assert (done.format, row.messages, row.response) == ("langfuse", ASKED, "billing")
    given = [one for _, one in store.feedback(row_ids=[row.row_id])]
    assert [(one.score, one.reason) for one in given] == [(0.0, None), (None, "wrong queue")]


# -- TensorZero --------------------------------------------------------------------------------


ID = "0194266b-9c48-7000-8000-000000000001"  # made 2025-01-02


def inference(**fields: Any) -> dict[str, Any]:
    text = [{"type": "text", "text": "Where is my parcel?"}]
    given = {"system": "One queue.", "messages": [{"role": "user", "content": text}]}
    output = [{"type": "thought", "text": "hm"}, {"type": "text", "text": "billing"}]
    return {
        "id": ID,
        "function_name": "triage",
        "episode_id": ID,
        "input": json.dumps(given),
        "output": json.dumps(output),
        "tags": {"user_id": "ada"},
    } | fields


def test_inferences_of_tensorzero_and_what_was_said_of_them(
    settings: Settings, store: Store, take: Take
) -> None:
    right = json.dumps([{"type": "text", "text": "delivery"}])
    done = take(
        [
            inference(),
            {"id": ID, "inference_id": ID, "value": right, "tags": {}},
            {"id": ID, "target_id": ID, "metric_name": "solved", "value": False},
            {"id": ID, "target_id": ID, "target_type": "inference", "value": "the wrong one"},
            {"id": ID, "target_id": ID, "target_type": "episode", "value": "no"},
            {"id": ID, "target_id": ID, "metric_name": "cost", "value": 1.0},
        ]
    )
    [row], [said] = rows(store), corrections(store)
    system = {"role": "system", "content": "One queue."}
    assert (row.messages, row.response) == ([system, *ASKED], "billing")
    assert int(row.ts) == 1735811374
    assert row.subject == Vault.open(settings.privacy.key_file).subject("ada")
    assert (said.text, said.source, said.decision) == ("delivery", "user", "proposed")
    given = [one for _, one in store.feedback(row_ids=[row.row_id])]
    assert [(one.success, one.reason) for one in given] == [(False, None), (None, "the wrong one")]
    assert done.skipped == {
        "feedback about a whole episode": 1,
        "a metric that no person gave, or of an unknown scale": 1,
    }


@pytest.mark.sqlite
def test_a_demonstration_in_place_of_the_output(store: Store, take: Take) -> None:
    call = {"type": "tool_call", "id": "c", "name": "track", "arguments": {"n": 1}}
    turn = {"role": "assistant", "content": [call]}
    result = {"type": "tool_result", "id": "c", "name": "track", "result": "on its way"}
    asked = [{"role": "user", "content": "Where?"}, turn, {"role": "user", "content": [result]}]
    good, bad = ([{"type": "text", "text": text}] for text in ("delivery", "billing"))
    stored: dict[str, Any] = {
        "type": "chat",
        "function_name": "triage",
        "inference_id": ID,
        "output": good,
    }
    stored |= {"input": {"messages": asked}, "dispreferred_outputs": [bad]}
    take([stored], mode="pairs")
    [row], [said] = rows(store), corrections(store)
    assert row.messages is not None
    assert [message["role"] for message in row.messages] == ["user", "assistant", "tool"]
    assert row.messages[1]["tool_calls"][0]["function"] == {
        "name": "track",
        "arguments": '{"n": 1}',
    }
    assert (row.response, said.text, said.decision) == ("billing", "delivery", "accepted")


@pytest.mark.sqlite
def test_logged_answers_are_pairs_where_the_operator_says_so(store: Store, take: Take) -> None:
    take([inference()], mode="pairs")
    [row], [said] = rows(store), corrections(store)
    assert (row.response, said.text, said.source) == (None, "billing", "operator")


# -- CSV ---------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_columns_are_known_by_their_names(store: Store, take: Take) -> None:
    done = take(
        "\ufeffPrompt;Response;Label;User;Timestamp;Rating;Tags\n"
        '"Where is\nmy parcel?";billing;delivery;ada;1767323045;down;late, web, reviewed\n'
        "And the bill?;billing;;;;;\n"
        "Same?;billing;billing;;;;\n",
        "table.csv",
    )
    assert (done.format, done.counts.rows, done.unreadable) == ("csv", 3, [])
    first, second, _ = rows(store)
    assert first.messages == [{"role": "user", "content": "Where is\nmy parcel?"}]
    assert (first.response, first.ts) == ("billing", 1767323045.0)
    assert second.response == "billing"
    [said] = corrections(store)  # an answer alone is no training target
    assert (said.row_id, said.text, said.decision) == (first.row_id, "delivery", "accepted")
    assert done.counts.same == 1
    [(_, given)] = store.feedback(row_ids=[first.row_id])
    assert given.rating == "down"
    tags = {tag.tag for tag in store.tags([first.row_id])[first.row_id]}
    assert tags == {IMPORTED, "late", "web"}


@pytest.mark.sqlite
def test_broken_lines_of_csv_are_named(store: Store, take: Take) -> None:
    lines = [
        b"question,label,rating,ts",
        b"one,delivery,,",
        b'"two"x,delivery,,',
        b"three,delivery",
        b"caf\xe9,delivery,,",
        b",delivery,,",
        b"six,,,",
        b"seven,delivery,5 stars,",
        b"eight,delivery,,yesterday",
        b'"nine,delivery,,',
        b"ten,delivery,,",
    ]
    done = take(b"\n".join(lines), "table.csv")
    assert [row.messages and row.messages[0]["content"] for row in rows(store)] == ["one", "ten"]
    found = unread(done)
    assert found.pop("line 3").startswith("wrong quoting: ")
    assert found.pop("line 10").startswith("wrong quoting: ")
    assert found == {
        "line 4": "2 cells, but 4 columns",
        "line 5": "not UTF-8; save the file as UTF-8",
        "line 6": "no question: question and prompt and text and input are empty or missing",
        "line 7": "neither an answer nor a correction in the line",
        "line 8": "the rating is neither up nor down nor a number from 0 to 1",
        "line 9": "the time is neither a number of seconds nor ISO 8601",
    }


@pytest.mark.sqlite
def test_a_broken_or_endless_first_line_costs_only_itself(store: Store, take: Take) -> None:
    done = take('{"messages": [\n' + json.dumps(chat()))
    assert (done.counts.rows, list(unread(done))) == (1, ["line 1"])
    done = take('{"messages": "' + "x" * LONGEST + '"}\n' + json.dumps(chat("b", "And b?")))
    assert (done.counts.rows, unread(done)) == (1, {"line 1": "longer than 16 MiB"})


# -- files, privacy, the command ---------------------------------------------------------------


@pytest.mark.sqlite
def test_an_array_that_breaks_off_gives_what_is_whole(store: Store, take: Take) -> None:
    whole = json.dumps([chat(), chat("billing", "Why twice?")], indent=1)
    done = take(whole[: whole.index("billing")], "file.json")
    assert done.counts.rows == 1
    broken = "the JSON breaks off or is broken here; nothing behind it can be read"
    assert unread(done) == {"record 2": broken}


@pytest.mark.sqlite
def test_one_trace_as_it_is_downloaded(store: Store, take: Take) -> None:
    generation = {"type": "GENERATION", "input": ASKED, "output": "delivery"}
    trace = {"id": "t", "observations": [generation], "scores": [], "userId": None}
    done = take(json.dumps({"trace": trace}, indent=2), "trace.json", format="langfuse")
    assert (done.unreadable, [row.response for row in rows(store)]) == ([], ["delivery"])


@pytest.mark.sqlite
def test_personal_data_is_redacted_and_ids_survive(store: Store, take: Take) -> None:
    take([chat("Mail ada@example.org", "I am ada@example.org")])
    [row], [said] = rows(store), corrections(store)
    assert "ada@" not in json.dumps(row.messages) + said.text
    assert store.interaction(row.row_id).row_id == row.row_id


@pytest.mark.sqlite
def test_text_that_no_database_stores_costs_only_its_record(store: Store, take: Take) -> None:
    odd = {"messages": [{"role": "user", "content": "half \ud83d"}]}
    odd["messages"].append({"role": "assistant", "content": "delivery"})
    take(json.dumps(odd) + "\n" + json.dumps(chat()))
    assert "Where is my parcel?" in [(row.messages or ASKED)[0]["content"] for row in rows(store)]


@pytest.mark.sqlite
def test_a_file_of_nothing_known_is_refused(
    settings: Settings, store: Store, take: Take, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be told from its first records"):
        take([{"a": 1}])
    with pytest.raises(UsageError, match="is empty"):
        take("")
    with pytest.raises(UsageError, match="cannot be opened"):
        imported(settings, store, tmp_path / "none.jsonl", "support")


@pytest.fixture
def command(config: Path) -> Callable[..., Result]:
    def run(*words: str) -> Result:
        shared = Context(str(config))
        return CliRunner().invoke(import_, list(words), obj=shared, catch_exceptions=False)

    return run


@pytest.mark.sqlite
def test_the_command_and_its_exit_codes(
    command: Callable[..., Result], store: Store, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_jsonl(good, [chat(), {"messages": []}])
    write_jsonl(bad, [{"messages": []}])
    tried = command(str(good), "--alias", "support", "--dry-run", "--json")
    assert (tried.exit_code, json.loads(tried.stdout)["counts"]["rows"]) == (0, 1)
    assert rows(store) == []
    done = command(str(good), "--alias", "support")
    assert (done.exit_code, len(rows(store))) == (0, 1)
    assert "line 2: messages is not a list of messages" in done.stdout
    assert command(str(good), "--alias", "support").exit_code == 0
    assert command(str(bad), "--alias", "support").exit_code == 1
