"""Operators' words, the queue and the review in the terminal, on real ledgers."""

from __future__ import annotations

import pytest
from curate_rows import add_feedback, add_row, decide, make_settings

from curate.judging.decisions import correct, good
from curate.judging.queue import QueueItem, queue
from curate.judging.terminal import ReviewReport, render, review
from curate.tagging.sweep import sweep
from curate.tagging.tags import add_tag
from ledger.errors import ConfigError, RecordError, UnknownRow
from ledger.store import Store


@pytest.fixture
def settings(tmp_path, ledger_url):
    return make_settings(tmp_path, url=ledger_url)


@pytest.fixture
def store(settings):
    store = Store.open(settings)
    yield store
    store.close()


def ids(store, settings, limit=10):
    return [item.row_id for item in queue(store, settings, "support", limit)]


def answers(*lines):
    """What an operator types; the end of the list is the end of the pipe."""
    left = iter(lines)

    def ask(_prompt):
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return ask


def test_an_operators_correction_is_accepted_at_once(store):
    add_row(store, "a")
    correct(store, "a", "delivery", "op", "clear case")
    found = store.corrections()["a"]
    assert (found.source, found.author, found.decision) == ("operator", "op", "accepted")
    assert (found.text, found.why) == ("delivery", "clear case")


def test_what_cannot_be_corrected(store):
    add_row(store, "a")
    add_row(store, "dark", response=None, messages=None, stored_text=False)
    add_row(store, "mail", response="write to jo@example.com")
    with pytest.raises(UnknownRow):
        correct(store, "ghost", "x", "op")
    with pytest.raises(RecordError, match="empty"):
        correct(store, "a", " \n", "op")
    with pytest.raises(RecordError, match="says what the answer says"):
        correct(store, "a", "wrong ", "op")
    with pytest.raises(RecordError, match="says what the answer says"):
        correct(store, "mail", "write to jo@example.com", "op")
    with pytest.raises(RecordError, match="not stored"):
        correct(store, "dark", "x", "op")
    with pytest.raises(RecordError, match="no author"):
        correct(store, "a", "x", "")
    assert store.corrections() == {}


def test_a_decision_keeps_text_source_and_author(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery")
    sweep(settings, store)
    decide(store, "a", "accepted", "op", "right")
    found = store.corrections()["a"]
    assert (found.source, found.author, found.text) == ("user", "s1", "delivery")
    assert (found.decision, found.why) == ("accepted", "accepted by op: right")


def test_there_must_be_something_to_decide(settings, store):
    add_row(store, "a")
    with pytest.raises(UnknownRow):
        decide(store, "ghost", "accepted", "op")
    with pytest.raises(RecordError, match="has no correction"):
        decide(store, "a", "accepted", "op")
    correct(store, "a", "delivery", "op")
    with pytest.raises(RecordError, match="accepted already"):
        decide(store, "a", "rejected", "op")


def test_the_queue_puts_proposals_first_and_newest_first(settings, store):
    for number, row_id in enumerate(["old", "doubt", "flagged", "down", "fine", "new"]):
        add_row(store, row_id, ts=100.0 + number, mean_logprob=-9 if row_id == "doubt" else -0.1)
    add_row(store, "elsewhere", alias="other", mean_logprob=-9)
    add_row(store, "dark", response=None, messages=None, stored_text=False, mean_logprob=-9)
    add_feedback(store, "old", correction="delivery")
    add_feedback(store, "new", correction="refund")
    add_feedback(store, "down", rating="down", reason="no use")
    add_tag(store, "flagged", "operator_review", "operator:op")
    sweep(settings, store)
    assert ids(store, settings) == ["new", "old", "flagged", "down", "doubt"]
    assert ids(store, settings, limit=3) == ["new", "old", "flagged"]
    assert ids(store, settings, limit=1) == ["new"]
    correct(store, "doubt", "delivery", "op")
    decide(store, "new", "rejected", "op")
    assert ids(store, settings) == ["old", "flagged", "down"]
    with pytest.raises(ConfigError):
        queue(store, settings, "nobody", 1)


def test_an_item_brings_what_is_known(settings, store):
    add_row(store, "a", "Where is it?", mean_logprob=-4.5)
    add_feedback(store, "a", correction="delivery", rating="down", reason="off")
    sweep(settings, store)
    (item,) = queue(store, settings, "support", 5)
    assert item.messages[-1] == {"role": "user", "content": "Where is it?"}
    assert (item.response, item.mean_logprob, item.version) == ("wrong", -4.5, "support@v1")
    known = {tag.tag for tag in item.tags}
    assert {"low_confidence", "user_negative", "user_edit"} <= known
    assert item.feedback[0].reason == "off"
    assert item.proposed is not None
    assert item.proposed.text == "delivery"


@pytest.mark.sqlite
def test_a_long_backlog_of_judged_rows_does_not_hide_the_rest(settings, store):
    for number in range(130):
        add_row(store, f"r{number:03}", ts=float(number), mean_logprob=-9)
    sweep(settings, store)
    for number in range(1, 130):
        good(store, settings, f"r{number:03}", "op", "operator")
    assert ids(store, settings, limit=2) == ["r000"]


def test_render_is_plain_for_a_pipe_and_hides_control_characters(settings, store):
    add_row(store, "a", "\x1b[2Jgone [bold]not markup[/bold]")
    add_feedback(store, "a", correction="delivery")
    sweep(settings, store)
    (item,) = queue(store, settings, "support", 5)
    plain = render(item, terminal=False)
    assert "\x1b" not in plain
    assert "?[2Jgone [bold]not markup[/bold]" in plain
    assert "delivery" in plain
    colour = render(item, terminal=True, width=100)
    assert "\x1b[2J" not in colour
    assert "\x1b[" in colour
    assert "[bold]not markup[/bold]" in colour


def test_render_takes_contents_of_all_forms():
    item = QueueItem(
        row_id="a",
        ts=0.0,
        version="v",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
            {"role": "tool", "content": ""},
        ],
        response="",
        mean_logprob=None,
        tags=[],
        feedback=[],
        proposed=None,
    )
    shown = render(item, terminal=False)
    assert "look\n(image_url)" in shown
    assert "calls {'name': 'f'}" in shown
    assert "unknown" in shown


