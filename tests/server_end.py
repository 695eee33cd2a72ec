"""A server's end of the log without a server, to be killed: sends rows and feedback for ever.

    python tests/server_end.py CONFIG JOURNAL NAME

Every row and feedback that was acknowledged is a line in JOURNAL, written at once; so are the
writers' process ids.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from writers import record

from ledger.writing.channel import Channel, WriterUnavailable


async def main(config: Path, journal: Path, name: str) -> None:
    out = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(word: str, what: object) -> None:
        os.write(out, f"{word} {what}\n".encode())

    channel = Channel(config, 1 << 25)
    channel.start(asyncio.get_running_loop())
    sent: list[str] = []  # what was handed over and is not noted yet, in order
    noted = writer = 0

    async def give_feedback(row_id: str) -> None:
        try:
            given = {"id": row_id, "rating": "up"}
            status, said = await channel.request("feedback", given, seconds=15)
        except WriterUnavailable:
            return
        if status == 200:
            note("feedback", said["id"])

    waiting: set[asyncio.Task[None]] = set()
    number = 0
    while True:
        number += 1
        row_id = f"{name}-{number}"
        if channel.send(["row", record(row_id)]):
            sent.append(row_id)
        if number % 20 == 0:
            sent.append("")  # feedback is a record too
            task = asyncio.create_task(give_feedback(row_id))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(0.002)
        if channel.writer_pid != writer:
            writer = channel.writer_pid or 0
            note("writer", writer)
        assert channel.dropped == 0
        while noted < channel.acknowledged:
            if sent[noted]:
                note("row", sent[noted])
            noted += 1


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
