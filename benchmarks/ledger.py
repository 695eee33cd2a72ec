"""How fast answers are logged, and found again: SQLite and PostgreSQL, and what one would use else.

    python -m benchmarks.ledger [--rows 6000] [--query-rows 1000000] [--soak SECONDS] [--json FILE]

Rows of 4 KB are handed to the real writer process through the real channel and go all the way:
redacted at `high`, compressed, sealed with their user's key, committed at each durability level.
Beside it stand a plain JSONL file (`json.dumps`, append, flush) and a Delta Lake table, which
neither redact nor encrypt. PostgreSQL is started by the benchmark where its programs are found,
with fsync on.

`--soak` feeds the writer as fast as it takes rows for so many seconds, and watches its memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import environments
from benchmarks.ledger_queries import query_times
from benchmarks.postgres import Postgres, binaries
from benchmarks.records import records
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import ROOT, fresh_folder
from ledger.settings import load
from ledger.writing.channel import Channel

LEVELS = ("fast", "process", "disk")
DELTA = ROOT / ".venv-delta"
DELTA_NEEDS = "requirements/delta.txt"
_TICK = os.sysconf("SC_CLK_TCK")
_WARM = 200
_PACED = 2000
_BACKLOG = 8 << 20  # bytes that wait for the writer in a soak


def write_config(folder: Path, url: str, durability: str) -> Path:
    """A configuration with everything on, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "var": str(folder / "var"),
        "model": {"name": "base", "path": str(folder / "model")},
        "aliases": {"support": {}},
        "ledger": {"url": url, "durability": durability},
        "privacy": {"key_file": str(folder / "var/keys/subject.key"), "redaction": "high"},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


