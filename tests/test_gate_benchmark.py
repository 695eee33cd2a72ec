"""The benchmark of a gate: what its peers are asked to do, and its table. It runs by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import gate, gate_peers
from benchmarks.tiny import ROOT

ASKED = gate_peers.Asked("http://127.0.0.1:1/v1", "Name it", [("a?", "b"), ("c?", "d")], 16, 24)


@pytest.mark.parametrize("name", gate_peers.NAMES)
def test_a_peer_may_ask_as_much_at_once_and_gets_the_same_questions(
    tmp_path: Path, name: str
) -> None:
    command, variables = getattr(gate_peers, f"_{name.replace('-', '_')}")(ASKED, "m@v1", tmp_path)
    words = " ".join(command)
    assert "24" in words
    assert "m@v1" in words
    assert ASKED.url in words + json.dumps(variables)
    lines = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [tuple(line.values()) for line in lines] == list(ASKED.questions)
    assert (ROOT / gate_peers.needs(name)).is_file()


def test_a_gold_question_says_what_the_peers_are_asked() -> None:
    texts = gate.questions(500)
    assert len(set(texts)) == 500
    assert gate._messages(texts[0]) == [
        {"role": "system", "content": gate.SYSTEM},
        {"role": "user", "content": texts[0]},
    ]


def test_the_table_leaves_cells_empty_that_have_no_number() -> None:
    numbers = {"seconds": 8.0, "seconds_asking": 5.0, "seconds_live_known": 5.0}
    numbers |= {"seconds_live_known_asking": 2.0, "seconds_again": 3.0}
    numbers |= {"seconds_by_question": 4.0, "seconds_by_version": 4.0}
    table = gate.table_of(numbers, ())
    assert re.search(r"\| one pass, all known +\| 3.0 +\| +\| +\| +\|", table)
    assert {line.count("|") for line in table.strip().splitlines()} == {6}
