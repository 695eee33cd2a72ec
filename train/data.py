"""Frozen pairs as token ids, proved to be what the server would have seen and generated.

An example is built the way serving makes it: the ids of the prompt as served, then the ids of
the answer, then the end-of-turn token at which the server stops. That holds for any template,
also for those that write a conversation with its answer differently (a think block before the
answer, thinking cut from the history, a trailing newline that no model ever generates). The
template's own text of the whole conversation is compared with it, and a row where the two
differ is noted. The loss covers the answer and the end-of-turn token and nothing else.

Some templates (Qwen3.5's) end the prompt inside a think block. An answer trained right there would
be learned as thinking, and a server that takes thinking out of the answer would answer nothing.
So the block is closed first, as the template writes it, by tokens that carry no loss.

A correction is text. One that should have been a call of a tool cannot be trained on and is
listed; calls and answers of tools earlier in the conversation are part of the prompt.

Each row is proved on its ids before a step is taken. Rows that fail are listed by reason and left
out; where they are many training refuses (`train.leave_out_share`). Nothing is cut, masked or
dropped silently. What the answers say is not judged here: that is `curate`'s work.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection
from typing import Any, NamedTuple

from ledger.dataset import Pair
from ledger.errors import DatasetError
from train.render import Renderer, RenderError

#: Why a row without the hash of its template is listed: it was imported, or is from another server.
UNKNOWN_TEMPLATE = "not known with which chat template it was served"
_SHOWN = 5  # rows named for each reason in an error; train.json has them all


class Row(NamedTuple):
    """One training example: `ids[:prompt]` has no loss, the rest is the answer and its end.

    Attributes:
        prompt: tokens without loss: the prompt as served, and `closing` more where the template
            leaves a think block open in it.
    """

    row_id: str
    ids: list[int]
    prompt: int
    closing: int = 0

    @property
    def served(self) -> list[int]:
        """The prompt as it was served."""
        return self.ids[: self.prompt - self.closing]

    @property
    def completion_mask(self) -> list[int]:
        """1 for each token that carries loss, 0 for the prompt; as long as `ids`."""
        return [0] * self.prompt + [1] * (len(self.ids) - self.prompt)

    @property
    def labels(self) -> list[int]:
        """`ids` with -100 in place of the prompt."""
        return [-100] * self.prompt + self.ids[self.prompt :]


class Lengths(NamedTuple):
    """Lengths of the examples in tokens; `total` is their sum, `trained` what carries loss."""

    min: int
    median: int
    p95: int
    max: int
    total: int
    trained: int


class Prepared(NamedTuple):
    """What `prepare` found.

    Attributes:
        rows: the examples that are proved, in the dataset's order.
        problems: reason → row id → detail, for rows that are not in `rows`.
        notes: reason → row id → detail, for rows that are in `rows` and worth a look.
        lengths: of `rows`; None where there are none.
        end_of_turn: the token that ends each answer, as text.
    """

    rows: list[Row]
    problems: dict[str, dict[str, str]]
    notes: dict[str, dict[str, str]]
    lengths: Lengths | None
    end_of_turn: str


class _Unfit(Exception):
    """A row cannot be trained on: `reason` groups it with others, `detail` is its own."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


def prepare(
    pairs: list[Pair],
    tokenizer: Any,
    max_length: int,
    template_hash: str,
    *,
    stop_ids: Collection[int] = (),
) -> Prepared:
    """Turn pairs into ids and prove each of them.

    Args:
        pairs: from a frozen dataset.
        tokenizer: the base model's.
        max_length: longest example, tokens; a longer one is listed, never cut.
        template_hash: of the model's chat template, as `ledger.fingerprint.template_hash` says.
        stop_ids: `eos_token_id` of the model's generation_config.

    Raises:
        ConfigError: the chat template cannot be trained with (see `Renderer`).
    """
    renderer = Renderer(tokenizer, stop_ids)
    rows: list[Row] = []
    problems: dict[str, dict[str, str]] = {}
    notes: dict[str, dict[str, str]] = {}
    for pair in pairs:
        try:
            row, note = _row(pair, renderer, max_length, template_hash)
        except _Unfit as unfit:
            problems.setdefault(unfit.reason, {})[pair.row_id] = unfit.detail
            continue
        rows.append(row)
        if note:
            notes.setdefault("template writes the answer differently", {})[pair.row_id] = note
        if pair.template_hash is None:
            notes.setdefault(UNKNOWN_TEMPLATE, {})[pair.row_id] = f"from {pair.answered_by}"
    return Prepared(rows, problems, notes, lengths(rows), renderer.end.text)


def lengths(rows: list[Row]) -> Lengths | None:
    """The length report of examples; None where there are none."""
    if not rows:
        return None
    sizes = sorted(len(row.ids) for row in rows)
    return Lengths(
        min=sizes[0],
        median=round(statistics.median(sizes)),
        p95=sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))],
        max=sizes[-1],
        total=sum(sizes),
        trained=sum(len(row.ids) - row.prompt for row in rows),
    )


