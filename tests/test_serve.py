"""The plugin in a real vLLM: what clients see, what is logged, what feedback does."""

from __future__ import annotations

import http.client
import json
import math
import select
import subprocess
import time
import uuid
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from servers import KEY, Ours, wait_for

QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "strict": True,
            "description": "Look a parcel up.",
            "parameters": {
                "type": "object",
                "properties": {"service": {"type": "string", "enum": ["air", "sea"]}},
                "required": ["service"],
                "additionalProperties": False,
            },
        },
    }
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


def ask(ours: Ours, **more: Any) -> Any:
    words = {"model": "support", "messages": QUESTION, **GREEDY, **more}
    return ours.client.chat.completions.create(**words)


def streamed(ours: Ours, **more: Any) -> tuple[str, str, set[str]]:
    """(id, text, models named) of a streamed chat."""
    text, request_id, named = [], "", set()
    for chunk in ask(ours, stream=True, **more):
        request_id = chunk.id
        named.add(chunk.model)
        if chunk.choices and chunk.choices[0].delta.content:
            text.append(chunk.choices[0].delta.content)
    return request_id, "".join(text), named


FORCED = {"type": "function", "function": {"name": "look_up"}}


def no_blanks(ours: Ours) -> dict[str, float]:
    """Against white space: JSON allows it everywhere, and a random model goes on for ever."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ours.model)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return {str(token): -100.0 for token, text in enumerate(texts) if text and not text.strip()}


# -- what is logged ------------------------------------------------------------------------


def test_a_chat_is_logged_with_all_that_was_asked_and_said(ours: Ours) -> None:
    answer = ask(
        ours,
        user="user-17",
        metadata={"segment": "trial"},
        extra_body={"session_id": "session-4"},
    )
    row = ours.row(answer.id)
    assert answer.model == row.version == "tiny"
    assert (row.alias, row.api, row.arm, row.base_model) == ("support", "chat", "live", "tiny")
    assert row.messages == QUESTION
    assert row.response == answer.choices[0].message.content
    assert row.finish_reason == answer.choices[0].finish_reason
    assert row.prompt_tokens == answer.usage.prompt_tokens
    assert row.completion_tokens == answer.usage.completion_tokens == 8
    assert row.metadata == {"segment": "trial"}
    assert row.sampling == GREEDY
    assert row.template_hash is not None
    assert row.template_hash.startswith("fw1:template:")
    assert row.latency_ms is not None
    assert 0 < row.latency_ms < 60_000
    assert row.subject != row.session
    assert "user-17" not in str(row)
    assert "session-4" not in str(row)


def test_logprobs_reach_the_log_always_and_the_client_only_on_request(ours: Ours) -> None:
    silent = ask(ours)
    assert silent.choices[0].logprobs is None
    told = ask(ours, logprobs=True)
    values = [token.logprob for token in told.choices[0].logprobs.content]
    for answer in (silent, told):
        row = ours.row(answer.id)
        assert row.mean_logprob == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert row.min_logprob == pytest.approx(min(values), abs=1e-4)
        # The last value is the end-of-turn token's where the model stopped by itself.
        assert row.token_logprobs is not None
        lengths, logprobs = zip(*row.token_logprobs, strict=True)
        assert sum(lengths) == len(row.response or "")
        assert list(logprobs) == pytest.approx(values[: len(logprobs)], abs=1e-3)


def test_a_stream_is_logged_like_an_answer_at_once(ours: Ours) -> None:
    whole = ask(ours)
    request_id, text, named = streamed(ours)
    row = ours.row(request_id)
    assert named == {"tiny"}
    assert text == row.response == whole.choices[0].message.content
    assert row.ttft_ms is not None
    assert row.latency_ms is not None
    assert row.ttft_ms <= row.latency_ms
    assert ours.row(whole.id).mean_logprob == pytest.approx(row.mean_logprob, abs=1e-4)


def test_each_of_several_choices_is_a_row(ours: Ours) -> None:
    answer = ask(ours, n=3, temperature=1.0, seed=5)
    for choice in answer.choices:
        row = ours.row(answer.id, choice.index)
        assert row.response == choice.message.content
        assert row.choice == choice.index
    assert ours.row(answer.id, 1).row_id == f"{answer.id}#1"


def test_choices_of_a_stream_are_not_mixed(ours: Ours) -> None:
    texts: dict[int, list[str]] = {0: [], 1: []}
    request_id = ""
    for chunk in ask(ours, n=2, stream=True, temperature=1.0, seed=6):
        request_id = chunk.id
        for choice in chunk.choices:
            texts[choice.index].append(choice.delta.content or "")
    for index, parts in texts.items():
        assert ours.row(request_id, index).response == "".join(parts)


def test_prompts_of_a_text_completion_are_rows(ours: Ours) -> None:
    prompts = ["Once upon a time", "The sky is"]
    answer = ours.client.completions.create(
        model="support", prompt=prompts, max_tokens=4, temperature=1, n=2, seed=3
    )
    assert len(answer.choices) == 4
    for choice in answer.choices:
        row = ours.row(answer.id, choice.index)
        assert row.api == "completions"
        assert row.response == choice.text
        assert row.messages == [{"role": "user", "content": prompts[choice.index // 2]}]


@pytest.mark.parametrize("stream", [False, True])
def test_responses_are_logged(ours: Ours, stream: bool) -> None:
    made = ours.client.responses.create(
        model="support",
        instructions="Be brief.",
        input="Where is my parcel?",
        max_output_tokens=6,
        temperature=0,
        stream=stream,
    )
    answer = next(e.response for e in made if e.type == "response.completed") if stream else made
    row = ours.row(answer.id)
    assert answer.model == row.version
    assert row.api == "responses"
    assert row.messages == [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert row.response == answer.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_messages_are_logged(ours: Ours, stream: bool) -> None:
    body = {"model": "support", "max_tokens": 6, "temperature": 0, "messages": QUESTION}
    body |= {"system": "Be brief.", "stream": stream, "metadata": {"user_id": "user-3"}}
    answer = ours.http.post("/messages", json=body)
    assert answer.status_code == 200
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if "data: {" in line]
        request_id = next(e["message"]["id"] for e in events if e["type"] == "message_start")
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        text = "".join(delta.get("text", "") for delta in deltas)
    else:
        request_id = answer.json()["id"]
        text = answer.json()["content"][0]["text"]
    row = ours.row(request_id)
    assert row.api == "messages"
    assert row.messages == [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert row.response == text
    assert row.subject is not None


def test_a_tool_call_is_logged(ours: Ours) -> None:
    answer = ask(ours, tools=TOOLS, tool_choice=FORCED, logit_bias=no_blanks(ours), max_tokens=64)
    call = answer.choices[0].message.tool_calls[0]
    row = ours.row(answer.id)
    assert call.function.name == "look_up"
    assert row.tools == TOOLS
    assert row.response is not None
    assert "look_up" in row.response
    assert json.loads(call.function.arguments)["service"] in row.response


def test_store_false_keeps_numbers_and_no_text(ours: Ours) -> None:
    answer = ask(ours, store=False, metadata={"segment": "secret"})
    row = ours.row(answer.id)
    assert row.stored_text is False
    assert row.messages is None
    assert row.response is None
    assert row.metadata is None
    assert row.completion_tokens == 8
    assert row.mean_logprob is not None


def test_a_broken_connection_leaves_what_was_said(ours: Ours) -> None:
    marker = f"about {uuid.uuid4().hex}"
    body = {"model": "support", "messages": [{"role": "user", "content": marker}]}
    body |= {"stream": True, "max_tokens": 1900, "ignore_eos": True, "temperature": 0}
    request_id = ""
    with ours.http.stream("POST", "/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and '"content":"' in line:
                request_id = json.loads(line[6:])["id"]
                break
    row = ours.row(request_id)
    assert row.finish_reason == "disconnected"
    assert 0 < row.completion_tokens < 1900
    assert row.response


def test_a_connection_is_not_closed_when_clients_stop_using_theirs(ours: Ours) -> None:
    """httpx lets go after 5 s. Were it the server that closes, now and then a request is lost."""
    url = urlsplit(ours.url)
    with closing(http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)) as connection:
        for idle in (6.0, 0.0):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b""
            time.sleep(idle)
            # Nothing to read: the other side has not hung up.
            assert not select.select([connection.sock], [], [], 0)[0]


def test_a_session_id_used_twice_and_a_request_id_used_twice(ours: Ours) -> None:
    name = f"mine-{uuid.uuid4().hex}"
    body = {"model": "support", "messages": QUESTION, **GREEDY}
    for _ in range(2):
        answer = ours.http.post("/chat/completions", json=body, headers={"X-Request-Id": name})
        assert answer.json()["id"] == f"chatcmpl-{name}"

    def both() -> bool:
        rows = ours.store.interactions(newest_first=True, limit=50)
        return sum(row.request_id == f"chatcmpl-{name}" for row in rows) == 2

    wait_for(both, "both rows")


def test_evaluation_of_a_pinned_version_is_not_logged(ours: Ours) -> None:
    answer = ask(ours, model="tiny", extra_headers={"X-Flywheel-Purpose": "evaluation"})
    logged = ask(ours, model="tiny")
    assert ours.row(logged.id).arm == "pinned"
    assert ours.row(logged.id).alias is None
    assert ours.store.row_id(answer.id) is None


def test_users_cannot_leave_the_log_by_calling_themselves_an_evaluation(ours: Ours) -> None:
    answer = ask(ours, extra_headers={"X-Flywheel-Purpose": "evaluation"})
    assert ours.row(answer.id).alias == "support"


def test_no_personal_data_reaches_the_disk(ours: Ours) -> None:
    secret = "maria.k@example.org"
    answer = ask(
        ours,
        messages=[{"role": "user", "content": f"I am {secret}, call +44 20 7946 0958"}],
        metadata={"card": 4111111111111111},
        user=secret,
    )
    feedback = {"id": answer.id, "correction": f"ask {secret}", "reason": "call 020 7946 0958"}
    assert ours.http.post("/feedback", json={**feedback, "user": secret}).status_code == 200
    assert "[EMAIL_1]" in str(ours.row(answer.id).messages)
    # In a process of its own: closing a file drops the locks that SQLite holds on it in here.
    for raw, found in ((secret, 1), ("7946 0958", 1), ("4111111111111111", 1), (answer.id, 0)):
        words = ["grep", "--recursive", "--text", "--quiet", "--fixed-strings", raw]
        assert subprocess.run([*words, str(ours.settings.var)]).returncode == found, raw


# -- feedback ------------------------------------------------------------------------------


def test_feedback_finds_its_answer_at_once_and_twice_is_once(ours: Ours) -> None:
    answer = ask(ours)
    body = {"id": answer.id, "rating": "down", "correction": "delivery", "user": "user-1"}
    first = ours.http.post("/feedback", json=body)
    second = ours.http.post("/feedback", json=body)
    assert first.status_code == second.status_code == 200
    assert first.json()["row"] == answer.id
    assert first.json()["duplicate"] is False
    assert second.json()["duplicate"] is True
    assert first.json()["id"] == second.json()["id"]
    stored = ours.store.feedback(row_ids=[answer.id])
    assert [given.correction for _, given in stored] == ["delivery"]


@pytest.mark.parametrize(
    "given",
    [
        {"rating": "up"},
        {"score": 0.25},
        {"correction": "delivery"},
        {"reason": "too long"},
        {"regenerate": True},
        {"report": True},
        {"success": False},
    ],
)
def test_each_kind_of_feedback_is_taken(ours: Ours, given: dict[str, Any]) -> None:
    answer = ask(ours, max_tokens=1)
    assert ours.http.post("/feedback", json={"id": answer.id, **given}).status_code == 200
    [(_, stored)] = ours.store.feedback(row_ids=[answer.id])
    [(name, value)] = given.items()
    assert getattr(stored, name) == value


def test_feedback_on_one_of_several_choices(ours: Ours) -> None:
    answer = ask(ours, n=2, temperature=1.0)
    body = {"id": answer.id, "choice": 1, "rating": "up"}
    assert ours.http.post("/feedback", json=body).json()["row"] == f"{answer.id}#1"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"id": "chatcmpl-unknown", "rating": "up"}, 404, "id"),
        ({"rating": "up"}, 422, "id"),
        ({"id": "x", "rating": "sideways"}, 422, "rating"),
        ({"id": "x", "score": 7}, 422, "score"),
        ({"id": "x", "stars": 5}, 422, "stars"),
        ({"id": "x"}, 422, "body"),
        (["x"], 422, "body"),
        ({"id": "x", "correction": ""}, 422, "correction"),
    ],
)
def test_wrong_feedback_says_which_field(ours: Ours, body: Any, status: int, field: str) -> None:
    answer = ours.http.post("/feedback", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == field


def test_feedback_that_is_no_json(ours: Ours) -> None:
    answer = ours.http.post("/feedback", content=b"{")
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "body"


# -- what clients see ----------------------------------------------------------------------

# Differ between any two requests, or between a server with an alias and one without.
VOLATILE = {"id", "created", "created_at", "model", "system_fingerprint", "kv_transfer_params"}


def same(left: Any, right: Any) -> None:
    """Equal but for ids, times and the model's name."""
    assert without(left) == without(right)


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [without(item) for item in value]
    return value


