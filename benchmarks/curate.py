"""Building the next dataset from a large ledger: all at once, and after a day's worth of new rows.

    python -m benchmarks.curate [--rows 1000000] [--json FILE]

Two of a hundred answers were corrected by their users, who are trusted here: the hardest case,
since every one of them passes the sweep, the acceptance policy, the clusters and the build. Some
of the questions nearly repeat others, some are gold questions.

First the sweep looks at what came in, as the review page does each minute; that is timed by itself,
since it is not waited for. Then the command that a retrain runs, `python -m
curate.datasets.build`, in a process of its own: on everything, and again after 1,000 new answers
with corrections were swept. It sweeps, too, places questions in clusters, and freezes the dataset.
Then the review page is started on the same ledger, and its queue is asked for over HTTP by somebody
who is logged in.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.curate_page import page_times
from benchmarks.curate_rows import add_votes, fill, write_gold
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import ROOT, fresh_folder
from curate.tagging.sweep import sweep
from ledger.settings import load
from ledger.store import Store

TAGGED = 0.02
NEW = 1000
_VOTES = 500
_PART = re.compile(r"(sweep|clusters|dataset) ([0-9.]+) s")


class Built(NamedTuple):
    """One run of the command: seconds in all and by part, its largest memory, its pairs."""

    seconds: float
    parts: dict[str, float]
    peak_gb: float
    pairs: int


def write_config(folder: Path) -> Path:
    """A configuration in which users are trusted and clusters have room."""
    settings = {
        "var": str(folder / "var"),
        "model": {"name": "base", "path": str(folder / "model")},
        "aliases": {"support": {"gate": {"gold": [str(folder / "gold.jsonl")]}}},
        "ledger": {"url": f"sqlite:///{folder}/var/ledger.db"},
        "privacy": {"key_file": str(folder / "var/keys/subject.key"), "redaction": "high"},
        "curate": {
            "trusted_sources": ["user", "operator"],
            # All of them are to be built: caps would make the work less.
            "acceptance": {"pairs_per_cluster": 1_000_000, "pairs_per_subject": 1000},
        },
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def build(config: Path, run: Path) -> Built:
    """Run the command in a process of its own.

    Raises:
        RuntimeError: it failed; its own words are on the terminal.
    """
    words = [sys.executable, "-m", "curate.datasets.build"]
    words += ["--config", str(config), "--alias", "support", "--run", str(run)]
    said = run.parent / f"{run.name}.txt"
    started = time.perf_counter()
    with open(said, "wb") as handle:
        child = os.posix_spawn(
            sys.executable,
            words,
            dict(os.environ, PYTHONPATH=str(ROOT)),
            file_actions=[(os.POSIX_SPAWN_DUP2, handle.fileno(), 1)],
        )
        _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    output = said.read_text()
    print(output, file=sys.stderr)
    if status:
        raise RuntimeError(f"curate.datasets.build ended with {os.waitstatus_to_exitcode(status)}")
    parts = {name: float(value) for name, value in _PART.findall(output)}
    return Built(seconds, parts, used.ru_maxrss / 2**20, int(output.split()[0]))


def timed_sweep(config: Path, store: Store) -> float:
    """Look at what came in; seconds."""
    started = time.perf_counter()
    sweep(load(config), store)
    return round(time.perf_counter() - started, 2)


def measure(folder: Path, rows: int, new: int) -> dict[str, Any]:
    """Make the ledger, build twice; the numbers."""
    gold = write_gold(folder / "gold.jsonl")
    config = write_config(folder)
    with closing(Store.open(load(config))) as store:
        started = time.perf_counter()
        made = fill(store, 0, rows, int(rows * TAGGED), gold, a_month=rows)
        add_votes(store, min(_VOTES, rows // 20), rows)
        print(f"{rows} rows in {time.perf_counter() - started:.0f} s: {made}", file=sys.stderr)
        swept = timed_sweep(config, store)
        first = build(config, folder / "first")
        fill(store, rows, new, new, gold, a_month=rows)
        swept_again = timed_sweep(config, store)
        second = build(config, folder / "second")
        pages = page_times(config, store)
    return {
        "rows": rows,
        "corrections": made.corrected,
        "pairs": first.pairs,
        "sweep_seconds": swept,
        "build_seconds": round(first.seconds, 2),
        **{f"build_{name}_seconds": value for name, value in first.parts.items()},
        "incremental_rows": new,
        "incremental_pairs": second.pairs - first.pairs,
        "incremental_sweep_seconds": swept_again,
        "incremental_seconds": round(second.seconds, 2),
        **{f"incremental_build_{name}_seconds": value for name, value in second.parts.items()},
        "peak_gb": round(max(first.peak_gb, second.peak_gb), 3),
        **pages,
    }


def table_of(numbers: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    parts = ("clusters", "dataset")
    rows = [
        ("rows, corrections", f"{numbers['rows']:,}, {numbers['corrections']:,}"),
        ("pairs", f"{numbers['pairs']:,}"),
        ("sweep of all rows, s", numbers["sweep_seconds"]),
        ("the first build, s", numbers["build_seconds"]),
        *((f"… {name}, s", numbers.get(f"build_{name}_seconds", "")) for name in parts),
        (
            f"sweep of {numbers['incremental_rows']:,} new rows, s",
            numbers["incremental_sweep_seconds"],
        ),
        ("the build after it, s", numbers["incremental_seconds"]),
        *((f"… {name}, s", numbers.get(f"incremental_build_{name}_seconds", "")) for name in parts),
        ("largest memory, GB", numbers["peak_gb"]),
        ("rows in the queue", numbers["queue_rows"]),
        ("queue page, p50, ms", numbers["queue_page_ms"]),
        ("queue page, slowest, ms", numbers["queue_page_max_ms"]),
    ]
    return markdown(("", "measured"), rows)


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.curate", __doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="answers in the ledger")
    arguments.add_argument("--new", type=int, default=NEW, help="answers before the second build")
    given = arguments.parse_args()
    numbers = measure(fresh_folder("curate"), given.rows, given.new)
    finish(
        given,
        name="curate",
        title="Building the next dataset",
        numbers=numbers,
        table=table_of(numbers),
        notes=f"A ledger of {given.rows:,} sealed answers in SQLite; {TAGGED:.0%} have a user's "
        "correction. The sweep takes all of them over (tags, acceptance policy); on a running "
        "system it does so each minute and nobody waits for it. The build is the command of a "
        "retrain, with Python's start, in a process of its own: it sweeps what is left, finds "
        f"clusters, chooses and freezes; the second one after {given.new:,} more answers, each "
        "with a correction.",
        command="python -m benchmarks.curate --results",
    )


if __name__ == "__main__":
    main()
