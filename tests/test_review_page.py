"""The review page over HTTP: who gets in, what must be brought, and what is escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import sqlalchemy as sa
from curate_rows import add_feedback, add_row
from review_client import QUEUE, enter, field, form, propose
from starlette.testclient import TestClient

from curate.review.app import create
from curate.review.texts import Piece, differences, tokens
from curate.tagging.sweep import sweep
from curate.tagging.tags import add_tag
from ledger.database import tables
from ledger.store import now

pytestmark = pytest.mark.sqlite
EVIL = "</textarea></title>\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


@pytest.fixture
def app(settings, store):
    return create(settings, store)


@pytest.fixture
def client(app):
    """Somebody who is an operator and logged in."""
    return enter(app, "ada", "operator")


class Tags(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


# -- changing something ---------------------------------------------------------------------------


def test_a_form_needs_the_sessions_token(app, client, store):
    add_row(store, "a")
    propose(store, "a")
    good = form(client.get(QUEUE))
    ben = enter(app, "ben", "operator")
    others = field(ben.get(QUEUE), "csrf")
    for token in ("", "x", others, "ü"):
        page = client.post(f"{QUEUE}/accept", data={**good, "csrf": token})
        assert page.status_code == 403, token
    assert store.corrections()["a"].decision == "proposed"
    assert client.post(f"{QUEUE}/accept", data=good).status_code == 200
    assert store.corrections()["a"].decision == "accepted"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
    ],
)
def test_another_site_can_send_nothing(app, client, store, headers):
    add_row(store, "a")
    propose(store, "a")
    page = client.post(f"{QUEUE}/accept", data=form(client.get(QUEUE)), headers=headers)
    assert page.status_code == 403
    assert store.corrections()["a"].decision == "proposed"
    key = app.state.people.add("eve", "viewer")
    assert TestClient(app).post("/login", data={"key": key}, headers=headers).status_code == 403


def test_a_get_changes_nothing(client, store):
    add_row(store, "a")
    propose(store, "a")
    for path in ("accept", "reject", "edit", "good", "skip", "undo", "tag", "draft"):
        assert client.get(f"{QUEUE}/{path}?row=a&seen=1.0").status_code == 405, path
    assert store.reviews() == []


def test_too_large_a_request_is_refused(client, store):
    add_row(store, "a")
    propose(store, "a")
    page = client.post(f"{QUEUE}/edit", data=form(client.get(QUEUE), text="x" * 1_100_000))
    assert page.status_code in (400, 413)
    assert store.reviews() == []


def test_a_viewer_sees_and_changes_nothing(app, client, store):
    add_row(store, "a", "Where is it?")
    propose(store, "a")
    viewer = enter(app, "vic", "viewer")
    page = viewer.get(QUEUE)
    assert "Where is it?" in page.text
    assert 'id="accept"' not in page.text
    data = form(page)
    assert viewer.post(f"{QUEUE}/accept", data=data).status_code == 403
    assert store.claim("support", "ben", seconds=1) == "a", "it was on nobody's screen"


def test_two_reviewers_one_row(app, store):
    add_row(store, "a")
    add_row(store, "b")
    propose(store, "a")
    propose(store, "b")
    ben, cy = enter(app, "ben", "reviewer"), enter(app, "cy", "reviewer")
    one, other = ben.get(QUEUE), cy.get(QUEUE)
    assert {field(one, "row"), field(other, "row")} == {"a", "b"}
    row = field(one, "row")
    assert "ben has this row on the screen" in cy.get(f"{QUEUE}?row={row}").text
    page = ben.post(f"{QUEUE}/accept", data=form(one))
    assert "It waits for another person." in page.text
    assert 'name="row"' not in page.text, "cy has the other one"
    cy.post(f"{QUEUE}/skip", data=form(other))
    page = cy.get(QUEUE)
    assert field(page, "row") == row
    assert "ben: accept" in page.text
    cy.post(f"{QUEUE}/accept", data=form(page))
    assert store.corrections()[row].why == "accepted by ben, cy"


def test_what_is_newer_is_shown_and_not_overwritten(client, store):
    add_row(store, "a")
    propose(store, "a")
    shown = form(client.get(QUEUE), text="mine")
    propose(store, "a", "refund", author="s2")
    page = client.post(f"{QUEUE}/edit", data=shown)
    assert page.status_code == 409
    assert "newer correction" in page.text
    assert "refund" in page.text
    assert ">\nmine</textarea>" in page.text, "nothing that was typed is lost"
    assert store.corrections()["a"].decision == "proposed"
    client.post(f"{QUEUE}/edit", data=form(page, text="mine"))
    assert store.corrections()["a"].text == "mine"


def test_accepting_takes_what_stands_in_the_field(client, store):
    for row in ("a", "b"):
        add_row(store, row)
        propose(store, row, "first\nsecond")
    page = client.get(QUEUE)
    client.post(f"{QUEUE}/accept", data=form(page, text="first\r\nsecond"))
    assert store.corrections()[field(page, "row")].source == "user"
    page = client.get(QUEUE)
    client.post(f"{QUEUE}/accept", data=form(page, text="first\r\nthird"))
    found = store.corrections()[field(page, "row")]
    assert (found.source, found.author, found.text) == ("operator", "ada", "first\nthird")


def test_an_answer_is_good_unless_the_field_says_otherwise(client, store):
    add_row(store, "a")
    add_tag(store, "a", "operator_review", "operator:ada")
    page = client.get(QUEUE)
    refused = client.post(f"{QUEUE}/good", data=form(page, text="right"))
    assert refused.status_code == 400
    assert store.reviews() == []
    client.post(f"{QUEUE}/good", data=form(page, text="wrong"))
    assert [one.action for one in store.reviews()] == ["good"]
    assert "Nothing waits." in client.get(QUEUE).text


def test_drafts_undo_and_tags(client, store):
    add_row(store, "a")
    propose(store, "a")
    page = client.get(QUEUE)
    data = form(page)
    header = {"X-CSRF-Token": data.pop("csrf")}
    answer = client.post(f"{QUEUE}/draft", data={**data, "text": "deliver\r\nme"}, headers=header)
    assert answer.json()["pieces"] == [["del", "wrong"], ["ins", "deliver\nme"]]
    assert answer.json()["changed"]
    assert store.draft("a", "ada") == "deliver\nme"
    assert ">\ndeliver\nme</textarea>" in client.get(QUEUE).text
    answer = client.post(f"{QUEUE}/draft", data={**data, "text": "delivery "}, headers=header)
    assert not answer.json()["changed"]
    assert store.draft("a", "ada") is None

    page = client.post(f"{QUEUE}/tag", data=form(page, tag="odd", why="because"))
    assert "Tagged." in page.text
    assert field(page, "row") == "a"
    assert "odd" in {tag.tag for tag in store.tags(["a"])["a"]}
    page = client.post(f"{QUEUE}/tag", data=form(page, tag="Not A Tag"))
    assert page.status_code == 400

    page = client.post(f"{QUEUE}/reject", data=form(page, why="untrue"))
    assert store.corrections()["a"].why == "rejected by ada: untrue"
    page = client.post(f"{QUEUE}/undo", data={"csrf": field(page, "csrf")})
    assert field(page, "row") == "a"
    assert store.corrections()["a"].decision == "proposed"
    page = client.post(f"{QUEUE}/undo", data={"csrf": field(page, "csrf")})
    assert page.status_code == 400
    assert "nothing to undo" in page.text


def test_a_row_is_held_given_back_and_taken(client, store):
    add_row(store, "a")
    propose(store, "a")
    data = form(client.get(QUEUE))
    header = {"X-CSRF-Token": data["csrf"]}
    assert store.claim_row("a", "ben", seconds=60) == "ada"
    client.post(f"{QUEUE}/leave", data={"row": "a"}, headers=header)
    assert store.claim_row("a", "ben", seconds=60) is None
    held = client.post(f"{QUEUE}/hold", data={"row": "a"}, headers=header)
    assert (held.status_code, held.json()) == (409, {"held": "ben"})
    draft = client.post(f"{QUEUE}/draft", data={**data, "text": "x"}, headers=header)
    assert draft.status_code == 409
    assert store.draft("a", "ada") is None


def test_a_row_that_was_settled_can_be_opened_and_changed(client, store):
    add_row(store, "a")
    propose(store, "a")
    client.post(f"{QUEUE}/accept", data=form(client.get(QUEUE)))
    page = client.get(f"{QUEUE}?row=a")
    assert "Accepted correction" in page.text
    assert ">\ndelivery</textarea>" in page.text
    client.post(f"{QUEUE}/edit", data=form(page, text="refund"))
    assert store.corrections()["a"].text == "refund"
    assert client.get(f"{QUEUE}?row=ghost").status_code == 404


def test_neighbours_of_the_same_cluster_are_shown(client, store):
    for row in ("a", "b", "c"):
        add_row(store, row, f"Question {row}?", f"Answer {row}")
        line = {"row_id": row, "alias": "support", "cluster": 7, "ts": 1.0, "traffic": True}
        with store.transaction() as connection:
            connection.execute(sa.insert(tables.cluster_rows).values({**line, "weight": 1.0}))
    named = {"alias": "support", "cluster": 7, "space": 1, "ts": 1.0, "name": "late <parcels>"}
    with store.transaction() as connection:
        values = {**named, "terms": "[]", "centroid": b"", "members": 3}
        connection.execute(sa.insert(tables.clusters).values(values))
    propose(store, "b", "Right b")
    client.post(f"{QUEUE}/accept", data=form(client.get(QUEUE)))
    propose(store, "a")
    page = client.get(QUEUE).text
    assert "late &lt;parcels&gt;" in page
    for words in ("Question b?", "Answer b", "Right b", "Question c?", "Answer c"):
        assert words in page


# -- what users typed -----------------------------------------------------------------------------


def test_nothing_that_somebody_typed_is_markup(client, store, settings):
    before = Tags(client.get(QUEUE))
    scripts = [attrs for tag, attrs in before.elements if tag == "script"]
    messages = [{"role": EVIL, "content": EVIL}, {"role": "user", "content": EVIL}]
    fields = {"messages": messages, "metadata": {EVIL: EVIL}, "version": EVIL, "ts": now()}
    known = [(len(EVIL), -2.0)]
    add_row(store, "row<b>", response=EVIL, token_logprobs=known, **fields)
    add_feedback(store, "row<b>", correction=EVIL * 2, rating="down", reason=EVIL)
    add_tag(store, "row<b>", "odd", "operator:<i>", EVIL)
    sweep(settings, store)
    store.save_draft("row<b>", "ada", EVIL * 3)
    page = client.get(QUEUE)
    found = Tags(page)
    assert page.text.count("&lt;script&gt;alert(1)") >= 8
    assert "<script>alert" not in page.text
    assert page.text.count("{{ 7 * 7 }}") >= 8
    assert [attrs for tag, attrs in found.elements if tag == "script"][: len(scripts)] == scripts
    assert {attrs.get("src") for tag, attrs in found.elements if tag == "script"} == {
        "/static/page.js",
        "/static/queue.js",
    }
    for tag, attrs in found.elements:
        assert tag not in ("img", "b", "i", "iframe", "style"), tag
        assert not [name for name in attrs if name.startswith("on") or name == "style"], attrs
    # An error shows what was sent, too.
    page = client.post(f"{QUEUE}/tag", data=form(page, tag=EVIL))
    assert page.status_code == 400
    assert "<script>alert" not in page.text
    assert "<script>alert" not in client.get(f"/login?to={EVIL}").text
    assert "<script>alert" not in client.get(f"{QUEUE}?row={EVIL}&done={EVIL}").text


def test_what_is_typed_is_redacted_before_it_is_kept(client, store):
    add_row(store, "a")
    propose(store, "a")
    data = form(client.get(QUEUE))
    header = {"X-CSRF-Token": data["csrf"]}
    text = "Write to jo@example.com"
    client.post(f"{QUEUE}/draft", data={**data, "text": text}, headers=header)
    assert "jo@example.com" not in (store.draft("a", "ada") or "jo@example.com")
    client.post(f"{QUEUE}/edit", data={**data, "text": text})
    assert "jo@example.com" not in store.corrections()["a"].text


# -- texts --------------------------------------------------------------------------------


def test_differences_are_in_whole_words():
    assert differences("the red car", "the blue car") == [
        Piece("same", "the "), Piece("del", "red"), Piece("ins", "blue"), Piece("same", " car"),
    ]  # fmt: skip
    assert differences("a b c", "x y c")[:2] == [Piece("del", "a b"), Piece("ins", "x y")]
    assert differences("", "new") == [Piece("ins", "new")]
    assert differences("same", "same") == [Piece("same", "same")]


@pytest.mark.parametrize("many", [1, 4000])
def test_differences_make_up_both_texts(many):
    one, other = "Hello there,\nfriend. " * many, "Hello you there,\nmy friend. " * many
    pieces = differences(one, other)
    assert "".join(p.text for p in pieces if p.kind != "ins") == one
    assert "".join(p.text for p in pieces if p.kind != "del") == other


def test_tokens_have_a_class_by_their_probability():
    found = tokens("abcdef", [(1, -0.01), (2, -0.5), (1, -1.0), (1, -2.0), (1, -5.0)])
    assert [(one.text, one.level) for one in found] == [
        ("a", 0), ("bc", 1), ("d", 2), ("e", 3), ("f", 4),
    ]  # fmt: skip
    assert tokens("abc", [(1, -0.1)]) is None, "they do not make up the answer"
    assert tokens("abc", None) is None