TO_CHAT = "/chat/completions"
CHAT = {"messages": QUESTION, **GREEDY}
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (TO_CHAT, CHAT),
    "logprobs": (TO_CHAT, {**CHAT, "logprobs": True, "top_logprobs": 2}),
    "n": (TO_CHAT, {**CHAT, "n": 2, "temperature": 1, "seed": 4}),
    "n when greedy": (TO_CHAT, {**CHAT, "n": 2}),
    "tools": (TO_CHAT, {**CHAT, "tools": TOOLS, "tool_choice": FORCED, "max_tokens": 64}),
    "json": (TO_CHAT, {**CHAT, "response_format": {"type": "json_object"}}),
    "completion": ("/completions", {"prompt": "Once", **GREEDY}),
    "completion with logprobs": ("/completions", {"prompt": "Once", "logprobs": 1, **GREEDY}),
    "responses": ("/responses", {"input": "Hello", "max_output_tokens": 4, "temperature": 0}),
    "messages": ("/messages", {"messages": QUESTION, "max_tokens": 4, "temperature": 0}),
    "count": ("/messages/count_tokens", {"messages": QUESTION}),
    "too long": (TO_CHAT, {"messages": [{"role": "user", "content": "word " * 3000}]}),
    "too long messages": (
        "/messages",
        {"messages": [{"role": "user", "content": "word " * 3000}], "max_tokens": 4},
    ),
    "no messages": (TO_CHAT, {}),
    "bad temperature": (TO_CHAT, {**CHAT, "temperature": -1}),
    "bad role": (TO_CHAT, {"messages": [{"content": "?"}]}),
    "bad type": (TO_CHAT, {**CHAT, "max_tokens": "many"}),
}


