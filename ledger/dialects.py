"""The four request bodies of the server, turned into one: chat messages and what goes with them.

    chat          POST /v1/chat/completions   (OpenAI)
    completions   POST /v1/completions        (OpenAI, plain text)
    responses     POST /v1/responses          (OpenAI)
    messages      POST /v1/messages           (Anthropic)

Only what a row keeps is read. Pictures, sound and files inside a message are replaced by
`[BINARY]`: they are not text, and nothing here could redact them.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ledger.records import Api

BINARY = "[BINARY]"

# Numbers that change what a model says. Strings (`stop`, `guided_regex`, …) may hold text that
# somebody typed and are left out.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


class Conversation(NamedTuple):
    """What a request body says, in the chat form."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    sampling: dict[str, float | int]
    chat_template_kwargs: dict[str, Any] | None
    metadata: dict[str, Any] | None


def conversation(api: Api, body: dict[str, Any], prompt_index: int = 0) -> Conversation:
    """Read a request body; what does not have the form it should have is left out.

    Args:
        prompt_index: which prompt is meant where a text completion asks several at once.
    """
    read = {
        "chat": _chat,
        "completions": lambda body: _completions(body, prompt_index),
        "responses": _responses,
        "messages": _anthropic,
    }[api]
    if not isinstance(body, dict):
        body = {}
    kwargs, metadata = body.get("chat_template_kwargs"), body.get("metadata")
    return Conversation(
        messages=read(body),
        tools=_tools(api, body.get("tools")),
        sampling={
            key: body[key]
            for key in _SAMPLING
            if isinstance(body.get(key), int | float) and not isinstance(body[key], bool)
        },
        chat_template_kwargs=kwargs if isinstance(kwargs, dict) else None,
        metadata=metadata if isinstance(metadata, dict) else None,
    )


def _chat(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = body.get("messages")
    return [_message(m) for m in found if isinstance(m, dict)] if isinstance(found, list) else []


def _message(message: dict[str, Any]) -> dict[str, Any]:
    kept = {key: message[key] for key in _MESSAGE_KEYS if message.get(key) is not None}
    if "content" in kept:
        kept["content"] = _content(kept["content"])
    return kept


def _content(content: Any) -> Any:
    """A string where all parts are text, joined by line breaks as vLLM joins them."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return content
    parts = [_part(part) for part in content]
    if all(isinstance(part, str) for part in parts):
        return "\n".join(parts)
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return str(part)
    if part.get("type", "text") in _TEXT_PARTS:
        return str(part.get("text") or part.get("refusal") or "")
    return BINARY


def _completions(body: dict[str, Any], prompt_index: int) -> list[dict[str, Any]]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[prompt_index] if prompt_index < len(prompt) else None
    if isinstance(prompt, list):  # token ids say nothing without the tokenizer
        prompt = f"[{len(prompt)} TOKENS]"
    return [{"role": "user", "content": prompt if isinstance(prompt, str) else ""}]


def _responses(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if isinstance(instructions := body.get("instructions"), str):
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given if isinstance(given, list) else []:
        if not isinstance(item, dict):
            continue
        kind = item.get("type", "message")
        if kind == "message":
            role = "system" if item.get("role") == "developer" else item.get("role", "user")
            messages.append({"role": role, "content": _content(item.get("content"))})
        elif kind == "function_call":
            messages.append(
                _assistant_calls(
                    [_call(item.get("call_id"), item.get("name"), item.get("arguments"))]
                )
            )
        elif kind == "function_call_output":
            messages.append(_tool_answer(item.get("call_id"), item.get("output")))
    return messages


def _anthropic(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        messages.append({"role": "system", "content": _content(system)})
    given = body.get("messages")
    for message in given if isinstance(given, list) else []:
        if not isinstance(message, dict):
            continue
        role, content = message.get("role", "user"), message.get("content")
        blocks = content if isinstance(content, list) else []
        calls = [
            _call(block.get("id"), block.get("name"), json.dumps(block.get("input")))
            for block in blocks
            if isinstance(block, dict) and block.get("type") == "tool_use"
        ]
        for block in blocks:
            if isinstance(block, dict) and block.get("type") == "tool_result":
                messages.append(_tool_answer(block.get("tool_use_id"), block.get("content")))
        spoken = [
            block
            for block in blocks
            if not isinstance(block, dict) or block.get("type") not in ("tool_use", "tool_result")
        ]
        if calls:
            messages.append(_assistant_calls(calls, _content(spoken) if spoken else None))
        elif spoken or not blocks:
            messages.append({"role": role, "content": _content(spoken if blocks else content)})
    return messages


def _call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _assistant_calls(calls: list[dict[str, Any]], content: Any = None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "tool_calls": calls}
    if content is not None:
        message["content"] = content
    return message


def _tool_answer(call_id: Any, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": _content(content)}


def _tools(api: Api, tools: Any) -> list[dict[str, Any]] | None:
    """Function tools in the chat form; other kinds (web search, …) are left out."""
    if not isinstance(tools, list) or not tools:
        return None
    found = []
    for tool in tools:
        if not isinstance(tool, dict):
            continue
        if isinstance(tool.get("function"), dict):
            found.append({"type": "function", "function": tool["function"]})
        elif isinstance(tool.get("name"), str):
            schema = tool.get("input_schema") if api == "messages" else tool.get("parameters")
            function = {
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": schema,
            }
            kept = {key: value for key, value in function.items() if value is not None}
            found.append({"type": "function", "function": kept})
    return found or None
