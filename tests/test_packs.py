"""Gate packs: their files, and what counts as loosening."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pack_files import GOLD, loaded, write_gold, write_pack

from eval.packs.strictness import loosened
from ledger.checking import score
from ledger.errors import GoldError
from ledger.gold import load_gold
from ledger.packs import LoadedPack, load_packs
from ledger.settings.gate import Gate

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_gold(tmp_path, range(50))
    return tmp_path


# -- files ---------------------------------------------------------------------------------------


def test_every_pack_and_gold_set_that_is_shipped_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    files = tuple(Path("configs/packs").glob("*.yaml"))
    names = {one.pack.name for one in load_packs(Gate(packs=files))}
    assert names == {"general", "support"}
    for file in Path("configs/gold").glob("*.jsonl"):
        load_gold([file])


def test_the_general_questions_have_answers_that_pass_and_others_do_not() -> None:
    rows = load_gold([ROOT / "configs/gold/general.jsonl"])
    assert len(rows) == 60
    assert len({row.slice for row in rows}) == 5
    assert len({json.dumps(row.messages) for row in rows}) == 60
    by_id = {row.id: row for row in rows}
    right = {
        "general-arithmetic-01": "12", "general-arithmetic-04": "It is 10.",
        "general-reading-04": "Beech.", "general-format-04": '{"ok": true}',
        "general-format-07": "red\nblue", "general-instruction-10": "Received.",
        "general-facts-03": "A spider has eight legs.",
    }  # fmt: skip
    wrong = {
        "general-arithmetic-01": "1 and 123", "general-reading-06": "Ben",
        "general-format-04": "ok", "general-instruction-03": "No, yes",
        "general-facts-01": "London",
    }  # fmt: skip
    assert [i for i, text in right.items() if not score(by_id[i], text).value] == []
    assert [i for i, text in wrong.items() if score(by_id[i], text).value] == []
    for row in rows:
        assert not score(row, "").value, row.id


def test_gold_and_margin_of_the_settings_are_the_simplest_pack(folder: Path) -> None:
    (pack,) = load_packs(Gate(gold=(Path("gold.jsonl"),), margin=0.07))
    (only,) = pack.pack.sets
    assert (pack.pack.name, only.kind, only.role, only.margin) == ("gold", "gold", "required", 0.07)
    assert len(pack.questions["gold"]) == 50
    assert load_packs(Gate()) == []


def test_all_that_is_wrong_with_packs_is_said_at_once(folder: Path) -> None:
    one = write_pack(
        "one",
        GOLD | {"margins": 0.1, "role": "must"},
        {"name": "b", "kind": "golden", "gold": ["gold.jsonl"]},
    )
    two = write_pack("two", GOLD | {"gold": ["absent.jsonl"]}, GOLD | {"name": "x", "margin": 2})
    three = write_pack("three", GOLD | {"slices": {"odds": {"floor": 0.5}}}, GOLD | {"name": "y"})
    four = write_pack("four", GOLD | {"gold": ["absent.jsonl"]})
    five = write_pack("five", GOLD | {"rules": [{"type": "matches", "value": "("}]}, GOLD)
    other = Path("other.yaml")
    other.write_text("name: three\nsets: [" + json.dumps(GOLD) + "]\nname: four\n")
    with pytest.raises(GoldError) as caught:
        load_packs(Gate(packs=(one, two, three, four, five, other, Path("no.yaml"))))
    said = str(caught.value)
    for expected in (
        "one.yaml: sets.0.gold.margins: no such key",
        "one.yaml: sets.0.gold.role: Input should be 'required', 'guard' or 'informative'",
        "one.yaml: sets.1: Input tag 'golden'",
        "two.yaml: sets.1.gold.margin: Input should be less than 1",
        "three.yaml: set 'main': no question has the slice odds",
        "four.yaml: set 'main'",
        "absent.jsonl: No such file",
        "five.yaml: sets.0.gold.rules.0.matches.value: '(' is not a regular expression",
        "other.yaml: cannot be read as YAML",
        "name: given twice",
        "no.yaml: cannot be read",
    ):
        assert expected in said, expected


def test_two_packs_or_sets_with_one_name_are_refused(folder: Path) -> None:
    first = write_pack("one", GOLD, GOLD)
    with pytest.raises(GoldError, match="used twice: main"):
        load_packs(Gate(packs=(first,)))
    second = write_pack("two", GOLD)
    Path("copy.yaml").write_text(second.read_text())
    with pytest.raises(GoldError, match=r"'two' is used already by two\.yaml"):
        load_packs(Gate(packs=(second, Path("copy.yaml"))))


def test_the_hash_covers_rules_and_questions_and_not_where_they_lie(folder: Path) -> None:
    before = loaded(GOLD)
    (folder / "moved.jsonl").write_bytes((folder / "gold.jsonl").read_bytes())
    assert loaded(GOLD | {"gold": ["moved.jsonl"]}).pack_hash == before.pack_hash
    assert loaded(GOLD | {"margin": 0.11}).pack_hash != before.pack_hash
    write_gold(folder, range(51))
    assert loaded(GOLD).pack_hash != before.pack_hash
    again = LoadedPack.of_content(json.loads(json.dumps(before.content())))
    assert again.pack_hash == before.pack_hash
    assert before.pack_hash.startswith("fw1:pack:")


# -- loosening -------------------------------------------------------------------------------------

FULL = GOLD | {
    "slices": {"odd": {"floor": 0.5, "max_loss": 0.2}, "*": {"max_loss": 0.3}},
    "rules": [
        {"type": "no_control_tokens"},
        {"type": "max_chars", "value": 100},
        {"type": "matches_not", "value": "x", "at_most": 0.1},
    ],
    "limits": {"completion_tokens": 1.5},
}


def changed(**more: Any) -> dict[str, Any]:
    return copy.deepcopy(FULL) | more


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (changed(margin=0.2), "the margin was 0.1, now 0.2"),
        (changed(role="guard"), "it was required, now guard"),
        (changed(role="informative"), "it was required, now informative"),
        (changed(name="new"), "the set 'main' is gone"),
        (changed(kind="judge", rubric="r"), "its kind was gold, now judge"),
        (changed(slices={"*": {"max_loss": 0.2}}), "slice odd: the floor was 0.5, now none"),
        (
            changed(slices=FULL["slices"] | {"odd": {"floor": 0.4, "max_loss": 0.2}}),
            "slice odd: the floor was 0.5, now 0.4",
        ),
        (
            changed(slices=FULL["slices"] | {"even": {"max_loss": 0.4}}),
            "slice even: max_loss was 0.3, now 0.4",
        ),
        (changed(slices=FULL["slices"] | {"*": {}}), "slice *: max_loss was 0.3, now none"),
        (changed(rules=FULL["rules"][1:]), "the rule no_control_tokens is gone"),
        (
            changed(
                rules=[FULL["rules"][0], {"type": "max_chars", "value": 200}, FULL["rules"][2]]
            ),
            "answers had at most 100 characters, now 200",
        ),
        (
            changed(rules=[*FULL["rules"][:2], FULL["rules"][2] | {"at_most": 0.2}]),
            "the rule matches_not 'x' had at_most 0.1, now 0.2",
        ),
        (
            changed(rules=[*FULL["rules"][:2], FULL["rules"][2] | {"at_most": None}]),
            "the rule matches_not 'x' had at_most 0.1, now none",
        ),
        (changed(limits={}), "the limit completion_tokens was 1.5, now none"),
        (changed(limits={"completion_tokens": 2}), "the limit completion_tokens was 1.5, now 2"),
    ],
)
def test_what_counts_as_loosening(folder: Path, after: dict[str, Any], expected: str) -> None:
    lines = loosened(loaded(FULL), loaded(after))
    assert any(expected in line for line in lines), lines


@pytest.mark.parametrize(
    "after",
    [
        FULL,
        changed(margin=0.05),
        changed(slices=FULL["slices"] | {"odd": {"floor": 0.6, "max_loss": 0.1}}),
        changed(slices=FULL["slices"] | {"even": {"floor": 0.1, "max_loss": 0.3}}),
        changed(rules=[*FULL["rules"][:2], FULL["rules"][2] | {"at_most": 0.0}]),
        changed(rules=[*FULL["rules"], {"type": "no_refusal"}]),
        changed(limits={"completion_tokens": 1.2, "p95_latency": 3}),
    ],
)
def test_tightening_is_none(folder: Path, after: dict[str, Any]) -> None:
    assert loosened(loaded(FULL), loaded(after, GOLD | {"name": "more"})) == []


def test_questions_that_are_gone_or_changed_count(folder: Path) -> None:
    before = loaded(GOLD)
    write_gold(folder, range(60))
    assert loosened(before, loaded(GOLD)) == []
    write_gold(folder, range(2, 50))
    assert loosened(before, loaded(GOLD)) == ["set 'main': 2 question(s) are gone: q0, q1"]
    write_gold(folder, range(50), checks=[{"type": "regex", "value": "."}])
    (line,) = loosened(before, loaded(GOLD))
    assert "50 question(s) are not what they were: q0, q1, q2, q3, q4 and 45 more" in line