@pytest.mark.parametrize("name", SAME)
def test_answers_and_errors_are_plain_vllms(ours: Ours, plain: httpx.Client, name: str) -> None:
    path, body = SAME[name]
    # Plain vLLM knows no alias: there the base model's own name is asked for.
    expected = plain.post(path, json={"model": "tiny", **body})
    found = ours.http.post(path, json={"model": "support", **body})
    assert found.status_code == expected.status_code
    left, right = found.json(), expected.json()
    for tool in (left, right):
        for choice in tool.get("choices", []):
            for call in (choice.get("message") or {}).get("tool_calls") or []:
                assert call.pop("id")
    if name in ("responses", "messages"):
        left, right = forget_ids(left), forget_ids(right)
    same(left, right)


def forget_ids(value: Any) -> Any:
    return json.loads(json.dumps(without(value)))


def test_a_stream_is_plain_vllms(ours: Ours, plain: httpx.Client) -> None:
    def chunks(client: httpx.Client, model: str) -> list[Any]:
        body = {"model": model, **CHAT, "stream": True, "stream_options": {"include_usage": True}}
        lines = client.post(TO_CHAT, json=body).text.splitlines()
        return [line if "[DONE]" in line else json.loads(line[6:]) for line in lines if line]

    found, expected = chunks(ours.http, "support"), chunks(plain, "tiny")

    def text(parts: list[Any]) -> str:
        choices = [part["choices"] for part in parts if isinstance(part, dict)]
        return "".join(c[0]["delta"].get("content") or "" for c in choices if c)

    # How tokens are grouped into chunks depends on timing; what is said does not.
    assert text(found) == text(expected)
    assert set(found[0]) == set(expected[0])
    assert found[-1] == expected[-1] == "data: [DONE]"
    same(found[-2]["usage"], expected[-2]["usage"])


