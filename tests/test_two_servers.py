"""Two vLLM servers on one PostgreSQL ledger and one registry, behind HAProxy as one address."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from postgres import Postgres
from servers import ENVIRONMENT, KEY, VLLM, Ours, wait_for
from tiny import tiny_settings, write_config

from benchmarks.adapters import publish_random_adapter
from flywheel.running import RunningServer, free_port
from ledger.deployments import Deployments
from ledger.settings import Settings
from ledger.store import Store
from serve.routing import route

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
CONFIG = Path(__file__).resolve().parents[1] / "deploy/haproxy.cfg"
QUESTION = "Where does it go?"

pytestmark = pytest.mark.slow


@dataclass
class Pair:
    """Both servers, and the address in front of them."""

    settings: Settings
    servers: list[Ours]
    balancer: httpx.Client
    client: openai.OpenAI

    @property
    def deployments(self) -> Deployments:
        return self.servers[0].deployments

    def follow(self, change: Any) -> None:
        """Both do what an event says within a second."""
        started = time.monotonic()
        for server in self.servers:
            server.follow(change)
        assert time.monotonic() - started < 1.0

    def ask(self, user: str, client: openai.OpenAI | None = None, model: str = "support") -> Any:
        return (client or self.client).chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=4,
            user=user,
        )

    def warm_up(self, model: str) -> None:
        """The first answer of a model takes seconds: both at once."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda server: self.ask("warm", server.client, model), self.servers))

    def served_by(self) -> list[float]:
        """How many answers each server has given."""
        return [_answers(server) for server in self.servers]


def _answers(server: Ours) -> float:
    metrics = httpx.get(server.url.removesuffix("/v1") + "/metrics", timeout=10).text
    name = "vllm:request_success_total{"
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def pair(
    tiny_home: tuple[Settings, Path, Path],
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    if HAPROXY is None:
        remedy = "install Debian's package haproxy"
        if os.environ.get("FLYWHEEL_TEST_HAPROXY") == "required":
            pytest.fail(f"FLYWHEEL_TEST_HAPROXY=required, and there is none: {remedy}")
        pytest.skip(f"no HAProxy here: {remedy}")
    home = tmp_path_factory.mktemp("two")
    model = tiny_home[2]
    url = postgres.new_ledger()
    settings = tiny_settings(
        model,
        home / "var",
        serve={"vllm": VLLM, "env": ENVIRONMENT, "max_lora_rank": 8},
        ledger={"url": url},
        privacy={
            "key_file": str(home / "var/keys/subject.key"),
            "master_key_file": str(home / "var/keys/master.key"),
        },
    )
    config = write_config(settings, home / "config.yaml")
    running = [
        RunningServer.flywheel(config, free_port(), home / f"{name}.log", FLYWHEEL_API_KEYS=KEY)
        for name in ("one", "two")
    ]
    with ExitStack() as stack:
        for server in running:
            stack.callback(server.stop)
        with ThreadPoolExecutor(2) as pool:  # mostly imports: at once takes little longer
            list(pool.map(lambda server: server.start(), running))
        bind = f"127.0.0.1:{free_port()}"
        balancer = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(CONFIG)],
            env={
                "FLYWHEEL_BIND": bind,
                "FLYWHEEL_ONE": f"127.0.0.1:{running[0].port}",
                "FLYWHEEL_TWO": f"127.0.0.1:{running[1].port}",
            },
            stdout=stack.enter_context(open(home / "haproxy.log", "wb")),
            stderr=subprocess.STDOUT,
        )
        stack.callback(balancer.wait)
        stack.callback(balancer.terminate)
        servers = [
            Ours(settings, config, model, server, Store.open(settings)) for server in running
        ]
        for server in servers:
            stack.callback(server.close)
        headers = {"Authorization": f"Bearer {KEY}"}
        http = stack.enter_context(httpx.Client(base_url=f"http://{bind}/v1", headers=headers))
        client = stack.enter_context(
            openai.OpenAI(base_url=f"http://{bind}/v1", api_key=KEY, max_retries=0, timeout=60)
        )
        wait_for(lambda: _up(f"http://{bind}/health"), "the load balancer")
        found = Pair(settings, servers, http, client)
        found.warm_up("tiny")
        yield found
    postgres.drop(url)


