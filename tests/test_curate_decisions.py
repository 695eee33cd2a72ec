"""What people say about rows: whose word settles them, and how it is taken back."""

from __future__ import annotations

import pytest
from curate_rows import add_row

from curate.judging import decisions
from curate.judging.decisions import Outdated
from curate.judging.standing import done_since, judged, shown
from curate.judging.undo import undo
from curate.tagging.tags import add_tag
from ledger.errors import RecordError, UnknownRow
from ledger.records import Correction
from ledger.store import Store, now

PROPOSED = "delivery"


def propose(
    store: Store, row_id: str, text: str = PROPOSED, *, source: str = "user", author: str = "s1"
) -> None:
    values = {"row_id": row_id, "ts": now(), "author": author, "text": text}
    store.add_correction(Correction(**values, source=source, decision="proposed", why="new user"))


@pytest.fixture
def row(store):
    add_row(store, "a")
    propose(store, "a")
    return "a"


def holds(store, row_id="a"):
    found = store.corrections()[row_id]
    return found.text, found.decision


def actions(store, row_id="a"):
    return [(one.who, one.action) for one in reversed(store.reviews(row_id))]


def waits(store):
    return [one.row_id for one in store.queued("support", 10)]


@pytest.mark.sqlite
def test_an_operators_accept_settles(store, settings, row):
    assert decisions.accept(store, settings, row, "ada", "operator").settled
    found = store.corrections()[row]
    assert (found.source, found.author, found.text) == ("user", "s1", PROPOSED)
    assert (found.decision, found.why) == ("accepted", "accepted by ada")
    (review,) = store.reviews(row)
    assert review.correction == shown(store, row).correction
    assert waits(store) == []
    with pytest.raises(RecordError, match="accepted already"):
        decisions.reject(store, settings, row, "ada", "operator")


@pytest.mark.parametrize(("say", "end"), [("accept", "accepted"), ("reject", "rejected")])
def test_two_reviewers_settle_together(store, settings, row, say, end):
    speak = getattr(decisions, say)
    assert not speak(store, settings, row, "ada", "reviewer").settled
    assert holds(store) == (PROPOSED, "proposed")
    assert waits(store) == [row]
    assert judged(store, [row]) == set()
    assert not speak(store, settings, row, "ada", "reviewer").settled, "one person, twice"
    assert speak(store, settings, row, "ben", "reviewer", why="seen").settled
    assert holds(store) == (PROPOSED, end)
    assert store.corrections()[row].why == f"{end} by ada, ben: seen"
    assert judged(store, [row]) == {row}
    assert waits(store) == []


@pytest.mark.sqlite
def test_who_disagrees_settles_nothing(store, settings, row):
    decisions.accept(store, settings, row, "ada", "reviewer")
    assert not decisions.reject(store, settings, row, "ben", "reviewer").settled
    assert decisions.accept(store, settings, row, "cy", "reviewer").settled


@pytest.mark.sqlite
def test_a_word_that_was_changed_counts_no_more(store, settings, row):
    decisions.accept(store, settings, row, "ada", "reviewer")
    decisions.reject(store, settings, row, "ada", "reviewer")
    assert not decisions.accept(store, settings, row, "ben", "reviewer").settled


@pytest.mark.sqlite
def test_a_word_about_another_text_does_not_count(store, settings, row):
    decisions.accept(store, settings, row, "ada", "reviewer")
    propose(store, row, "refund", author="s2")
    assert not decisions.accept(store, settings, row, "ben", "reviewer").settled


@pytest.mark.sqlite
def test_a_reviewers_own_text_needs_two_others(store, settings, row):
    assert not decisions.edit(store, settings, row, "refund", "ada", "reviewer").settled
    assert holds(store) == ("refund", "proposed")
    for speak in (decisions.accept, decisions.reject):
        with pytest.raises(RecordError, match="your own"):
            speak(store, settings, row, "ada", "reviewer")
    with pytest.raises(RecordError, match="your own"):
        decisions.edit(store, settings, row, "refund", "ada", "reviewer")
    assert not decisions.accept(store, settings, row, "ben", "reviewer").settled
    assert decisions.accept(store, settings, row, "cy", "reviewer").settled
    assert holds(store) == ("refund", "accepted")
    assert store.corrections()[row].author == "ada"