def test_the_review_loop(settings, store):
    for number, row_id in enumerate(["six", "five", "four", "three", "two", "one"]):
        add_row(store, row_id, ts=100.0 + number, mean_logprob=-9)
    for row_id in ("one", "two", "three"):
        add_feedback(store, row_id, correction="delivery")
    sweep(settings, store)
    said: list[str] = []
    ask = answers(
        *("what", "a"),  # one: a key that is none, then accepted
        *("e", "", "e", "refund"),  # two: an empty text, then a good one
        *("r", "not a queue"),  # three
        *("t", "Bad Tag", "t", "odd", "s"),  # four: tagged, then skipped
        *("u", "s"),  # five is left for four, which is skipped again
        *("r", "a"),  # five: nothing to reject; the answer is good
        *("e", "wrong", "e", "stock"),  # six: says what the answer says, then another
    )
    report = review(store, settings, "support", "op", ask=ask, say=said.append)
    assert report == ReviewReport(accepted=2, edited=2, rejected=1, tagged=1, skipped=2, undone=1)
    assert said[-1] == "Nothing more to review."
    now = store.corrections()
    assert {row_id: (c.text, c.decision) for row_id, c in now.items()} == {
        "one": ("delivery", "accepted"),
        "two": ("refund", "accepted"),
        "three": ("delivery", "rejected"),
        "six": ("stock", "accepted"),
    }
    assert now["three"].why == "rejected by op: not a queue"
    assert now["two"].source == "operator"
    assert "odd" in {tag.tag for tag in store.tags(["four"])["four"]}
    # Only what was skipped is still there.
    assert ids(store, settings) == ["four"]


@pytest.mark.parametrize("lines", [("q",), (), ("e",)])
def test_leaving_the_review_keeps_the_row_in_the_queue(settings, store, lines):
    add_row(store, "a", mean_logprob=-9)
    sweep(settings, store)
    report = review(store, settings, "support", "op", ask=answers(*lines), say=lambda _: None)
    assert report == ReviewReport()
    assert ids(store, settings) == ["a"]


@pytest.mark.sqlite
def test_the_review_goes_on_past_the_first_page(settings, store):
    for number in range(120):
        add_row(store, f"r{number:03}", ts=float(number), mean_logprob=-9)
    sweep(settings, store)
    report = review(store, settings, "support", "op", ask=answers(*["s"] * 200), say=lambda _: None)
    assert report.skipped == 120


def test_an_editor_can_stand_in_for_the_line(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="deliver")
    sweep(settings, store)
    report = review(
        store,
        settings,
        "support",
        "op",
        ask=answers("e"),
        say=lambda _: None,
        edit=lambda text: text + "y\n",
    )
    assert report.edited == 1
    assert store.corrections()["a"].text == "delivery"


def test_an_empty_queue_says_so(settings, store):
    said: list[str] = []
    review(store, settings, "support", "op", ask=answers(), say=said.append)
    assert said == ["Nothing to review."]
    with pytest.raises(RecordError, match="no author"):
        review(store, settings, "support", " ", ask=answers(), say=said.append)


@pytest.mark.sqlite
def test_the_terminal_shows_nothing_that_is_on_a_screen(settings, store):
    add_row(store, "a", mean_logprob=-9)
    sweep(settings, store)
    assert store.claim("support", "ben", seconds=60) == "a"
    said: list[str] = []
    review(store, settings, "support", "op", ask=answers("a"), say=said.append)
    assert said == ["Nothing to review."]


@pytest.mark.sqlite
def test_the_terminal_overwrites_nothing_newer(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery")
    sweep(settings, store)
    said: list[str] = []

    def ask(prompt):
        if not store.corrections(decision="accepted"):
            correct(store, "a", "refund", "ben")  # while op looks at it
        return "a"

    report = review(store, settings, "support", "op", ask=ask, say=said.append)
    assert report == ReviewReport()
    assert "ben has said something" in said[1]
    assert store.corrections()["a"].text == "refund"
