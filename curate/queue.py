"""The rows that deserve eyes, and a loop in the terminal that shows them one by one.

Covers no locking between reviewers: two who work at once may see the same row; the last
word about it holds.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from curate.corrections import correct, decide
from curate.tags import LOW_CONFIDENCE, OPERATOR_REVIEW, REVIEWED, USER_NEGATIVE, add_tag
from ledger.errors import RecordError
from ledger.records import Correction, Feedback, Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store

#: Tags that bring a row without any correction into the queue.
QUEUED_TAGS = (USER_NEGATIVE, OPERATOR_REVIEW, LOW_CONFIDENCE)

KEYS = "a accept · e edit · r reject · t tag · s skip · q quit"
_PAGE = 50


class QueueItem(NamedTuple):
    """One row with all that is known about it. `mean_logprob` is in nats."""

    row_id: str
    ts: float
    version: str
    messages: list[dict[str, Any]]
    response: str
    mean_logprob: float | None
    tags: list[Tag]
    feedback: list[Feedback]
    proposed: Correction | None


def as_json(item: QueueItem) -> dict[str, Any]:
    """A row for a program."""
    return {
        **item._asdict(),
        "tags": [tag.model_dump() for tag in item.tags],
        "feedback": [given.model_dump(exclude_none=True) for given in item.feedback],
        "proposed": item.proposed and item.proposed.model_dump(),
    }


class ReviewReport(NamedTuple):
    """What was done in a review, in rows."""

    accepted: int = 0
    edited: int = 0
    rejected: int = 0
    tagged: int = 0
    skipped: int = 0


def queue(store: Store, settings: Settings, alias: str, limit: int) -> list[QueueItem]:
    """Rows to look at: proposed corrections first, then doubtful ones, each newest first.

    A doubtful row is tagged by a user, an operator or a rule, has no correction and was not
    judged since. Rows whose text was not stored are left out: there is nothing to see.

    Raises:
        ConfigError: there is no such alias.
    """
    settings.alias(alias)
    return list(itertools.islice(_waiting(store, alias, limit, frozenset()), limit))


def _waiting(store: Store, alias: str, limit: int, seen: frozenset[str]) -> Iterator[QueueItem]:
    proposed = store.corrections(decision="proposed")
    rows = [
        row
        for row in store.interactions(alias=alias, row_ids=list(proposed))
        if row.row_id not in seen and row.stored_text
    ]
    rows.sort(key=lambda row: (row.ts, row.row_id), reverse=True)
    yield from _items(store, rows[:limit], proposed)
    if len(rows) < limit:
        yield from _items(store, _doubtful(store, alias, limit - len(rows), seen), {})


def _doubtful(store: Store, alias: str, limit: int, seen: frozenset[str]) -> list[Interaction]:
    """The newest rows that are tagged and not yet judged."""
    found: dict[str, Interaction] = {}
    for tag in QUEUED_TAGS:
        kept = 0
        with closing(_iterate(store, alias, tag)) as rows:
            while kept < limit and (page := list(itertools.islice(rows, _PAGE))):
                ids = [row.row_id for row in page]
                done = set(store.corrections(row_ids=ids)) | seen
                done |= {
                    row_id
                    for row_id, tags in store.tags(ids).items()
                    if any(tag.tag == REVIEWED for tag in tags)
                }
                fresh = [row for row in page if row.row_id not in done and row.stored_text]
                found.update((row.row_id, row) for row in fresh)
                kept += len(fresh)
    newest = sorted(found.values(), key=lambda row: (row.ts, row.row_id), reverse=True)
    return newest[:limit]


def _iterate(store: Store, alias: str, tag: str) -> Any:
    return store.interactions(alias=alias, tag=tag, newest_first=True)


def _items(
    store: Store, rows: list[Interaction], proposed: dict[str, Correction]
) -> Iterator[QueueItem]:
    ids = [row.row_id for row in rows]
    tags = store.tags(ids)
    feedback: dict[str, list[Feedback]] = {}
    for _, one in store.feedback(row_ids=ids):
        feedback.setdefault(one.row_id, []).append(one)
    for row in rows:
        yield QueueItem(
            row_id=row.row_id,
            ts=row.ts,
            version=row.version,
            messages=row.messages or [],
            response=row.response or "",
            mean_logprob=row.mean_logprob,
            tags=tags.get(row.row_id, []),
            feedback=feedback.get(row.row_id, []),
            proposed=proposed.get(row.row_id),
        )


# -- in the terminal ---------------------------------------------------------------------


def render(item: QueueItem, *, terminal: bool | None = None, width: int | None = None) -> str:
    """A row as text: with colours for a terminal, plain for anything else.

    Control characters in what users typed are shown as `?`: they could rewrite the screen.

    Args:
        terminal: whether to colour; None asks standard output.
        width: columns; None takes the terminal's.
    """
    lines = list(_lines(item))
    if terminal is None:
        terminal = sys.stdout.isatty()
    if not terminal:
        return "\n".join(f"{label:>10}  {text}" for label, text, _ in lines)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text, style in lines:
        table.add_row(label, Text(text, style=style))
    target = io.StringIO()
    Console(file=target, force_terminal=True, width=width).print(table)
    return target.getvalue().rstrip("\n")


def _lines(item: QueueItem) -> Iterator[tuple[str, str, str]]:
    """Label, text and style of each part of a row."""
    sure = "unknown" if item.mean_logprob is None else f"{item.mean_logprob:.2f} nats"
    yield "row", f"{item.row_id} · {item.version} · mean logprob {sure}", "dim"
    for message in item.messages:
        yield str(message.get("role", "?")), _visible(_content(message)), ""
    yield "answer", _visible(item.response), "red" if item.proposed else "yellow"
    if item.proposed is not None:
        whose = f"{item.proposed.source} {item.proposed.author}"
        yield "proposed", _visible(item.proposed.text), "green"
        yield "by", _visible(whose), "dim"
    for given in item.feedback:
        said = given.model_dump(
            include={"rating", "score", "regenerate", "report", "success", "reason"},
            exclude_none=True,
        )
        if said:
            yield "feedback", _visible(", ".join(f"{k} {v}" for k, v in said.items())), ""
    for tag in item.tags:
        why = f": {tag.why}" if tag.why else ""
        yield "tag", _visible(f"{tag.tag} by {tag.who}{why}"), "cyan"


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        content = "\n".join(str(p.get("text") or f"({p.get('type', '?')})") for p in parts)
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return "\n".join([str(content)] * bool(content) + [f"calls {call}" for call in calls])


def _visible(text: str) -> str:
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def review(
    store: Store,
    settings: Settings,
    alias: str,
    author: str,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
    edit: Callable[[str], str | None] | None = None,
) -> ReviewReport:
    """Show one row after the other and do what the operator answers, until none is left.

    Accepting a row for which nothing is proposed says that its answer is good. What was
    decided is kept at once, so leaving in the middle loses nothing.

    Args:
        author: who reviews; stands in every correction and tag.
        ask: shows a question and returns a line; EOFError ends the review.
        edit: takes the text to start from and returns the new one, None for none; without
            it a terminal opens the editor of `$EDITOR`, anything else asks for a line.

    Raises:
        ConfigError: there is no such alias.
        RecordError: there is no author.
    """
    settings.alias(alias)
    if not author.strip():
        raise RecordError("a review has no author", field="author", remedy="Say who you are.")
    if edit is None:
        edit = _editor if ask is input and sys.stdin.isatty() else lambda _: ask("correction> ")
    done: dict[str, int] = dict.fromkeys(ReviewReport._fields, 0)
    seen: set[str] = set()
    try:
        while page := list(_waiting(store, alias, _PAGE, frozenset(seen))):
            for item in page:
                seen.add(item.row_id)
                say(render(item))
                if not _one(store, item, author, ask, say, edit, done):
                    return ReviewReport(**done)
    except (EOFError, KeyboardInterrupt):
        return ReviewReport(**done)
    say("Nothing more to review." if seen else "Nothing to review.")
    return ReviewReport(**done)


def _one(
    store: Store,
    item: QueueItem,
    author: str,
    ask: Callable[[str], str],
    say: Callable[[str], None],
    edit: Callable[[str], str | None],
    done: dict[str, int],
) -> bool:
    """Ask until the row is dealt with; False to leave the review."""
    who = f"operator:{author}"
    while True:
        answer = ask(f"{KEYS} > ").strip().lower()
        try:
            if answer == "q":
                return False
            if answer == "s":
                done["skipped"] += 1
                return True
            if answer == "t":
                add_tag(store, item.row_id, ask("tag> ").strip(), who)
                done["tagged"] += 1  # and ask again: a tag alone does not settle the row
            elif answer == "a" and item.proposed is None:
                add_tag(store, item.row_id, REVIEWED, who, "the answer is good")
                done["accepted"] += 1
                return True
            elif answer == "a":
                decide(store, item.row_id, "accepted", author)
                done["accepted"] += 1
                return True
            elif answer == "r" and item.proposed is None:
                say("Nothing is proposed: e writes a correction, a says that the answer is good.")
            elif answer == "r":
                decide(store, item.row_id, "rejected", author, ask("why (may be empty)> ").strip())
                done["rejected"] += 1
                return True
            elif answer == "e":
                text = edit(item.proposed.text if item.proposed else item.response)
                correct(store, item.row_id, (text or "").strip(), author)
                done["edited"] += 1
                return True
            else:
                say(f"{answer!r} is none of: {KEYS}")
        except RecordError as error:
            say(str(error))


def _editor(text: str) -> str | None:
    import click

    return click.edit(text)
