"""One turn of the wheel on the tiny model and a real server: killed, resumed, judged, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from retrains import ROOT, correct_some, runs, set_gold, start
from servers import KEY, Ours
from tiny import write_config

from curate.judging.decisions import correct
from flywheel.retrain import folder, retrain, sharing
from flywheel.server import Server
from ledger.errors import ServerError
from ledger.files import read_json
from ledger.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def corrected(ours: Ours) -> None:
    """Users ask and correct every answer; some also ask a gold question."""
    correct_some(ours, range(32))


def other(ours: Ours, tmp_path: Path, **train: object) -> tuple[Settings, Path]:
    """The server's configuration with other settings of training."""
    changed = ours.settings.train.model_copy(update=train)
    settings = ours.settings.model_copy(update={"train": changed})
    return settings, write_config(settings, tmp_path / "other.yaml")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_killed_retrain_resumes_and_what_passes_waits_for_traffic(ours: Ours) -> None:
    # Random weights learn no queue in seconds: here whatever is said is right.
    set_gold(ours, lambda said: {"type": "regex", "value": "(?s).*"})
    first = start(ours)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("step 3/"):
            break
    # A second one at the same time is told who holds the alias.
    second = start(ours)
    said, _ = second.communicate()
    assert second.returncode == 2
    assert "another retrain of support is running" in said
    assert str(first.pid) in said
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()

    again = start(ours)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert "curate   done before" in said
    assert "PASS" in said
    [run] = runs(ours)
    assert read_json(run / "run.json")["verdict"] == "pass"
    [version] = ours.registry.versions("support")[-1:]
    ours.registry.verify(version)
    state = ours.deployments.state("support")
    assert (state.candidate, state.share) == (version.manifest.version, 0)
    assert ours.store.evaluations("support")[version.name].verdict == "pass"
    trained = [json.loads(line) for line in _lines(version.path / "training_data.jsonl")]
    assert len(trained) == read_json(run / "dataset" / "manifest.json")["pairs"] >= 28
    ours.follow(ours.deployments.promote("support", version.manifest.version, who="test", why=""))


def test_a_version_that_is_worse_is_refused_and_goes_away(ours: Ours) -> None:
    live = ours.deployments.state("support").live
    set_gold(ours, lambda said: {"type": "exact", "value": said})  # the live one is always right
    for row in list(ours.store.corrections(decision="accepted").values()):
        # The operator's word holds over the user's: all messages now belong to one queue.
        correct(ours.store, row.row_id, "complaints", "test")
    process = start(ours, "--json")
    said, _ = process.communicate()
    assert process.returncode == 100, said
    state = ours.deployments.state("support")
    assert (state.live, state.candidate) == (live, None)
    events = ours.deployments.events("support")
    assert [event.kind for event in events[-2:]] == ["candidate", "withdraw"]
    assert "fail" in events[-1].why
    if live:
        ours.follow(ours.deployments.promote("support", 0, who="test", why="tidy up"))


def test_a_run_whose_data_cannot_be_trained_on_is_over(ours: Ours, tmp_path: Path) -> None:
    """Its dataset is frozen: resumed, it would be refused whatever is corrected meanwhile."""
    before = runs(ours)
    _, config = other(ours, tmp_path, min_pairs=10_000)
    said, _ = (process := start(ours, config=config)).communicate()
    assert process.returncode == 1, said
    assert "train.min_pairs asks for 10000" in said
    assert "That run is closed." in said
    [run] = sorted({*runs(ours)} - {*before})
    note = read_json(run / "run.json")
    assert note["verdict"] == "closed"
    assert "train.min_pairs asks for 10000" in note["why"]
    assert folder.unfinished(ours.settings, "support") is None
    assert ours.server.paused()["state"] == "serving"


