"""One turn of the wheel on the tiny model and a real server: killed, resumed, judged, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Ours

from curate.judging.decisions import correct
from ledger.files import read_json, write_jsonl

ROOT = Path(__file__).parent.parent
QUEUES = ("billing", "delivery", "returns", "accounts")


def question(number: int, queue: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Message {number} is about {queue}. Which queue?"}]


@pytest.fixture(scope="module", autouse=True)
def corrected(ours: Ours) -> None:
    """Users ask and correct every answer; some also ask a gold question."""
    for number in range(32):
        queue = QUEUES[number % 4]
        answer = ours.client.chat.completions.create(
            model="support", messages=question(number, queue), max_tokens=4, temperature=0
        )
        body = {"id": answer.id, "correction": queue, "user": f"user-{number}"}
        assert ours.http.post("/feedback", json=body).status_code == 200


def set_gold(ours: Ours, check: Callable[[str], dict[str, str]]) -> None:
    """Write the gold set: for each question, what is right, given what the live version says."""
    [file] = ours.settings.aliases["support"].gate.gold
    rows = []
    for number in range(100, 124):
        messages = question(number, QUEUES[number % 4])
        answer = ours.client.chat.completions.create(
            model="support", messages=messages, max_tokens=4, temperature=0
        )
        said = answer.choices[0].message.content or ""
        checks = [check(said)]
        rows.append(
            {"id": f"gold-{number}", "messages": messages, "checks": checks, "max_tokens": 4}
        )
    write_jsonl(file, rows)


def start(ours: Ours, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "flywheel.cli", "-c", str(ours.config), "retrain", "support"]
    return subprocess.Popen(
        [*words, "--url", ours.url, *more],
        cwd=ROOT,
        env={**os.environ, "FLYWHEEL_API_KEYS": "test-key-of-the-tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def runs(ours: Ours) -> list[Path]:
    return sorted(file.parent for file in ours.settings.runs.glob("*/run.json"))


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
    ours.follow(ours.deployments.promote("support", 0, who="test", why="tidy up"))


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
