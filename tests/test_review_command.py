"""`flywheel review` as a real process, people by command, and the sweep behind the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest
from click.testing import CliRunner
from curate_rows import add_feedback, add_row

from curate.review import serving
from curate.review.keys import People, keys_file
from flywheel.commands.console import Context
from flywheel.commands.review import review
from flywheel.running import free_port

pytestmark = pytest.mark.sqlite


@pytest.fixture
def run(config):
    def command(*arguments):
        return CliRunner().invoke(review, arguments, obj=Context(str(config)))

    return command


def test_the_page_starts_says_its_key_once_and_ends(config, settings, store):
    add_row(store, "a", "Where is my parcel?")
    add_feedback(store, "a", correction="delivery", rating="down")
    port = free_port()
    # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "flywheel.cli"]
    command += ["-c", str(config), "review", "support"]
    environment = {**os.environ, "FLYWHEEL_USER": "ada", "PYTHONUNBUFFERED": "1"}

    def start():
        return subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, env=environment
        )

    with start() as process:
        assert process.stdout is not None
        first, address = process.stdout.readline(), process.stdout.readline()
        found = re.fullmatch(r"Key of ada, shown this once: (\S+)\n", first)
        assert found, first
        assert f"http://127.0.0.1:{port}/support/queue" in address
        transport = httpx.HTTPTransport(retries=5)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, transport=transport, follow_redirects=True) as client:
            data = {"key": found[1], "to": "/support/queue"}
            page = client.post("/login", data=data)
        assert "Where is my parcel?" in page.text, "what is new was swept into the queue"
        assert "uvicorn" not in str(page.headers)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout.read() == ""
    with start() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Review page: "), "the key is not shown again"
        process.terminate()
        assert process.wait(20) == 143


def test_a_page_for_other_machines_is_warned_of(settings, store, monkeypatch):
    import uvicorn

    said: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: None)
    serving.serve(settings, store, "support", operator="ada", say=said.append, host="0.0.0.0")
    assert [line.split(":")[0] for line in said] == ["Key of ada, shown this once", "Warning",
                                                     "Review page"]  # fmt: skip
    assert "TLS" in said[1]


def test_the_queue_is_kept_fresh(settings, store):
    add_row(store, "a")
    add_feedback(store, "a", rating="down")
    with serving.sweeping(settings, store, every=0.01):
        end = time.monotonic() + 10
        while not store.waiting("support"):
            assert time.monotonic() < end, "nothing was swept"
    assert sum(store.waiting("support").values()) == 1


def test_people_come_and_go_by_command(run, settings):
    assert run("--people").output == "nobody may log in yet\n"
    said = run("--add", "ada", "--role", "operator").output
    first, key = said.splitlines()
    assert first == "ada is an operator. The key, shown this once:"
    people = People(keys_file(settings))
    assert people.with_key(key).role == "operator"
    run("--add", "ben")
    assert run("--people").output.split() == ["ada", "operator", "ben", "reviewer"]
    assert '"role": "reviewer"' in run("--people", "--json").output
    run("--remove", "ada")
    assert [one.name for one in people.all()] == ["ben"]


def test_the_queue_as_a_list(run, store):
    assert run("--list").output == "nothing waits\n"
    add_row(store, "a", "Where is my parcel?")
    add_feedback(store, "a", correction="delivery")
    assert "Where is my parcel?" in run("--list").output
    assert '"text": "delivery"' in run("--json").output
