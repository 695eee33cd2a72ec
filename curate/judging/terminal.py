"""The queue in a terminal: one row after the other, for a machine without a browser.

Says the same things as the page (`curate.judging.decisions`), as an operator. Rows that are on the
page's screens are not shown here, and the other way round.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from curate.judging import decisions
from curate.judging.queue import QueueItem, next_item, said
from curate.judging.undo import undo
from curate.tagging.tags import add_tag
from ledger.errors import RecordError
from ledger.settings import Settings
from ledger.store import Store

KEYS = "a accept · e edit · r reject · t tag · s skip · u undo · q quit"


class ReviewReport(NamedTuple):
    """What was done in a review, in rows."""

    accepted: int = 0
    edited: int = 0
    rejected: int = 0
    tagged: int = 0
    skipped: int = 0
    undone: int = 0


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
        yield _visible(str(message.get("role", "?"))), _visible(said(message)), ""
    yield "answer", _visible(item.response), "red" if item.proposed else "yellow"
    if item.proposed is not None:
        whose = f"{item.proposed.source} {item.proposed.author}"
        yield "proposed", _visible(item.proposed.text), "green"
        yield "by", _visible(whose), "dim"
        if item.proposed.why:
            yield "because", _visible(item.proposed.why), "dim"
    for given in item.feedback:
        words = given.model_dump(
            include={"rating", "score", "regenerate", "report", "success", "reason"},
            exclude_none=True,
        )
        if words:
            yield "feedback", _visible(", ".join(f"{k} {v}" for k, v in words.items())), ""
    for tag in item.tags:
        why = f": {tag.why}" if tag.why else ""
        yield "tag", _visible(f"{tag.tag} by {tag.who}{why}"), "cyan"


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
    loop = _Loop(store, settings, author, ask, say, edit)
    item: QueueItem | None = None
    any_row = False
    try:
        while (item := next_item(store, settings, alias, author)) is not None:
            any_row = True
            if not loop.show(item):
                return loop.report
    except (EOFError, KeyboardInterrupt):
        return loop.report
    finally:
        if item is not None:
            store.release(item.row_id, author)
    say("Nothing more to review." if any_row else "Nothing to review.")
    return loop.report


class _Loop:
    """One person's review, and what they did in it."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        author: str,
        ask: Callable[[str], str],
        say: Callable[[str], None],
        edit: Callable[[str], str | None],
    ) -> None:
        self.store, self.settings, self.author = store, settings, author
        self.ask, self.say, self.edit = ask, say, edit
        self.report = ReviewReport()

    def show(self, item: QueueItem) -> bool:
        """Show a row and ask until it is dealt with; False to leave the review."""
        seen = decisions.shown(self.store, item.row_id)
        self.say(render(item))
        while True:
            answer = self.ask(f"{KEYS} > ").strip().lower()
            if answer == "q":
                return False
            try:
                if self._done(item, seen, answer):
                    return True
            except decisions.Outdated as error:
                self.say(str(error))
                return True  # it is shown again as it stands now, if it still waits
            except RecordError as error:
                self.say(str(error))

    def _done(self, item: QueueItem, seen: decisions.Shown, answer: str) -> bool:
        """Do what was answered; whether the row is dealt with."""
        place = (self.store, self.settings, item.row_id)
        if answer == "s":
            decisions.skip(self.store, item.row_id, self.author, "operator")
            return self._count("skipped")
        if answer == "t":
            add_tag(self.store, item.row_id, self.ask("tag> ").strip(), f"operator:{self.author}")
            self._count("tagged")  # and ask again: a tag alone does not settle the row
            return False
        if answer == "u":
            undone = undo(self.store, self.settings, self.author, "operator")
            self.say(f"Undone: {undone.action} of {undone.row_id}.")
            return self._count("undone")
        if answer == "a" and item.proposed is None:
            decisions.good(*place, self.author, "operator", shown=seen)
            return self._count("accepted")
        if answer == "a":
            decisions.accept(*place, self.author, "operator", shown=seen)
            return self._count("accepted")
        if answer == "r" and item.proposed is None:
            self.say("Nothing is proposed: e writes a correction, a says that the answer is good.")
            return False
        if answer == "r":
            why = self.ask("why (may be empty)> ").strip()
            decisions.reject(*place, self.author, "operator", why=why, shown=seen)
            return self._count("rejected")
        if answer == "e":
            text = self.edit(item.proposed.text if item.proposed else item.response)
            text = (text or "").strip()
            decisions.edit(*place, text, self.author, "operator", shown=seen)
            return self._count("edited")
        self.say(f"{answer!r} is none of: {KEYS}")
        return False

    def _count(self, what: str) -> bool:
        self.report = self.report._replace(**{what: getattr(self.report, what) + 1})
        return True


def _editor(text: str) -> str | None:
    import click

    return click.edit(text)