@pytest.mark.sqlite
def test_an_operators_text_is_accepted_at_once(store, settings, row):
    assert decisions.edit(store, settings, row, "refund", "ada", "operator").settled
    assert holds(store) == ("refund", "accepted")
    with pytest.raises(RecordError, match="accepted correction"):
        decisions.edit(store, settings, row, "stock", "ben", "reviewer")
    assert holds(store) == ("refund", "accepted")


@pytest.mark.sqlite
def test_the_proposed_text_word_for_word_is_no_edit(store, settings, row):
    assert decisions.edit(store, settings, row, PROPOSED, "ada", "operator").action == "accept"
    assert store.corrections()[row].source == "user"


def test_good_answers(store, settings, row):
    with pytest.raises(RecordError, match="proposed"):
        decisions.good(store, settings, row, "ada", "operator")
    add_row(store, "b")
    add_tag(store, "b", "operator_review", "operator:ada")
    assert not decisions.good(store, settings, "b", "ada", "reviewer").settled
    assert waits(store) == [row, "b"]
    assert decisions.good(store, settings, "b", "ben", "reviewer").settled
    assert waits(store) == [row]
    assert judged(store, [row, "b"]) == {"b"}
    assert "b" not in store.corrections()


@pytest.mark.sqlite
def test_viewers_and_nobody_judge_nothing(store, settings, row):
    with pytest.raises(RecordError, match="viewer"):
        decisions.accept(store, settings, row, "ada", "viewer")
    with pytest.raises(RecordError, match="no author"):
        decisions.accept(store, settings, row, " ", "operator")
    with pytest.raises(UnknownRow):
        decisions.accept(store, settings, "ghost", "ada", "operator")
    assert store.reviews() == []


# -- what was shown -------------------------------------------------------------------------------


def test_nothing_newer_is_overwritten(store, settings, row):
    seen = shown(store, row)
    propose(store, row, "refund", author="s2")
    with pytest.raises(Outdated, match="newer correction"):
        decisions.accept(store, settings, row, "ada", "operator", shown=seen)
    seen = shown(store, row)
    decisions.reject(store, settings, row, "ben", "operator", shown=seen)
    with pytest.raises(Outdated, match="ben has said"):
        decisions.edit(store, settings, row, "mine", "ada", "operator", shown=seen)
    assert holds(store) == ("refund", "rejected")


@pytest.mark.sqlite
def test_a_good_answer_is_newer_too(store, settings):
    add_row(store, "a")
    seen = shown(store, "a")
    decisions.good(store, settings, "a", "ben", "operator", shown=seen)
    with pytest.raises(Outdated, match="ben"):
        decisions.edit(store, settings, "a", "mine", "ada", "operator", shown=seen)
    assert store.corrections() == {}


@pytest.mark.sqlite
def test_a_skip_is_nothing_new(store, settings, row):
    seen = shown(store, row)
    decisions.skip(store, row, "ben", "operator")
    assert decisions.accept(store, settings, row, "ada", "operator", shown=seen).settled


# -- undo -----------------------------------------------------------------------------------------


def test_undo_of_an_accept_lets_the_proposal_wait_again(store, settings, row):
    decisions.accept(store, settings, row, "ada", "operator")
    undone = undo(store, settings, "ada", "operator")
    assert undone == ("a", "support", "accept")
    found = store.corrections()[row]
    assert (found.text, found.decision, found.why) == (PROPOSED, "proposed", "new user")
    assert (found.source, found.author) == ("user", "s1")
    assert store.claim("support", "ada", seconds=60) == row
    assert store.claim("support", "ben", seconds=60) is None, "it is on ada's screen"
    assert judged(store, [row]) == set()
    assert decisions.reject(store, settings, row, "ada", "operator").settled