def test_an_unknown_model_and_a_wrong_key_are_plain_vllms(ours: Ours, plain: httpx.Client) -> None:
    for path, body in (SAME["chat"], SAME["completion"], SAME["responses"], SAME["messages"]):
        wrong = {"model": "nobody", **body}
        found, expected = ours.http.post(path, json=wrong), plain.post(path, json=wrong)
        assert (found.status_code, found.json()) == (expected.status_code, expected.json())
        assert found.status_code == 404
        headers = {"Authorization": "Bearer nonsense"}
        found = ours.http.post(path, json=wrong, headers=headers)
        expected = plain.post(path, json=wrong, headers=headers)
        assert (found.status_code, found.json()) == (expected.status_code, expected.json())
        assert found.status_code == 401


def test_the_openai_client_sees_errors_as_its_own(ours: Ours) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(ours, model="nobody")
    with pytest.raises(openai.BadRequestError):
        ask(ours, messages=[{"role": "user", "content": "word " * 3000}])
    with (
        openai.OpenAI(base_url=ours.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_feedback_and_deployments_need_the_key(ours: Ours) -> None:
    for method, path in (("POST", "/feedback"), ("GET", "/deployments"), ("GET", "/models")):
        assert httpx.request(method, ours.url + path, json={}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/tokenize",
        "/detokenize",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/inference/v1/generate",
        "/v1/chat/completions/batch",
        "/docs",
        "/openapi.json",
        "/",
        "//invocations",
        "/v1/../invocations",
    ],
)
def test_what_is_not_meant_for_clients_does_not_exist(ours: Ours, path: str) -> None:
    root = ours.url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {KEY}"}
    for method in ("GET", "POST"):
        request = httpx.Request(method, root + path, headers=headers, json={"model": "support"})
        with httpx.Client() as client:
            assert client.send(request).status_code in (404, 405)


def test_health_and_numbers_are_open(ours: Ours) -> None:
    root = ours.url.removesuffix("/v1")
    assert httpx.get(f"{root}/health").status_code == 200
    numbers = ours.server.numbers()
    assert numbers["dropped_records"] == 0
    assert numbers["capture_failures"] == 0
    assert numbers["records"] > 0
    assert not any(math.isnan(value) for value in numbers.values())


def test_models_lists_the_alias_and_the_base(ours: Ours) -> None:
    names = [model.id for model in ours.client.models.list()]
    assert "support" in names
    assert "tiny" in names
