"""The review page on the ledger that a real server writes: from answers to pairs, by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import logged_in, served
from servers import Ours

from curate.datasets.build import build
from curate.tagging.sweep import sweep
from ledger import dataset

QUESTIONS = (
    "The parcel that I sent to my sister never arrived.",
    "Somebody used my card in a town where I never was.",
    "How do I change the address of my account?",
    "Your app logs me out each time I open it.",
    "I was charged twice for the same train ticket.",
    "Can I have the invoice of October once more?",
    "The kettle leaks, and I want my money back.",
    "When does the shop in the harbour open on Sundays?",
    "My voucher is refused although it is not used.",
    "Please end my subscription at the end of the year.",
)


@pytest.mark.slow
def test_what_users_correct_is_reviewed_by_keyboard_and_becomes_pairs(
    ours: Ours, browser: Any, tmp_path: Path
) -> None:
    # Users are not trusted here, so that each of their corrections waits for a person.
    curate = ours.settings.curate.model_copy(update={"trusted_sources": ("operator",)})
    settings = ours.settings.model_copy(update={"curate": curate})
    asked = []
    for number, question in enumerate(QUESTIONS):
        answer = ours.client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": question}],
            max_tokens=8,
            user=f"reviewed-{number}",
        )
        said = {"id": answer.id, "correction": f"queue {number}", "user": f"reviewed-{number}"}
        assert ours.http.post("/feedback", json=said).status_code == 200
        asked.append(answer.id)
    sweep(settings, ours.store)
    with served(settings, ours.store) as page:
        tab = logged_in(browser, page, "ada")
        seen = []
        for number in range(10):
            seen.append(tab.locator("#row").get_attribute("data-row"))
            if number == 4:  # one of them is put better
                tab.keyboard.press("e")
                tab.keyboard.press("Control+End")
                tab.keyboard.type(", the red one")
            with tab.expect_navigation():
                tab.keyboard.press("Control+Enter" if number == 4 else "a")
    assert sorted(seen) == sorted(asked)
    build(settings, ours.store, "support", tmp_path)
    _, pairs = dataset.load(tmp_path / "dataset", ours.store)
    found = {pair.row_id: pair for pair in pairs}
    texts = {row_id: found[row_id].messages[-1]["content"] for row_id in asked}
    expected = {row_id: f"queue {number}" for number, row_id in enumerate(asked)}
    edited = seen[4]
    assert texts == expected | {edited: f"{expected[edited]}, the red one"}
    assert found[edited].source == "operator"
    assert {found[row_id].source for row_id in asked if row_id != edited} == {"user"}
