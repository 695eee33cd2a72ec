"""While a pass runs: its answers are kept in batches, and it says how far it is."""

import asyncio
import io
import random
import time

import pytest
from rich.console import Console

from eval.asking import Bar
from eval.asking.run import _Keeper
from ledger.errors import LedgerError, ServerError


class Kept:
    """A cache that only counts, or fails."""

    def __init__(self, error=None):
        self.count, self.error = 0, error

    def keep(self, answers):
        if self.error:
            raise self.error
        self.count += len(list(answers))


async def keep_and_end(cache, count):
    async with asyncio.timeout(20), _Keeper(cache) as keeper:
        await asyncio.sleep(0.01)  # it waits now
        for _ in range(count):
            keeper.add("k", None, None)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_a_pass_ends_also_when_a_batch_is_full_at_that_moment(count):
    cache = Kept()
    asyncio.run(keep_and_end(cache, count))
    assert cache.count == count


def test_a_pass_ends_whenever_its_last_answer_comes():
    """Cancelled instead of asked to end, one in eight of these waited for ever (Python 3.11)."""
    draw = random.Random(1)

    async def one(count):
        left, cache = iter(range(count)), Kept()

        async def work(keeper):
            for _ in left:
                await asyncio.sleep(draw.choice([0, 0.0003]) * draw.random())
                keeper.add("k", None, None)

        started = time.monotonic()
        async with asyncio.timeout(10), _Keeper(cache) as keeper, asyncio.TaskGroup() as group:
            for _ in range(24):
                group.create_task(work(keeper))
        assert time.monotonic() - started < 10
        assert cache.count == count

    async def all_of_them():
        for _ in range(100):
            await one(draw.randrange(200))

    asyncio.run(all_of_them())


def test_a_ledger_that_cannot_be_written_ends_the_pass():
    with pytest.raises(LedgerError, match="full"):
        asyncio.run(keep_and_end(Kept(LedgerError("the disk is full")), 64))

    async def both():
        async with _Keeper(Kept(LedgerError("the disk is full"))) as keeper:
            keeper.add("k", None, None)
            raise ServerError("gone")

    with pytest.raises(ServerError, match="gone"):
        asyncio.run(both())


# -- how far it is -----------------------------------------------------------------------------


def lines(*updates):
    console = Console(file=io.StringIO(), width=120)
    with Bar(console) as bar:
        for done, total, cached in updates:
            bar.update(done, total, cached)
    return console.file.getvalue().splitlines()


def test_a_log_gets_a_line_at_each_tenth_with_the_rate_and_the_time_left():
    found = lines((0, 40, 0), *((n, 40, 0) for n in range(1, 41)))
    assert len(found) == 10
    assert found[0].startswith("gate: 4 of 40 answers, ")
    assert found[0].endswith(" left")
    assert found[-1] == "gate: 40 of 40 answers"
    assert lines((30, 40, 30))[0] == "gate: 30 of 40 answers are known from earlier gates"
    assert lines((5, 5, 5))[-1] == "gate: 5 of 5 answers"
    assert lines((0, 0, 0)) == []
    # A judge's answers come after the versions', and are counted by themselves.
    assert lines((5, 5, 5), (3, 6, 3))[-1] == "gate: 3 of 6 answers are known from earlier gates"


def test_the_rate_is_of_what_is_asked_now():
    assert Bar.told(30, 40, 20, 5.0) == (30, 40, 20, 2.0, 5.0)
    assert Bar.told(20, 40, 20, 5.0) == (20, 40, 20, None, None)


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bar(console) as bar:
        bar.update(0, 8, 0)
        bar.update(6, 8, 0)
    assert "6/8" in console.file.getvalue()
