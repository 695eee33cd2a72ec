"""Leases: one at a time on any machine, taken over from the dead, and a loss that is noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from at_once import at_once
from servers import wait_for

from ledger import clock
from ledger.database import tables
from ledger.errors import LeaseLost, UsageError
from ledger.place import Place, here
from ledger.settings import Settings
from ledger.store import Store

NAME, WHAT = "retrain/support", "retrain of support"


@contextmanager
def later(seconds: float) -> Iterator[None]:
    moment = clock.now() + seconds
    with clock.at(lambda: moment):
        yield


def test_the_second_is_told_who_has_it(store: Store) -> None:
    with store.lease(NAME, what=WHAT) as lease:
        with pytest.raises(UsageError) as caught, store.lease(NAME, what=WHAT):
            pass
        said = str(caught.value)
        assert f"another {WHAT} is running: process {here().pid} on {here().host}" in said
        assert "since 20" in said
        assert "Wait until it is done" in said
        lease.still_mine()
        [held] = store.leases_held()
        assert (held.name, held.what, held.token) == (NAME, WHAT, lease.token)
        with store.lease("retrain/billing", what="another alias"):
            pass
    assert store.leases_held() == []
    with store.lease(NAME, what=WHAT):
        pass


def test_one_that_is_not_renewed_ends_and_its_holder_learns_it(store: Store) -> None:
    with store.lease(NAME, what=WHAT, holder="elsewhere") as lease:
        with later(59), pytest.raises(UsageError, match="elsewhere"):
            store.take_lease(NAME, WHAT)
        with later(61):
            assert store.lease_held(NAME) is None
            lease.still_mine()  # nobody took it: it is renewed
            assert store.lease_held(NAME) is not None
        with later(200):
            token = store.take_lease(NAME, WHAT)
            with pytest.raises(LeaseLost, match=r"process \d+ on"):
                lease.still_mine()
            assert lease.lost.is_set()
    # Its end does not take the lease from the one who has it now.
    with later(200):
        held = store.lease_held(NAME)
    assert held is not None
    assert held.token == token


def test_it_is_renewed_while_the_block_runs(store: Store) -> None:
    with store.lease(NAME, what=WHAT, holder="elsewhere", seconds=0.6):
        first = store.lease_held(NAME)
        assert first is not None
        renewed = wait_for(
            lambda: (held := store.lease_held(NAME)) and held.until > first.until and held,
            "a renewal",
        )
        assert (renewed.token, renewed.since) == (first.token, first.since)


def test_the_heart_notices_that_it_was_taken(store: Store) -> None:
    with store.lease(NAME, what=WHAT, holder="elsewhere", seconds=0.3) as lease:
        with store.transaction() as connection:
            connection.execute(sa.update(tables.leases).values(token="theirs"))
        assert lease.lost.wait(10)
        with pytest.raises(LeaseLost):
            lease.still_mine()


HOLDING = (
    "import sys, time; from pathlib import Path; from ledger.settings import load;"
    "from ledger.store import Store; store = Store.open(load(sys.argv[1]));"
    f"store.take_lease({NAME!r}, {WHAT!r}, None, 3600); print('held', flush=True); time.sleep(600)"
)


def test_a_killed_holder_of_this_machine_is_not_waited_for(store: Store, config: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(config)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"process {holder.pid} on"):
        store.take_lease(NAME, WHAT)
    holder.send_signal(signal.SIGKILL)
    # Nobody has asked for its exit code yet, as in a container whose first process never does.
    wait_for(lambda: store.lease_held(NAME) is None, "the end of a dead process's lease")
    store.take_lease(NAME, WHAT)
    holder.wait()
    holder.stdout.close()


def test_a_process_id_means_nothing_elsewhere() -> None:
    gone = Place("box", 2**22 + 1, here().space, 1)
    assert gone.is_gone()
    assert not gone._replace(space="another boot/pid:[1]").is_gone()
    assert not gone._replace(space="").is_gone()
    assert not here().is_gone()
    assert here()._replace(started=1).is_gone()  # the id was given to another process
    assert Place.from_text(here().to_text()) == here()
    assert Place.from_text("ana") is None


TAKING = (
    "import sys; from ledger.errors import UsageError; from ledger.settings import load;"
    "from ledger.store import Store; store = Store.open(load(sys.argv[1]));\n"
    "sys.stdin.readline()\n"
    "try:\n"
    f"    store.take_lease({NAME!r}, {WHAT!r}, 'one of them'); print('mine', end='')\n"
    "except UsageError as error:\n"
    "    print('told', end=''); assert 'one of them' in str(error)\n"
)


def test_of_several_at_once_one_wins(store: Store, config: Path) -> None:
    assert sorted(at_once(TAKING, str(config), processes=4)) == ["mine", "told", "told", "told"]


def test_threads_at_once(settings: Settings, store: Store) -> None:
    told: list[str] = []
    start = threading.Barrier(4)

    def take() -> None:
        start.wait()
        try:
            store.take_lease(NAME, WHAT)
            told.append("mine")
        except UsageError:
            told.append("told")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["mine", "told", "told", "told"]
