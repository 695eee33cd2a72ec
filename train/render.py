"""Conversations as text and ids, just as the server hands them to the model.

vLLM does three things before a chat template sees a request: it brings `content` into the form
that the template reads (one string, or a list of parts), parses the arguments of earlier tool
calls from JSON, and renders with `add_generation_prompt=True`. The ids are those of the rendered
text with no special tokens added. This module does the same and nothing else; it knows text
only, so a conversation with pictures or sound is refused by name.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ledger.errors import ConfigError

# The server sets these itself; a request that brings them is refused there, or means something
# else than a template's variable.
_RESERVED = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "padding",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tools",
    "truncation",
}

# A prompt whose last characters open a block of reasoning.
_OPEN = re.compile(r"<(?P<tag>think|thinking|reasoning|thought)>\s*\Z")
_MARKER = "the-answer"


class RenderError(ValueError):
    """A conversation cannot be rendered; the message says why. Callers list it with its row."""


class EndOfTurn(NamedTuple):
    """The token that ends an answer: `id` in the vocabulary, `text` as it is written."""

    id: int
    text: str


class Renderer:
    """Renders with one tokenizer's chat template.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        stop_ids: ids at which the server ends an answer (`eos_token_id` of the model's
            generation_config); the tokenizer's own end token is always among them.

    Raises:
        ConfigError: the tokenizer has no chat template or no end token, or the template ends a
            turn with a token at which the server would not stop.
    """

    def __init__(self, tokenizer: Any, stop_ids: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        if not tokenizer.chat_template or tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer has no chat template or no end token",
                rule="Serving and training must write conversations alike.",
                remedy="Take the instruct variant of the model.",
            )
        self.reads_parts = self._reads_parts()
        self.end = self._end_of_turn({*stop_ids, tokenizer.eos_token_id})

    def prompt(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        """The text that the server puts before the answer.

        Raises:
            RenderError: the template or the server would refuse it.
        """
        return self._render(messages, tools, kwargs, add_generation_prompt=True)

    def whole(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        """The template's own text of a conversation that has its answer already.

        Raises:
            RenderError: the template or the server would refuse it.
        """
        return self._render(messages, tools, kwargs, add_generation_prompt=False)

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        found: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return found

    def special(self, ids: list[int]) -> list[str]:
        """The control tokens among ids (`<|im_end|>`), as text."""
        control = set(self._tokenizer.all_special_ids)
        return [self.text([i]) for i in dict.fromkeys(ids) if i in control]

    def closing(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any] | None,
        answer: str,
    ) -> str:
        """What must stand between a prompt and an answer so that no think block is open.

        Returns:
            "" where nothing is open, or the answer closes it itself.

        Raises:
            RenderError: one is open, and the template does not say how it closes.
        """
        prompt = self.prompt(messages, tools, kwargs)
        opened = _OPEN.search(prompt)
        if opened is None or f"</{opened['tag']}>" in answer:
            return ""
        # The template is asked with another answer: it may trim or change this one.
        said = [*messages, {"role": "assistant", "content": _MARKER}]
        whole = self.whole(said, tools, kwargs)
        between, found, _ = whole.removeprefix(prompt).partition(_MARKER)
        if whole.startswith(prompt) and found and f"</{opened['tag']}>" in between:
            return between
        raise RenderError(
            f"the prompt leaves a <{opened['tag']}> block open, and the template does not close it "
            "before an answer"
        )

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any] | None,
        *,
        add_generation_prompt: bool,
    ) -> str:
        import jinja2

        if reserved := sorted(_RESERVED & set(kwargs or {})):
            raise RenderError(f"chat_template_kwargs has {', '.join(reserved)}, set by the server")
        try:
            text: str = self._tokenizer.apply_chat_template(
                [self._as_served(message) for message in messages],
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **(kwargs or {}),
            )
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError) as error:
            raise RenderError(f"the chat template refuses it: {error}") from error
        return text

    def _as_served(self, message: dict[str, Any]) -> dict[str, Any]:
        """One message in the form in which vLLM gives it to the template."""
        message = copy.deepcopy(message)
        content = message.get("content")
        parts = [] if content is None else content
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        texts = [_text_of(part) for part in parts]
        if self.reads_parts and message.get("role") != "tool":
            message["content"] = [{"type": "text", "text": text} for text in texts]
        else:
            message["content"] = "\n".join(texts)
        if "reasoning" in message:
            message["reasoning_content"] = message["reasoning"]
        if message.get("tool_calls"):
            for call in message["tool_calls"]:
                call["function"]["arguments"] = _arguments(call["function"].get("arguments"))
        else:
            message.pop("tool_calls", None)
        return message

    def _reads_parts(self) -> bool:
        """Whether the template loops over the parts of `content` rather than printing a string.

        vLLM decides this from the template's syntax tree; here the template is asked.
        """
        parts = [{"type": "text", "text": "first-part"}, {"type": "text", "text": "second-part"}]
        import jinja2

        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": parts}], tokenize=False
            )
        except (jinja2.TemplateError, TypeError, AttributeError):
            return False
        return "first-part" in text and "second-part" in text and "'type'" not in text

    def _end_of_turn(self, stops: set[int]) -> EndOfTurn:
        """What the template writes after an answer, which must be where the server stops."""
        text = self.whole(
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _MARKER}]
        )
        tail = self.ids(text.rpartition(_MARKER)[2])
        own = self._tokenizer.eos_token_id
        end = tail[0] if tail and self.special(tail[:1]) else own
        if end not in stops:
            raise ConfigError(
                f"the chat template ends a turn with {self.text([end])!r}, but the server stops "
                f"at {', '.join(repr(self.text([i])) for i in sorted(stops))}",
                rule="An adapter learns to end its answers with a token that ends them.",
                remedy="Add its id to eos_token_id in the model's generation_config.json.",
            )
        return EndOfTurn(end, self.text([end]))


def _text_of(part: Any) -> str:
    """The text of one content part.

    Raises:
        RenderError: it is not text.
    """
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "?") if isinstance(part, dict) else type(part).__name__
    raise RenderError(f"a message has a part of type {kind}, which is not text")


def _arguments(given: Any) -> dict[str, Any]:
    """Arguments of an earlier tool call as an object; what is none becomes {} in vLLM."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}
