"""A time lapse: all processes agree, leases last real seconds, and nobody overlooks it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flywheel.doctor import examine
from ledger import clock
from ledger.errors import ConfigError
from ledger.settings import Settings
from ledger.store import Store

ROOT = Path(__file__).parent.parent
DAY = 86_400.0


@pytest.fixture
def lapse(monkeypatch: pytest.MonkeyPatch) -> clock.Lapse:
    """Ten days ago, and a day a second."""
    start = time.time()
    made = clock.Lapse(start, DAY, start - 10 * DAY)
    monkeypatch.setenv(clock.LAPSE, str(made))
    return made


def test_without_one_time_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(clock.LAPSE, raising=False)
    before = time.time()
    assert before <= clock.now() <= clock.wall() <= time.time()
    assert clock.lapse() is None


def test_all_processes_agree(lapse: clock.Lapse) -> None:
    code = "from ledger import clock; print(clock.now(), clock.wall())"
    before = clock.now()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    there, real = map(float, done.stdout.split())
    assert before < there < clock.now()
    assert abs(real - time.time()) < 60
    # Written to milliseconds, which are a minute and a half here.
    assert abs(lapse.real(lapse.shown(real)) - real) < 1e-3
    assert abs(lapse.shown(real) - there) < DAY


def test_a_replacement_goes_before_it(lapse: clock.Lapse) -> None:
    with clock.at(lambda: 7.0):
        assert clock.now() == clock.wall() == 7.0
    assert clock.now() > 7.0


@pytest.mark.parametrize(
    "text", ["1000", "a:b:c", "1:2", "1:2:3:4", "0:0.5:0", "nan:2:0", "0:inf:0", "0:-3:0"]
)
def test_what_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(clock.LAPSE, text)
    with pytest.raises(ConfigError, match=r"START:FACTOR:FIRST") as caught:
        clock.now()
    assert text in caught.value.problem


def test_a_lease_lasts_real_seconds(store: Store, lapse: clock.Lapse) -> None:
    token = store.take_lease("tick/support", "tick of support", "elsewhere", 30)
    first = clock.now()
    while clock.now() < first + 3600:  # an hour in the story, some milliseconds here
        time.sleep(0.01)
    held = store.lease_held("tick/support")
    assert held is not None
    assert held.token == token
    assert abs(held.until - time.time() - 30) < 5


def test_what_is_appended_has_the_storys_time(store: Store, lapse: clock.Lapse) -> None:
    number = store.add_firing("support", ["calendar"], "retrain", {})
    [firing] = store.firings("support")
    assert firing.seq == number
    assert abs(firing.ts - lapse.shown(time.time())) < DAY


def test_nobody_overlooks_it(settings: Settings, config: Path, lapse: clock.Lapse) -> None:
    found = {one.what: one for one in examine(settings, "http://127.0.0.1:9/v1")}
    assert found["clock"].level == "note"
    assert "TIME LAPSE: a minute is 1440 hours here" in found["clock"].said
    words = [sys.executable, "-m", "flywheel.cli", "-c", str(config), "status", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("TIME LAPSE")
