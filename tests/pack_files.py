"""Gold sets and packs for tests, as files in the working folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ledger.packs import LoadedPack, load_packs
from ledger.settings.gate import Gate

GOLD = {"name": "main", "kind": "gold", "gold": ["gold.jsonl"], "margin": 0.1}


def question(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "messages": [{"role": "user", "content": f"Say answer{number}"}],
        "checks": [{"type": "exact", "value": f"answer{number}"}],
        "slice": "even" if number % 2 == 0 else "odd",
    } | more


def write_gold(folder: Path, numbers: Any, **more: Any) -> None:
    lines = (json.dumps(question(number, **more)) + "\n" for number in numbers)
    (folder / "gold.jsonl").write_text("".join(lines))


def write_pack(name: str, *sets: dict[str, Any], **more: Any) -> Path:
    file = Path(f"{name}.yaml")
    file.write_text(yaml.safe_dump({"name": name, "sets": list(sets)} | more))
    return file


def loaded(*sets: dict[str, Any], name: str = "p") -> LoadedPack:
    return load_packs(Gate(packs=(write_pack(name, *sets),)))[0]