def test_without_a_server_it_says_so_before_it_trains(ours: Ours, tmp_path: Path) -> None:
    before = runs(ours)
    started = time.monotonic()
    words = [sys.executable, "-m", "flywheel.cli", "-c", str(ours.config), "retrain"]
    done = subprocess.run(
        [*words, "--url", "http://127.0.0.1:9/v1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no server answers" in done.stderr
    assert time.monotonic() - started < 20
    assert runs(ours) == before


def test_the_server_stands_back_for_a_training_and_is_there_for_the_gate(
    ours: Ours, tmp_path: Path
) -> None:
    set_gold(ours, lambda said: {"type": "regex", "value": "(?s).*"})
    _, config = other(ours, tmp_path, beside_server="pause")
    seen: list[tuple[str, int]] = []
    done = threading.Event()

    def look() -> None:
        ask = {"model": "support", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        while not done.is_set():
            state = ours.server.paused()["state"]
            seen.append((state, ours.http.post("/chat/completions", json=ask).status_code))
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        said, _ = (process := start(ours, config=config)).communicate()
    finally:
        done.set()
        looking.join()
    assert process.returncode == 0, said
    lines = [line.split()[0] for line in said.splitlines() if line[:1].isalpha()]
    order = [word for word in lines if word in ("curate", "pause", "train", "publish", "load")]
    assert [word for n, word in enumerate(order) if word != order[n - 1] or not n] == [
        *("curate", "pause", "train", "pause", "publish", "load")
    ]
    assert ("paused", 503) in seen
    assert {code for state, code in seen if state == "paused"} <= {503, 200}
    assert {code for _, code in seen} == {200, 503}
    assert seen[-1] == ("serving", 200)
    ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))


# -- on another machine ------------------------------------------------------------------------


def test_on_the_servers_machine_training_elsewhere_is_refused(ours: Ours, tmp_path: Path) -> None:
    before = runs(ours)
    _, config = other(ours, tmp_path, beside_server="elsewhere")
    said, _ = (process := start(ours, config=config)).communicate()
    assert process.returncode == 2
    assert "train.beside_server is elsewhere" in said
    assert "is on this machine" in said
    assert runs(ours) == before
    assert sharing.is_here("http://localhost:1/v1")
    assert sharing.is_here("http://[::1]:1/v1") or not Path("/proc/net/if_inet6").exists()
    assert not sharing.is_here("http://192.0.2.7:8000/v1")
    assert not sharing.is_here("http://no-such-host.invalid:8000/v1")


def test_another_machine_trains_with_runs_of_its_own_and_the_registry_of_all(
    ours: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gold(ours, lambda said: {"type": "regex", "value": "(?s).*"})
    settings, _ = other(ours, tmp_path, beside_server="elsewhere")
    settings = settings.model_copy(
        update={"var": tmp_path / "var", "shared_registry": ours.settings.registry}
    )
    config = write_config(settings, tmp_path / "there.yaml")
    # All addresses of a test are this machine's.
    monkeypatch.setattr(sharing, "is_here", lambda url: False)
    monkeypatch.setenv("FLYWHEEL_API_KEYS", KEY)
    done = retrain(settings, str(config), "support", url=ours.url, say=lambda line: None)
    assert done.verdict == "pass"
    assert done.run.parent == tmp_path / "var/runs"
    assert done.version in [one.name for one in ours.registry.versions("support")]
    assert ours.server.deployments()["aliases"]["support"]["candidate"] == done.version
    ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))


def test_what_the_server_could_never_load_is_not_trained(
    ours: Ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_API_KEYS", KEY)
    started = time.monotonic()
    alone = ours.settings.model_copy(update={"var": tmp_path / "var"})
    with pytest.raises(ServerError, match="has another registry") as caught:
        retrain(alone, "unused", "support", url=ours.url)
    assert "shared_registry" in caught.value.remedy
    assert not list((tmp_path / "var").glob("runs/*"))

    state = ours.deployments.state("support")
    monkeypatch.setattr(sharing, "_FOLLOWS", 0.3)
    ahead = type(state)("support", seq=state.seq + 5)
    with pytest.raises(ServerError, match="did not follow event") as caught:
        sharing.check_shared(ours.settings, ours.server, ahead)
    assert "ledger.url" in caught.value.remedy
    assert time.monotonic() - started < 10


def test_a_server_of_another_version_cannot_pause(ours: Ours, tmp_path: Path) -> None:
    with ours.store.lease("retrain/support", what="retrain of support") as lease:
        settings, _ = other(ours, tmp_path, beside_server="pause")
        away = Server("http://127.0.0.1:9/v1", KEY)
        with (
            pytest.raises(ServerError, match="no server answers"),
            sharing.server_aside(settings, away, lease, print),
        ):
            raise AssertionError("it trains although the server has not paused")
        away.close()
