"""Answers that users voted down: examples for KTO, and for nothing else."""

from __future__ import annotations

from conftest import MakeSettings
from curate_rows import add_feedback, add_row
from test_curate_dataset import correct, questions, say

from curate.datasets.build import collect
from curate.datasets.views import VIEWS
from ledger.store import Store


def test_votes_against_an_answer_are_examples_for_kto_alone(
    make_settings: MakeSettings, store: Store
) -> None:
    near = {
        "dataset": {"near_duplicate": 1, "replay_share": 0.5},
        "acceptance": {"pairs_per_subject": 2},
    }
    kto = make_settings(curate=near, train={"preference": "kto"})
    for number, question in enumerate(questions(14)):
        add_row(store, f"r{number}", question, f"said {number}", ts=float(number))
    for number in range(6):
        correct(store, f"r{number}", "right")
        add_feedback(store, f"r{number}", rating="down")  # what is wrong is known
    for number in (6, 7, 8):
        add_feedback(store, f"r{number}", rating="down", subject="ada")
    add_feedback(store, "r9", rating="down", subject="ben")
    add_feedback(store, "r9", rating="up", subject="eve")  # in doubt
    add_feedback(store, "r10", rating="down", subject="ben")
    add_feedback(store, "r10", rating="up", subject="ben")  # the last word
    add_feedback(store, "r11", score=0.1, subject="ben")
    add_feedback(store, "r12", rating="down", subject="ben")
    say(store, "r12", "good", "ada")
    add_feedback(store, "r13", regenerate=True, subject="ben")  # no vote
    pairs = {pair.row_id: pair for pair in collect(kto, store, "support").pairs}
    voted = {row_id for row_id, pair in pairs.items() if pair.kind == "disliked"}
    assert voted == {"r6", "r7", "r11"}  # ada's third is above the cap
    assert pairs["r6"].messages[-1]["content"] == "said 6"
    assert (pairs["r6"].rejected, pairs["r6"].source, pairs["r6"].correction) == (None, "user", 0)
    assert [list(view(pairs["r6"])) for view in (VIEWS["sft"], VIEWS["dpo"])] == [[], []]
    (line,) = VIEWS["kto"](pairs["r6"])
    assert line["label"] is False
    assert line["completion"] == [{"role": "assistant", "content": "said 6"}]
    # Without KTO a vote is never an example, also where it was looked at before.
    plain = {pair.kind for pair in collect(make_settings(curate=near), store, "support").pairs}
    assert "disliked" not in plain
    # Called good, it is replayed like any other.
    say(store, "r6", "good", "ada")
    kinds = {pair.row_id: pair.kind for pair in collect(kto, store, "support").pairs}
    assert (kinds["r6"], kinds["r8"], kinds["r12"]) == ("replay", "disliked", "replay")