def _up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_both_serve_one_alias_and_log_into_one_place(pair: Pair) -> None:
    before = pair.served_by()
    answers = [pair.ask(f"user-{number}") for number in range(12)]
    gained = [after - then for after, then in zip(pair.served_by(), before, strict=True)]
    assert sum(gained) == 12
    assert min(gained) > 0, "the load balancer never asked one of them"
    for answer in answers:
        row = pair.servers[0].row(answer.id)
        assert (row.version, row.alias) == ("tiny", "support")
    subjects = {pair.servers[1].row(answer.id).subject for answer in answers}
    assert len(subjects) == 12  # hashed with one key


def test_a_server_needs_few_connections(pair: Pair, postgres: Postgres) -> None:
    name = pair.settings.ledger.url.rpartition("/")[2]
    query = "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = "
    found = dict(postgres.run(f"{query}'{name}' GROUP BY application_name"))
    assert set(found) == {"flywheel"}
    assert found["flywheel"] <= 2 * 4 + len(pair.servers)  # the last are this test's own


def test_the_same_user_is_the_same_subject_on_both(pair: Pair) -> None:
    answers = [pair.ask("somebody", server.client) for server in pair.servers]
    first, second = (pair.servers[0].row(answer.id).subject for answer in answers)
    assert first is not None
    assert first == second


def test_feedback_to_the_other_server_finds_its_row(pair: Pair) -> None:
    one, two = pair.servers
    answer = pair.ask("ada", one.client)
    sent = {"id": answer.id, "rating": "down", "correction": "billing", "user": "ada"}
    taken = two.http.post("/feedback", json=sent)
    assert taken.status_code == 200, taken.text
    again = one.http.post("/feedback", json=sent)
    assert again.json()["duplicate"]
    (_, stored) = one.store.feedback(row_ids=[answer.id])[0]
    assert (stored.rating, stored.correction) == ("down", "billing")
    assert stored.subject == one.row(answer.id).subject


def test_both_follow_one_deployment_and_split_alike(pair: Pair) -> None:
    version = publish_random_adapter(pair.settings, "support", pair.servers[0].model, 1)
    number = int(version.name.rpartition("@v")[2])
    pair.deployments.candidate("support", number, who="test", why="")
    for server in pair.servers:
        server.server.wait_for_candidate("support", version.name)
    pair.warm_up(version.name)
    change = pair.deployments.share("support", number, 50, who="test", why="")
    pair.follow(change)
    seen = set()
    for user in (f"person-{n}" for n in range(10)):
        wanted = version.name if route(change.after, user).version else "tiny"
        seen.add(wanted)
        clients = [pair.client, *(server.client for server in pair.servers)]
        assert {pair.ask(user, client).model for client in clients} == {wanted}
    assert seen == {"tiny", version.name}
    pair.follow(pair.deployments.promote("support", number, who="test", why=""))
    assert {pair.ask(f"u{n}").model for n in range(6)} == {version.name}
    pair.follow(pair.deployments.rollback("support", who="test", why=""))
    assert {pair.ask(f"u{n}").model for n in range(6)} == {"tiny"}


def test_what_is_for_the_inside_stays_there(pair: Pair) -> None:
    address = str(pair.balancer.base_url).removesuffix("/v1/")
    assert httpx.get(f"{address}/metrics").status_code == 404
    assert httpx.post(f"{address}/invocations", json={}).status_code == 404
    assert httpx.get(f"{address}/v1/models").status_code == 401


def test_when_one_is_killed_the_other_goes_on(pair: Pair) -> None:
    """The last test: from here on there is one."""
    one, two = pair.servers
    last = pair.ask("ada", one.client)
    one.running.kill()
    # Until the load balancer has noticed a request may hit the one that is gone: it is sent to
    # the other, since it was never taken.
    answers = [pair.ask(f"after-{number}") for number in range(10)]
    assert {answer.model for answer in answers} == {"tiny"}
    assert two.row(last.id).version == "tiny"  # its writer outlived it
    for answer in answers:
        assert two.row(answer.id).response is not None
    taken = pair.balancer.post("/feedback", json={"id": last.id, "rating": "up"})
    assert taken.status_code == 200, taken.text
