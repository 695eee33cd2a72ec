"""The review page in a real Chromium: ten rows by keyboard alone, drafts, two people, a phone."""

from __future__ import annotations

import re

import pytest
from browser import (
    PHONE,
    axe_findings,
    is_wider_than_the_screen,
    logged_in,
    screenshot,
    served,
)
from curate_rows import add_feedback, add_row, make_settings

from curate.datasets.build import build
from curate.judging.decisions import shown
from curate.tagging.sweep import sweep
from curate.tagging.tags import add_tag
from ledger import dataset
from ledger.store import Store, now

pytestmark = pytest.mark.sqlite

ANSWER = "Your parcel is with the returns team. Please wait for up to 14 days, then write again."
CORRECTION = "Your parcel is late at the carrier. Please write to the delivery queue."
QUESTIONS = (
    "Where is my parcel? It should have come on Monday, and tracking says nothing new.",
    "How do I change the address of an order that was sent yesterday?",
    "The invoice of October is twice in my account. Which one do I pay?",
    "Can I return shoes which I have worn once, and who pays for the box?",
    "Your app signs me out every morning since the last update.",
    "I was charged for a subscription that I ended in spring.",
    "Is the blue kettle in stock again before Christmas?",
    "A colleague left; how do I take her off our company account?",
    "The voucher code on my receipt is refused at the checkout.",
    "Please delete everything that you keep about me.",
)


def token_logprobs(text):
    odds = (-0.01, -0.05, -0.3, -0.02, -1.1, -0.1, -2.2, -0.04, -4.0)
    words = re.findall(r"\S+\s*", text)
    return [(len(word), odds[number % len(odds)]) for number, word in enumerate(words)]


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def store(settings):
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def page(settings, store):
    """A page with ten proposed corrections of users; row9 is the newest."""
    known = token_logprobs(ANSWER)
    for number, question in enumerate(QUESTIONS):
        ts = now() - 3600 * (20 - number)
        fields = {"ts": ts, "token_logprobs": known, "mean_logprob": -1.4}
        add_row(store, f"row{number}", question, ANSWER, metadata={"channel": "web"}, **fields)
        text = f"{CORRECTION} Case {number}."
        subject = f"s{number}"
        add_feedback(store, f"row{number}", correction=text, subject=subject, ts=ts + 60)
    add_feedback(store, "row9", rating="down", reason="wrong team", subject="s9", ts=now())
    add_tag(store, "row9", "parcels:late", "operator:ada", "asked by support")
    sweep(settings, store)
    with served(settings, store) as running:
        yield running


def row_of(tab):
    return tab.locator("#row").get_attribute("data-row")


def press_through(tab, key):
    """Press a key that decides, and wait for the next page."""
    with tab.expect_navigation():
        tab.keyboard.press(key)


def test_ten_rows_by_keyboard_alone_are_in_the_next_dataset(
    browser, page, settings, store, tmp_path
):
    tab = browser.new_context(base_url=page.url).new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.goto("/support/queue")
    tab.locator("input:focus").wait_for()  # the page gives it to the field once it is drawn
    tab.keyboard.type(page.key("ada"))
    with tab.expect_navigation():
        tab.keyboard.press("Enter")
    seen = []
    for number in range(10):
        seen.append(row_of(tab))
        if number % 3:
            press_through(tab, "a")
            continue
        tab.keyboard.press("e")
        tab.keyboard.press("Control+End")
        tab.keyboard.type(" Thanks, aerstu?")  # letters that are keys elsewhere
        press_through(tab, "Control+Enter")
    assert seen == [f"row{number}" for number in range(9, -1, -1)]
    assert "Nothing waits." in tab.locator("main").inner_text()
    assert errors == []
    manifest = build(settings, store, "support", tmp_path / "run")
    assert manifest.pairs == 10
    _, pairs = dataset.load(tmp_path / "run" / "dataset", store)
    made = {pair.row_id: (pair.source, pair.messages[-1]["content"]) for pair in pairs}
    assert set(made) == set(seen)
    for number, row_id in enumerate(seen):
        proposed = f"{CORRECTION} Case {row_id.removeprefix('row')}."
        source, text = made[row_id]
        assert source == ("user" if number % 3 else "operator")
        assert proposed in text
        assert ("Thanks, aerstu?" in text) == (number % 3 == 0)