def refuse(prepared: Prepared) -> None:
    """Raise when rows were listed.

    Raises:
        DatasetError: naming each reason, how many rows have it, and the first of them.
    """
    if not prepared.problems:
        return
    lines = []
    for reason, found in prepared.problems.items():
        lines.append(f"{reason} ({len(found)}):")
        lines += [f"  {row_id}: {detail}" for row_id, detail in list(found.items())[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more")
    count = sum(len(found) for found in prepared.problems.values())
    raise DatasetError(
        f"{count} of {count + len(prepared.rows)} pairs cannot be trained on as they were served",
        rule="\n".join(lines),
        remedy="Correct or reject these rows and freeze the dataset again, or train without them: "
        "raise train.leave_out_share; they are listed in train.json.",
    )


def unchanged(dataset: Any, rows: list[Row], plan: list[int]) -> None:
    """Whether a trainer would be fed the proved examples, whole and in the planned order.

    Args:
        dataset: the trainer's own, after it prepared it: it must not have cut or dropped anything.

    Raises:
        DatasetError: it did.
    """
    if len(dataset) != len(plan):
        raise DatasetError(
            f"the trainer has {len(dataset)} examples of {len(plan)}",
            rule="Nothing is dropped between the proof and a step.",
        )
    for place, (index, ids, labels) in enumerate(
        zip(plan, dataset["input_ids"], dataset["labels"], strict=True)
    ):
        row = rows[index]
        if list(ids) != row.ids or list(labels) != row.labels:
            raise DatasetError(
                f"the trainer changed {row.row_id} (example {place})",
                rule="What is trained on is what was proved.",
            )


def _row(
    pair: Pair, renderer: Renderer, max_length: int, template_hash: str
) -> tuple[Row, str | None]:
    """One proved example, and a note where the template itself writes it differently."""
    if pair.template_hash not in (None, template_hash):
        raise _Unfit(
            "served with another chat template",
            f"{pair.template_hash}, the model has {template_hash}",
        )
    answer = _answer(pair)
    try:
        prompt_text = renderer.prompt(pair.prompt, pair.tools, pair.chat_template_kwargs)
        whole_text = renderer.whole(pair.messages, pair.tools, pair.chat_template_kwargs)
        closing = renderer.closing(pair.prompt, pair.tools, pair.chat_template_kwargs, answer)
    except RenderError as error:
        raise _Unfit("cannot be rendered", str(error)) from error
    served = renderer.ids(prompt_text)
    closed = _after(served, prompt_text, closing, renderer)
    prompt = [*served, *closed]
    # Ids of the answer where it stands, unless the tokenizer merges it with the prompt's end:
    # generation starts after the prompt's last id, so then the answer's own ids are the ones.
    completion = _after(prompt, prompt_text + closing, answer, renderer)
    if control := renderer.special(completion):
        raise _Unfit("control tokens in the answer", ", ".join(control))
    row = Row(pair.row_id, [*prompt, *completion, renderer.end.id], len(prompt), len(closed))
    _prove(row, served, answer, renderer)
    if len(row.ids) > max_length:
        raise _Unfit(
            "too long",
            f"{len(row.ids)} tokens ({len(prompt)} of the prompt), the limit is {max_length}",
        )
    return row, _difference(row, prompt_text, whole_text, answer, renderer)


def _after(before: list[int], before_text: str, text: str, renderer: Renderer) -> list[int]:
    """Ids of a text behind ids that stay as they are."""
    if not text:
        return []
    joined = renderer.ids(before_text + text)
    return joined[len(before) :] if joined[: len(before)] == before else renderer.ids(text)


def _answer(pair: Pair) -> str:
    """The text that should have been said."""
    last = pair.messages[-1]
    content = last.get("content")
    if last.get("role") != "assistant":
        raise _Unfit("no answer", f"the last message is of role {last.get('role')!r}")
    if last.get("tool_calls"):
        raise _Unfit("no answer", "the last message calls tools; only text can be trained on")
    if not isinstance(content, str) or not content.strip():
        raise _Unfit("no answer", "the last message is empty")
    return content


def _prove(row: Row, served: list[int], answer: str, renderer: Renderer) -> None:
    """What carries loss is the answer and the end of the turn; what comes before was served.

    Details name no text of a user: they stand in the open in a version's files.
    """
    trained = [i for i, bit in zip(row.ids, row.completion_mask, strict=True) if bit]
    if row.served != served or row.ids[: len(served)] != served:
        raise _Unfit("prompt is not a prefix", f"{len(row.served)} tokens of {len(served)}")
    if renderer.text(trained) != answer + renderer.end.text:
        raise _Unfit(
            "answer changes in the tokenizer",
            f"{len(answer)} characters become {len(renderer.text(trained))} with the end of turn",
        )


def _difference(
    row: Row, prompt_text: str, whole_text: str, answer: str, renderer: Renderer
) -> str | None:
    """How the template's own text of the conversation differs from the example, if it does."""
    whole = renderer.ids(whole_text)
    if whole[: len(row.ids)] == row.ids:
        return None
    if not whole_text.startswith(prompt_text):
        return "the prompt as served is not how the template writes it once it has an answer"
    rest = whole_text[len(prompt_text) :]
    before, found, _ = rest.partition(answer)
    if not found:
        return "the template changes the answer"
    if before and not row.closing:
        return f"the template writes {before[:80]!r} before the answer"
    return "the tokenizer joins the prompt's end with the answer"
