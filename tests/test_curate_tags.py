"""Tags and users' corrections, on real ledgers."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from curate_rows import add_feedback, add_row, decide, make_settings

from curate.judging.decisions import correct
from curate.tagging import gold_miss, tags, takeover
from curate.tagging import sweep as sweeping
from curate.tagging.sweep import sweep
from curate.tagging.tags import add_tag, tag_window
from ledger.database import tables
from ledger.errors import RecordError, UnknownRow
from ledger.hashing import canonical_json
from ledger.keys.vault import Vault
from ledger.records import parse_feedback
from ledger.store import Store
from ledger.writing.intake import Intake

#: Users are no strangers, however lately they came, and may send much.
KNOWN = {"new_subject_hours": 0, "burst": 1000}


@pytest.fixture
def settings(tmp_path, ledger_url):
    return make_settings(tmp_path, url=ledger_url, acceptance=KNOWN)


@pytest.fixture
def store(settings):
    store = Store.open(settings)
    yield store
    store.close()


def marks(store, row_id):
    return {(tag.tag, tag.who) for tag in store.tags([row_id]).get(row_id, [])}


def count(store, table):
    with store.transaction() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


def test_low_confidence_is_below_the_threshold(settings, store):
    for row_id, mean in [("sure", -0.2), ("edge", -3.0), ("unsure", -3.1), ("none", None)]:
        add_row(store, row_id, mean_logprob=mean)
    report = sweep(settings, store)
    assert report.interactions == 4
    assert report.tags == {"low_confidence": 1}
    assert marks(store, "unsure") == {("low_confidence", "rule:low_confidence")}
    assert "-3.10" in store.tags(["unsure"])["unsure"][0].why


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"rating": "down"}, "thumbs down"),
        ({"score": 0.49}, "score 0.49"),
        ({"regenerate": True}, "asked for another answer"),
        ({"report": True}, "reported"),
        ({"success": False}, "task failed"),
        ({"rating": "down", "report": True}, "thumbs down, reported"),
    ],
)
def test_discontent_is_user_negative(settings, store, fields, why):
    add_row(store, "a")
    add_feedback(store, "a", **fields)
    report = sweep(settings, store)
    assert marks(store, "a") == {("user_negative", "user:s1")}
    assert store.tags(["a"])["a"][0].why == why
    # A vote never trains: it makes no correction, whoever is trusted.
    assert (report.proposed, report.accepted) == (0, 0)
    assert store.corrections() == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"rating": "up"},
        {"score": 0.5},
        {"regenerate": False},
        {"report": False},
        {"success": True},
        {"reason": "so so"},
    ],
)
def test_content_users_leave_no_mark(settings, store, fields):
    add_row(store, "a")
    add_feedback(store, "a", **fields)
    assert sweep(settings, store).tags == {}


def test_a_users_edit_waits_unless_users_are_trusted(tmp_path, settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery")
    report = sweep(settings, store)
    assert (report.proposed, report.accepted) == (1, 0)
    assert marks(store, "a") == {("user_edit", "user:s1")}
    found = store.corrections()["a"]
    assert (found.source, found.author, found.text) == ("user", "s1", "delivery")
    assert found.decision == "proposed"

    trusting = make_settings(tmp_path, trusted_sources=["user"], acceptance=KNOWN)
    add_row(store, "b")
    add_feedback(store, "b", correction="delivery", subject=None)
    assert sweep(trusting, store).accepted == 1
    found = store.corrections()["b"]
    assert (found.author, found.decision) == ("anonymous", "accepted")
    assert marks(store, "b") == {("user_edit", "user:unknown")}


def test_a_vote_never_makes_a_correction_even_of_trusted_users(tmp_path, store):
    trusting = make_settings(
        tmp_path, trusted_sources=["user", "operator", "teacher"], acceptance=KNOWN
    )
    add_row(store, "a")
    add_feedback(store, "a", rating="down", reason="it should have said delivery")
    sweep(trusting, store)
    assert store.corrections() == {}


def test_what_cannot_be_taken_is_counted(settings, store):
    add_row(store, "dark", response=None, messages=None, stored_text=False)
    add_row(store, "same")
    add_row(store, "empty")
    add_feedback(store, "dark", correction="delivery")
    add_feedback(store, "same", correction=" wrong\n")
    add_feedback(store, "empty", correction="  ")
    add_feedback(store, "ghost", correction="delivery", rating="down")
    report = sweep(settings, store)
    assert report.skipped == {
        "text not stored": 1,
        "same as the answer": 1,
        "empty": 1,
        "unknown row": 1,
    }
    assert store.corrections() == {}
    assert report.tags == {"user_edit": 1}  # of `dark`: it was edited, whatever was stored


def test_sweeping_again_changes_nothing(settings, store):
    add_row(store, "a", mean_logprob=-9)
    add_feedback(store, "a", correction="delivery", rating="down")
    sweep(settings, store)
    before = count(store, tables.tags), count(store, tables.corrections)
    again = sweep(settings, store)
    assert again == sweeping.SweepReport(0, 0, {}, 0, 0, {}, 0, {}, {})
    assert (count(store, tables.tags), count(store, tables.corrections)) == before == (3, 1)
    add_feedback(store, "a", correction="delivery", subject="s2")
    assert sweep(settings, store).skipped == {"already known": 1}


def test_a_backlog_of_many_batches_is_swept_whole(settings, store, monkeypatch):
    monkeypatch.setattr(sweeping, "_BATCH", 3)
    monkeypatch.setattr(takeover, "_BATCH", 3)
    for number in range(10):
        add_row(store, f"r{number}", mean_logprob=-5)
        add_feedback(store, f"r{number}", correction="delivery")
    report = sweep(settings, store)
    assert (report.interactions, report.feedback, report.proposed) == (10, 10, 10)
    assert report.tags == {"low_confidence": 10, "user_edit": 10}


def test_sweeps_at_once_take_each_correction_once(settings, store, monkeypatch):
    monkeypatch.setattr(sweeping, "_BATCH", 5)
    monkeypatch.setattr(takeover, "_BATCH", 5)
    for number in range(60):
        add_row(store, f"r{number}", f"Where is parcel {number}?", mean_logprob=-5)
        # Two different edits a row: a sweep that ran twice would append the first one again.
        add_feedback(store, f"r{number}", correction="delivery")
        add_feedback(store, f"r{number}", correction="refund", subject="s2")
    start, reports, errors = threading.Barrier(4), [], []

    def run():
        own = Store.open(settings)
        try:
            start.wait()
            reports.append(sweep(settings, own))
        except Exception as error:
            errors.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(report.proposed for report in reports) == 120
    assert sum(report.interactions for report in reports) == 60
    assert count(store, tables.corrections) == 120
    assert count(store, tables.tags) == 60 + 120
    assert {c.text for c in store.corrections().values()} == {"refund"}


def test_a_batch_and_its_cursor_are_one_transaction(settings, store, monkeypatch):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_correction", die)
        with pytest.raises(KeyboardInterrupt):
            sweep(settings, store)
    assert marks(store, "a") == set()
    assert sweep(settings, store).proposed == 1


def test_an_untrusted_edit_does_not_push_out_an_accepted_one(settings, store):
    add_row(store, "a")
    correct(store, "a", "delivery", "op")
    add_feedback(store, "a", correction="a lie")
    assert sweep(settings, store).skipped == {"row has an accepted correction": 1}
    assert store.corrections()["a"].text == "delivery"


def test_a_trusted_edit_does_not_undo_an_operator(tmp_path, settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="delivery")
    sweep(settings, store)
    decide(store, "a", "accepted", "op")
    trusting = make_settings(tmp_path, trusted_sources=["user"], acceptance=KNOWN)
    add_feedback(store, "a", correction="a lie", subject="s2")
    assert sweep(trusting, store).skipped == {"row was decided by an operator": 1}
    assert store.corrections()["a"].text == "delivery"


def test_a_trusted_user_may_change_a_trusted_edit(tmp_path, store):
    trusting = make_settings(tmp_path, trusted_sources=["user"], acceptance=KNOWN)
    add_row(store, "a")
    add_feedback(store, "a", correction="refund")
    add_feedback(store, "a", correction="delivery")
    assert sweep(trusting, store).accepted == 2
    assert store.corrections()["a"].text == "delivery"


def test_a_rejected_text_is_not_proposed_again_but_another_is(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", correction="a lie")
    sweep(settings, store)
    decide(store, "a", "rejected", "op", "untrue")
    add_feedback(store, "a", correction="a lie", subject="s2")
    assert sweep(settings, store).skipped == {"already known": 1}
    add_feedback(store, "a", correction="delivery", subject="s2")
    assert sweep(settings, store).proposed == 1


def test_free_tags(store):
    add_row(store, "a")
    assert add_tag(store, "a", "vip:gold", "operator:op", "asked for it")
    assert not add_tag(store, "a", "vip:gold", "operator:op")
    assert add_tag(store, "a", "vip:gold", "rule:vip")
    assert [tag.why for tag in store.tags(["a"])["a"]] == ["asked for it", ""]
    with pytest.raises(UnknownRow):
        add_tag(store, "ghost", "vip", "operator:op")
    for wrong in ("", "Two words", "x" * 65):
        with pytest.raises(RecordError, match="a-z"):
            add_tag(store, "a", wrong, "operator:op")
    with pytest.raises(RecordError, match="Say who"):
        add_tag(store, "a", "vip", "op")


# -- windows -----------------------------------------------------------------------------------


def test_a_window_is_tagged_whole_and_once(settings, store, monkeypatch):
    monkeypatch.setattr(tags, "BATCH", 3)
    for number in range(10):
        add_row(store, f"r{number}", ts=1000.0 + number // 2)  # two rows each second
    add_row(store, "other", alias="other", ts=1002.0)
    assert tag_window(store, "support", 1001.0, 1004.0, "drift_window", "rule:drift", "fell") == 6
    assert store.row_ids(tag="drift_window") == ["r2", "r3", "r4", "r5", "r6", "r7"]
    assert tag_window(store, "support", 1001.0, 1005.0, "drift_window", "rule:drift") == 2
    assert store.tags(["r2"])["r2"][0].why == "fell"
    assert store.waiting() == {}
    with pytest.raises(RecordError, match="holds nothing"):
        tag_window(store, "support", 5.0, 5.0, "x", "rule:drift")
    with pytest.raises(RecordError, match="a-z"):
        tag_window(store, "support", 5.0, 6.0, "Two words", "rule:drift")


# -- gold questions ------------------------------------------------------------------------------


def test_a_gold_question_answered_wrongly_is_a_gold_miss(tmp_path, ledger_url, store):
    gold = ["Where is my refund?", "Write to ada.l@example.com, please"]
    settings = make_settings(tmp_path, gold, url=ledger_url)
    add_row(store, "miss", "where is my REFUND", "y")
    add_row(store, "right", "Where is my refund?", "X.")
    add_row(store, "redacted", "Write to ben.b@example.com, please", "y")
    add_row(store, "another", "Where is my refund of May?", "y")
    add_row(store, "elsewhere", "Where is my refund?", "y", alias="other")
    assert sweep(settings, store).tags == {"gold_miss": 2}
    assert store.row_ids(tag="gold_miss") == ["miss", "redacted"]
    [tag] = store.tags(["miss"])["miss"]
    assert (tag.who, tag.why) == ("rule:gold_miss", "gold question g0")
    assert store.waiting("support") == {2: 2}


def test_texts_opened_for_gold_questions_are_bounded(tmp_path, ledger_url, store, monkeypatch):
    settings = make_settings(tmp_path, ["Where is my refund?"], url=ledger_url)
    monkeypatch.setattr(gold_miss, "A_DAY", 20)
    for number in range(200):
        add_row(store, f"r{number}", "Where is my refund?", "y", ts=90_000.0 + number)
    found = sweep(settings, store).tags["gold_miss"]
    assert 40 <= found <= 100  # 20, and 20 / n of the n-th: 20 + 20 ln 10 = 66
    before = len(store.row_ids(tag="gold_miss"))
    for number in range(200, 240):  # another sweep of the same day goes on where that one was
        add_row(store, f"r{number}", "Where is my refund?", "y", ts=90_000.0 + number)
    sweep(settings, store)
    assert len(store.row_ids(tag="gold_miss")) - before <= 15


# -- with feedback -------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_tags_come_with_feedback_once(settings, store):
    add_row(store, "a")
    answers = []
    vault = Vault.open(settings.privacy.key_file)
    intake = Intake(settings, store, vault, lambda *answer: answers.append(answer))
    sent = {"id": "a", "tags": ["vip:gold", "call-0301234567", "vip:gold"], "user": "ada"}
    for number in range(2):
        intake.take(["feedback", number, sent])
        assert intake.commit()
    intake.take(["feedback", 2, {"id": "a", "tags": ["late"]}])
    assert intake.commit()
    who = f"user:{vault.subject('ada')}"
    # What holds personal data is left out, and the answer says what was kept.
    assert marks(store, "a") == {("vip:gold", who), ("late", "user:unknown")}
    assert [body["tags"] for _, _, body in answers] == [["vip:gold"], ["vip:gold"], ["late"]]
    assert [body["duplicate"] for _, _, body in answers] == [False, True, False]
    assert store.corrections() == {}


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["Two words"], "tags.0"),
        ([], "tags"),
        ([f"t{number}" for number in range(9)], "tags"),
        (["user_edit"], "Flywheel puts these tags itself"),
        ("vip", "tags"),
    ],
)
def test_tags_that_feedback_cannot_carry(tags, said):
    with pytest.raises(RecordError, match=said) as caught:
        parse_feedback({"id": "a", "rating": "up", "tags": tags})
    assert caught.value.field.startswith("tags")


def test_feedback_without_tags_is_known_again_as_before(settings, store):
    """The id of a piece of feedback is a hash: an upgrade must not make each one look new."""
    add_row(store, "a")
    vault = Vault.open(settings.privacy.key_file)
    row = Intake(settings, store, vault, print)._feedback_row(
        parse_feedback({"id": "a", "rating": "up"}), "a"
    )
    fields = dict.fromkeys(("score", "correction", "reason", "regenerate", "report", "success"))
    said = canonical_json(["a", None, {"rating": "up", **fields}])
    assert row.feedback_id == f"fb-{vault.mac('feedback', said)}"