class Feeder:
    """A channel with its writer process, on the running loop."""

    def __init__(self, config: Path) -> None:
        keep = load(config).ledger.durability != "fast"
        self.channel = Channel(config, 1 << 30, keep=keep)
        self.sent = 0

    async def start(self) -> None:
        """Start the writer and let it write a few rows."""
        self.channel.start(asyncio.get_running_loop())
        await self.feed(records(_WARM, seed=1, personal=True))

    async def feed(self, rows: list[dict[str, Any]]) -> float:
        """Hand rows over as fast as they are taken; seconds until all are committed."""
        started = time.perf_counter()
        for number, row in enumerate(rows):
            if not self.channel.send(["row", row]):
                raise RuntimeError("a row was dropped")
            if number % 32 == 31:
                await asyncio.sleep(0)  # as a server's loop, which also reads
        self.sent += len(rows)
        while self.channel.numbers.rows < self.sent:
            await asyncio.sleep(0.002)
        return time.perf_counter() - started

    async def paced(self, rows: list[dict[str, Any]], seconds_apart: float) -> list[float]:
        """Hand rows over at a steady pace; the milliseconds that each hand-over took."""
        taken = []
        for row in rows:
            started = time.perf_counter()
            self.channel.send(["row", row])
            taken.append((time.perf_counter() - started) * 1e3)
            await asyncio.sleep(seconds_apart)
        self.sent += len(rows)
        while self.channel.numbers.rows < self.sent:
            await asyncio.sleep(0.01)
        return sorted(taken)

    def writer_seconds(self) -> float:
        """Processor time of the writer so far."""
        words = Path(f"/proc/{self.channel.writer_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICK

    def writer_mib(self) -> float:
        """Memory of the writer."""
        words = Path(f"/proc/{self.channel.writer_pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def writing(config: Path, count: int) -> dict[str, float]:
    """Rows a second with and without something to hide, and the time of a hand-over."""
    feeder = Feeder(config)
    await feeder.start()
    numbers: dict[str, float] = {}
    try:
        for name, personal in (("", True), ("_clean", False)):
            rows = records(count, seed=2 + personal, personal=personal)
            before = feeder.writer_seconds()
            numbers[f"rows_per_second{name}"] = count / await feeder.feed(rows)
            used = feeder.writer_seconds() - before
            numbers[f"rows_per_core_second{name}"] = count / max(used, 1e-9)
        paced = await feeder.paced(records(_PACED, seed=9, personal=True), 0.002)
        numbers["handover_p50_ms"] = paced[len(paced) // 2]
        numbers["handover_p99_ms"] = paced[int(len(paced) * 0.99)]
    finally:
        feeder.channel.close()
    if feeder.channel.dropped or feeder.channel.numbers.redaction_failures:
        raise RuntimeError("rows were dropped, or lost their text")
    return numbers


async def soak(config: Path, seconds: float) -> dict[str, float]:
    """Full load for a while; the writer's memory after a minute (or a fifth) and at the end."""
    feeder = Feeder(config)
    await feeder.start()
    settled, early = min(60.0, seconds / 5), 0.0
    most, number, started = 0.0, 0, time.monotonic()
    pool = records(2000, seed=5, personal=True)
    try:
        while (now := time.monotonic() - started) < seconds:
            if feeder.channel.backlog_bytes > _BACKLOG:
                await asyncio.sleep(0.01)
                continue
            for row in pool[number % 2000 : number % 2000 + 50]:
                number += 1
                name = f"chatcmpl-soak-{number}"
                feeder.channel.send(["row", row | {"request_id": name, "ts": time.time()}])
            await asyncio.sleep(0)
            mib = feeder.writer_mib()
            if now > settled:
                early = early or mib
                most = max(most, mib)
        last = feeder.writer_mib()
        done = feeder.channel.numbers.rows
    finally:
        feeder.channel.close(120)
    return {
        "soak_seconds": round(seconds),
        "soak_rows_per_second": round(done / seconds, 1),
        "soak_mib_early": round(early, 1),
        "soak_mib_last": round(last, 1),
        "soak_mib_most": round(most, 1),
    }


def jsonl(folder: Path, rows: list[dict[str, Any]], *, fsync: bool) -> float:
    """Rows a second into a plain file, each flushed; with fsync every 64 rows where asked."""
    started = time.perf_counter()
    with open(folder / f"rows-{fsync}.jsonl", "w", encoding="utf-8") as handle:
        for number, row in enumerate(rows, 1):
            handle.write(json.dumps(row) + "\n")
            handle.flush()
            if fsync and number % 64 == 0:
                os.fsync(handle.fileno())
    return len(rows) / (time.perf_counter() - started)


def delta(folder: Path, rows: list[dict[str, Any]]) -> float | None:
    """Rows a second into a Delta Lake table, 256 an append; None where it is not installed."""
    python = DELTA / "bin" / "python"
    if not python.is_file():
        return None
    source = folder / "delta-rows.json"
    flat = [row | {"body": json.dumps(row["body"]), "session": ""} for row in rows]
    source.write_text(json.dumps(flat))
    code = (
        "import json, sys, time, pyarrow as pa\n"
        "from deltalake import write_deltalake\n"
        "rows = json.load(open(sys.argv[1]))\n"
        "parts = [rows[i:i + 256] for i in range(0, len(rows), 256)]\n"
        "write_deltalake(sys.argv[2], pa.Table.from_pylist(parts[0]))\n"
        "start = time.perf_counter()\n"
        "for part in parts[1:]:\n"
        "    write_deltalake(sys.argv[2], pa.Table.from_pylist(part), mode='append')\n"
        "print((len(rows) - len(parts[0])) / (time.perf_counter() - start))\n"
    )
    command = [str(python), "-c", code, str(source), str(folder / "delta")]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@contextmanager
def ledgers(folder: Path) -> Iterator[dict[str, Any]]:
    """For each kind of database a function that makes the URL of a new ledger."""
    made: dict[str, Any] = {"": lambda name: f"sqlite:///{folder}/{name}/var/ledger.db"}
    if binaries() is None:
        print("No PostgreSQL here, so none is measured.", file=sys.stderr)
        yield made
        return
    server = Postgres(
        fsync="on", autovacuum="on", shared_buffers="512MB", max_wal_size="4GB"
    ).start()
    made["postgresql_"] = lambda name: server.url(server.new_database())
    try:
        yield made
    finally:
        server.remove()


def bytes_per_row(url: str, folder: Path) -> float:
    """Size of a ledger's database over its rows."""
    import sqlalchemy as sa

    from ledger.database.engine import open_engine

    engine = open_engine(url, lock_seconds=10)
    with engine.connect() as connection:
        count = connection.scalar(sa.text("SELECT count(*) FROM interactions"))
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            size = (folder / "var/ledger.db").stat().st_size
        else:
            size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    engine.dispose()
    return float(size) / float(count or 1)


def measure(folder: Path, rows: int, query_rows: int, soak_seconds: float) -> dict[str, Any]:
    """All of it; returns the numbers."""
    numbers: dict[str, Any] = {"rows": rows}
    with ledgers(folder) as kinds:
        for prefix, new in kinds.items():
            for level in LEVELS:
                name = f"{prefix or 'sqlite_'}{level}"
                url = new(name)
                config = write_config(folder / name, url, level)
                found = asyncio.run(writing(config, rows))
                print(f"{name}: {found['rows_per_second']:.0f} rows/s", file=sys.stderr)
                numbers[f"{prefix}rows_per_second_{level}"] = round(found["rows_per_second"])
                for key in ("rows_per_second_clean", "rows_per_core_second"):
                    numbers[f"{prefix}{key}_{level}"] = round(found[key])
                numbers[f"{prefix}rows_per_core_second_clean_{level}"] = round(
                    found["rows_per_core_second_clean"]
                )
                if level == "process":
                    for key in ("handover_p50_ms", "handover_p99_ms"):
                        numbers[f"{prefix}{key}"] = round(found[key], 4)
                    size = bytes_per_row(url, folder / name)
                    numbers[f"{prefix}bytes_per_row"] = round(size)
            if query_rows:
                name = f"{prefix or 'sqlite_'}queries"
                config = write_config(folder / name, new(name), "fast")
                for key, value in query_times(load(config), query_rows).items():
                    numbers[f"{prefix}{key}"] = value
                print(f"{name}: {numbers[f'{prefix}tag_day_query_ms']} ms", file=sys.stderr)
        sample = records(rows, seed=3, personal=True)
        numbers["rows_per_second_jsonl"] = round(jsonl(folder, sample, fsync=False))
        numbers["rows_per_second_jsonl_fsync"] = round(jsonl(folder, sample, fsync=True))
        numbers["bytes_per_row_jsonl"] = round((folder / "rows-False.jsonl").stat().st_size / rows)
        found_delta = delta(folder, sample)
        numbers["rows_per_second_delta"] = None if found_delta is None else round(found_delta)
        if soak_seconds:
            config = write_config(folder / "soak", kinds[""]("soak"), "process")
            numbers |= asyncio.run(soak(config, soak_seconds))
    numbers["query_rows"] = query_rows
    return numbers


def table_of(numbers: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    both = [prefix for prefix in ("", "postgresql_") if f"{prefix}rows_per_second_fast" in numbers]

    def row(words: str, key: str) -> tuple[str, ...]:
        return (words, *(str(numbers.get(f"{prefix}{key}", "")) for prefix in both))

    lines = []
    for level in LEVELS:
        lines.append(row(f"rows/s at `{level}`", f"rows_per_second_{level}"))
        lines.append(row("… a second of the writer's core", f"rows_per_core_second_{level}"))
        lines.append(row("… nothing to hide", f"rows_per_second_clean_{level}"))
        lines.append(
            row("… nothing to hide, a second of its core", f"rows_per_core_second_clean_{level}")
        )
    lines += [
        row("hand-over on the event loop, p50, ms", "handover_p50_ms"),
        row("hand-over on the event loop, p99, ms", "handover_p99_ms"),
        row("bytes a row", "bytes_per_row"),
    ]
    if numbers["query_rows"]:
        lines += [
            row("rows of a tag and a day, ms", "tag_day_query_ms"),
            row("rows of a version and an hour, ms", "version_hour_query_ms"),
            row("newest 50 of a tag with their text, ms", "tag_newest_50_ms"),
        ]
    made = markdown(("", *("SQLite", "PostgreSQL")[: len(both)]), lines)
    beside = [
        ("JSONL, flushed", numbers["rows_per_second_jsonl"]),
        ("JSONL, fsync every 64", numbers["rows_per_second_jsonl_fsync"]),
        ("Delta Lake, 256 an append", numbers["rows_per_second_delta"] or "not installed"),
    ]
    made += "\n\n" + markdown(("neither redacted nor encrypted", "rows/s"), beside)
    if "soak_seconds" in numbers:
        soaked = [(key.removeprefix("soak_"), numbers[key]) for key in numbers if "soak_" in key]
        made += "\n\n" + markdown(("full load on SQLite at `process`", ""), soaked)
    return made


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.ledger", __doc__)
    arguments.add_argument("--rows", type=int, default=6000, help="rows of 4 KB a measurement")
    arguments.add_argument("--query-rows", type=int, default=1_000_000, help="0 leaves it out")
    arguments.add_argument("--soak", type=float, default=0, metavar="SECONDS")
    arguments.add_argument(
        "--make-delta", action="store_true", help=f"make {DELTA.name} first where it is absent"
    )
    given = arguments.parse_args()
    if given.make_delta and not DELTA.is_dir():
        environments.make(DELTA, DELTA_NEEDS)
    numbers = measure(fresh_folder("ledger"), given.rows, given.query_rows, given.soak)
    finish(
        given,
        name="ledger",
        title="Logging answers, and finding them again",
        numbers=numbers,
        table=table_of(numbers),
        notes=f"{given.rows} rows of 4 KB of text each, redacted at `high` (about nine things to "
        "hide a row, but for the lines that say nothing), compressed and sealed, through the "
        "channel and the writer process. The sender shares the machine's cores with the writer; "
        "a second of the writer's core counts its processor time alone. Hand-overs at 500 a "
        f"second. Queries on {given.query_rows:,} rows of 30 days, 2 % of them tagged, medians of "
        "9, warm.",
        command=f"python -m benchmarks.ledger --rows {given.rows} --query-rows "
        f"{given.query_rows}" + (f" --soak {given.soak:g}" if given.soak else ""),
    )


if __name__ == "__main__":
    main()