def test_drafts_differences_and_undo(browser, page, store):
    tab = logged_in(browser, page, "ada")
    assert row_of(tab) == "row9"
    field = tab.locator("#text")
    tab.keyboard.press("e")
    tab.keyboard.press("Control+End")
    tab.keyboard.type(" <b>Sorry</b>")
    tab.get_by_text("Draft saved.").wait_for()
    assert tab.locator("#pieces ins").last.inner_text().endswith("<b>Sorry</b>")
    assert tab.locator("#save").is_enabled()
    assert tab.locator("#accept").is_disabled()
    tab.reload()
    assert field.input_value().endswith(" <b>Sorry</b>")
    assert row_of(tab) == "row9"

    press_through(tab, "a")  # takes what stands in the field
    assert store.corrections()["row9"].text.endswith("<b>Sorry</b>")
    assert row_of(tab) == "row8"
    press_through(tab, "u")
    assert row_of(tab) == "row9"
    assert store.corrections()["row9"].decision == "proposed"
    assert field.input_value().endswith("<b>Sorry</b>"), "what was typed is a draft again"

    tab.keyboard.press("r")
    tab.keyboard.type("as untrue as it gets")
    press_through(tab, "Enter")
    assert store.corrections()["row9"].why == "rejected by ada: as untrue as it gets"
    tab.keyboard.press("t")
    tab.keyboard.type("later")
    press_through(tab, "Enter")
    assert row_of(tab) == "row8"
    assert "later" in {tag.tag for tag in store.tags(["row8"])["row8"]}
    press_through(tab, "s")
    assert row_of(tab) == "row7"
    assert store.corrections()["row8"].decision == "proposed"


def test_two_people_never_get_the_same_row(browser, page, store):
    ada, ben = logged_in(browser, page, "ada"), logged_in(browser, page, "ben")
    had = []
    for _ in range(4):
        assert row_of(ada) != row_of(ben)
        had += [row_of(ada), row_of(ben)]
        press_through(ada, "a")
        press_through(ben, "a")
    assert len(set(had)) == 8
    ada.goto(f"/support/queue?row={row_of(ben)}")
    assert "ben has this row on the screen" in ada.locator("main").inner_text()
    # Who goes to another page gives the row back.
    left = row_of(ben)
    with ben.expect_request("**/queue/leave"), ben.expect_navigation():
        ben.get_by_role("link", name="Rows").click()
    ada.goto(f"/support/queue?row={left}")
    assert row_of(ada) == left


def test_somebody_who_was_overtaken_loses_nothing(browser, page, store):
    ada = logged_in(browser, page, "ada")
    assert row_of(ada) == "row9"
    store.release("row9", "ada")  # as if the time had run out
    ben = logged_in(browser, page, "ben")
    assert row_of(ben) == "row9"
    press_through(ben, "a")
    ada.keyboard.press("e")
    ada.keyboard.type("mine ")
    press_through(ada, "Control+Enter")
    assert "ben has said something" in ada.locator("[role=alert]").first.inner_text()
    assert "mine" in ada.locator("#text").input_value()
    assert store.corrections()["row9"].author == "s9"


def test_everything_works_without_a_script(browser, page, store):
    tab = logged_in(browser, page, "ada", java_script_enabled=False)
    tab.get_by_role("button", name="Accept").click()
    assert store.corrections()["row9"].decision == "accepted"
    assert row_of(tab) == "row8"
    tab.locator("#text").fill("Another text")
    tab.get_by_role("button", name="Save edit").click()
    assert store.corrections()["row8"].text == "Another text"
    tab.locator("#reject summary").click()
    tab.get_by_role("button", name="Reject it").click()
    assert store.corrections()["row7"].decision == "rejected"
    tab.get_by_role("button", name="Undo").click()
    assert row_of(tab) == "row7"
    assert shown(store, "row7").correction > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE}),
        ("phone-dark", {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"}),
    ],
)
def test_it_is_readable(browser, page, name, options):
    tab = browser.new_context(base_url=page.url, **options).new_page()
    tab.goto("/login")
    assert axe_findings(tab) == []
    screenshot(tab, f"login-{name}")
    tab = logged_in(browser, page, "ada", **options)
    assert not is_wider_than_the_screen(tab)
    assert axe_findings(tab) == []
    screenshot(tab, f"queue-{name}")
    tab.keyboard.press("e")
    tab.keyboard.type("No: ")
    tab.get_by_text("Draft saved.").wait_for()
    tab.keyboard.press("Escape")
    tab.keyboard.press("?")
    assert tab.get_by_text("undo the last step").is_visible()
    assert axe_findings(tab) == []
    screenshot(tab, f"queue-keys-{name}")
    tab.keyboard.press("Escape")
    press_through(tab, "s")
    screenshot(tab, f"queue-next-{name}")
    tab.goto("/other/queue")
    assert axe_findings(tab) == []
    screenshot(tab, f"queue-empty-{name}")


def test_tokens_can_be_read_with_the_keyboard(browser, page):
    tab = logged_in(browser, page, "ada")
    answer = tab.locator("#answer")
    assert answer.inner_text() == ANSWER
    answer.focus()
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    assert tab.locator("#token").inner_text() == "−1.10 nats, 33 %"