@pytest.mark.sqlite
def test_undo_of_a_text_where_nothing_was_before(store, settings):
    add_row(store, "a")
    add_tag(store, "a", "user_negative", "user:s1")
    decisions.edit(store, settings, "a", "mine", "ada", "operator")
    undo(store, settings, "ada", "operator")
    assert holds(store) == ("mine", "rejected")
    assert store.corrections()["a"].why == "undone by ada"
    (waiting,) = store.queued("support", 5)
    assert (waiting.row_id, waiting.rank) == ("a", 3), "with the rank that it had"
    assert store.draft("a", "ada") == "mine"
    assert decisions.good(store, settings, "a", "ada", "operator").settled


@pytest.mark.sqlite
def test_undo_of_a_vote_leaves_the_others(store, settings, row):
    decisions.accept(store, settings, row, "ben", "reviewer")
    decisions.accept(store, settings, "a", "ada", "operator")
    undo(store, settings, "ada", "operator")
    propose(store, row, "refund", author="s2")
    decisions.accept(store, settings, row, "ada", "reviewer")
    undo(store, settings, "ada", "reviewer")
    assert not decisions.accept(store, settings, row, "ben", "reviewer").settled
    assert decisions.accept(store, settings, row, "cy", "reviewer").settled


@pytest.mark.sqlite
def test_undo_goes_back_step_by_step(store, settings, row):
    add_row(store, "b")
    add_tag(store, "b", "operator_review", "operator:ada")
    decisions.accept(store, settings, row, "ada", "operator")
    decisions.good(store, settings, "b", "ada", "operator")
    assert done_since(store, "ada", 0.0) == 2
    assert undo(store, settings, "ada", "operator").row_id == "b"
    assert undo(store, settings, "ada", "operator").row_id == "a"
    assert done_since(store, "ada", 0.0) == 0
    assert waits(store) == ["a", "b"]
    with pytest.raises(RecordError, match="nothing to undo"):
        undo(store, settings, "ada", "operator")
    with pytest.raises(RecordError, match="nothing to undo"):
        undo(store, settings, "ben", "operator")


def test_undo_of_a_skip_brings_the_row_back(store, settings, row):
    add_row(store, "b")
    propose(store, "b")
    first = store.claim("support", "ada", seconds=60)
    decisions.skip(store, first, "ada", "operator")
    second = store.claim("support", "ada", seconds=60)
    assert {first, second} == {"a", "b"}
    assert undo(store, settings, "ada", "operator").row_id == first
    assert store.claim("support", "ada", seconds=60) == first
    assert store.claim("support", "ben", seconds=60) == second, "ada has one row at a time"
    assert actions(store, first) == [("ada", "skip")]
    with pytest.raises(RecordError, match="nothing to undo"):
        undo(store, settings, "ada", "operator")


@pytest.mark.sqlite
def test_undo_stops_where_somebody_has_gone_on(store, settings, row):
    decisions.accept(store, settings, row, "ada", "operator")
    decisions.correct(store, row, "refund", "ben")
    with pytest.raises(Outdated, match="since"):
        undo(store, settings, "ada", "operator")
    assert holds(store) == ("refund", "accepted")


# -- marks of older versions, and drafts -----------------------------------------------------------


@pytest.mark.sqlite
def test_rows_with_the_old_tag_are_judged(store):
    add_row(store, "a")
    add_row(store, "b")
    add_tag(store, "a", "reviewed", "operator:ada")
    assert judged(store, ["a", "b"]) == {"a"}


@pytest.mark.sqlite
def test_a_draft_is_gone_once_one_has_decided(store, settings, row):
    store.save_draft(row, "ada", "half of it")
    store.save_draft(row, "ben", "mine")
    decisions.accept(store, settings, row, "ada", "reviewer")
    assert store.draft(row, "ada") is None
    assert store.draft(row, "ben") == "mine"
