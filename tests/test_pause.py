"""A server that stands back while a training needs its place, and comes back by itself."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from servers import KEY, VLLM, Ours, wait_for

from benchmarks.adapters import publish_random_adapter
from flywheel.hardware import has_cuda
from flywheel.running import RunningServer, free_port
from flywheel.server import Server
from ledger import gpu
from ledger.clock import now
from ledger.errors import ServerError
from ledger.store import Held
from serve.launch import prepare
from serve.pause import Pause, Traffic

LEASE, WHAT = "retrain/support", "retrain of support"
QUESTION = [{"role": "user", "content": "Which queue is this for?"}]
LONG = 200  # tokens; some tenths of a second
TOO_LONG = 1900  # tokens; still under way when the next request has been read


def ask(ours: Ours, model: str = "support", **more: Any) -> str:
    done = ours.client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=8, **more
    )
    return done.choices[0].message.content or ""


def state(ours: Ours) -> str:
    found: str = ours.server.paused()["state"]
    return found


def pause(ours: Ours, token: str, drain: float = 60.0) -> httpx.Response:
    body = {"lease": LEASE, "token": token, "drain_seconds": drain}
    return ours.http.post("/pause", json=body)


@pytest.fixture(autouse=True)
def serving_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves the server as it was."""
    yield
    if "ours" in request.fixturenames:
        ours = request.getfixturevalue("ours")
        wait_for(lambda: state(ours) == "serving", "the server's return", 30)


class Stream:
    """A long answer, or several to one request, read in a thread."""

    def __init__(self, ours: Ours, length: int = LONG, choices: int = 1) -> None:
        self.ids: set[str] = set()
        self.length, self.choices = length, choices
        self.tokens, self.began = 0, threading.Event()
        self.finished: set[str] = set()
        self._ours = ours
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        assert self.began.wait(30)

    def _read(self) -> None:
        chunks = self._ours.client.chat.completions.create(
            model="support",
            messages=QUESTION,
            temperature=0.5,
            max_tokens=self.length,
            n=self.choices,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        for chunk in chunks:
            self.began.set()
            self.ids.add(chunk.id)
            if chunk.usage is not None:
                self.tokens = chunk.usage.completion_tokens
            self.finished |= {c.finish_reason for c in chunk.choices if c.finish_reason}


def test_what_is_under_way_ends_and_what_comes_is_told_when_to_come_back(ours: Ours) -> None:
    before, refused = ask(ours), ours.server.numbers()["refused_while_paused"]
    with ours.store.lease(LEASE, what=WHAT) as lease:
        stream = Stream(ours)
        answer = pause(ours, lease.token)
        assert (answer.status_code, answer.json()["state"]) == (202, "draining")
        assert str(ours.store.leases_held()[0].who) == answer.json()["holder"]
        chat = {"model": "support", "messages": QUESTION, "max_tokens": 4}
        told = ours.http.post("/chat/completions", json=chat)
        assert told.status_code == 503
        assert told.headers["Retry-After"] == "15"
        error = told.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == 503
        assert "paused" in error["message"]
        stream.thread.join()
        assert (stream.finished, stream.tokens) == ({"length"}, LONG)
        wait_for(lambda: state(ours) == "paused", "the pause", 30)

        with pytest.raises(openai.InternalServerError, match="paused"):
            ask(ours)
        with pytest.raises(openai.InternalServerError, match="paused"):  # the gate's questions
            ask(ours, "tiny", extra_headers={"X-Flywheel-Purpose": "evaluation"})
        said = ours.http.post("/messages", json=chat).json()
        assert (said["type"], said["error"]["type"]) == ("error", "overloaded_error")
        root = ours.url.removesuffix("/v1")
        assert httpx.get(f"{root}/health").status_code == 200  # it is alive: leave it alone
        ready = httpx.get(f"{root}/ready")
        assert (ready.status_code, ready.headers["Retry-After"]) == (503, "15")
        assert ours.server.numbers()["paused"] == 1
        assert [model.id for model in ours.client.models.list()]
        [request_id] = stream.ids
        assert ours.row(request_id).completion_tokens == LONG
        liked = ours.http.post("/feedback", json={"id": request_id, "rating": "up"})
        assert liked.status_code == 200

        with pytest.raises(ServerError, match="another lease"):
            ours.server.resume(LEASE, "not the token")
        assert ours.server.resume(LEASE, lease.token) < 30
        assert ours.server.resume(LEASE, lease.token) < 30  # nothing left to do
    assert ask(ours) == before
    numbers = ours.server.numbers()
    assert numbers["paused"] == 0
    assert numbers["refused_while_paused"] == refused + 4
    assert httpx.get(f"{root}/ready").status_code == 200


def test_a_pause_ends_with_its_lease(ours: Ours) -> None:
    token = ours.store.take_lease(LEASE, WHAT, "another machine", 1.5)
    assert ours.server.pause(LEASE, token, 30) < 30
    with pytest.raises(openai.InternalServerError):
        ask(ours)
    wait_for(lambda: state(ours) == "serving", "the end of a lease nobody renews", 15)
    assert ask(ours) is not None


KILLED = (
    "import sys, time\n"
    "from flywheel.server import Server\n"
    "from ledger.settings import load\n"
    "from ledger.store import Store\n"
    "token = Store.open(load(sys.argv[1])).take_lease(sys.argv[4], 'retrain', None, 3600)\n"
    "Server(sys.argv[2], sys.argv[3]).pause(sys.argv[4], token, 30)\n"
    "print('paused', flush=True)\n"
    "time.sleep(600)\n"
)


def test_a_killed_trainer_on_this_machine_is_not_waited_for(ours: Ours) -> None:
    words = [sys.executable, "-c", KILLED, str(ours.config), ours.url, KEY, LEASE]
    trainer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "paused\n"
    trainer.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: state(ours) == "serving", "the end of a dead trainer's pause", 15)
    assert time.monotonic() - killed < 5
    trainer.wait()
    trainer.stdout.close()


def test_only_who_holds_a_lease_in_the_ledger_can_pause(ours: Ours) -> None:
    body = {"lease": LEASE, "token": "guessed", "drain_seconds": 1}
    assert httpx.post(f"{ours.url}/pause", json=body).status_code == 401
    assert ours.http.post("/pause", json={"lease": LEASE}).status_code == 400
    assert ours.http.post("/pause", content=b"{").status_code == 400
    assert ours.http.request("DELETE", "/pause", json=[]).status_code == 400
    with pytest.raises(ServerError, match="not held with this token"):
        ours.server.pause(LEASE, "guessed", 1)
    with ours.store.lease(LEASE, what=WHAT) as lease:
        with pytest.raises(ServerError, match="not held with this token"):
            ours.server.pause(LEASE, "guessed", 1)
        ours.server.pause(LEASE, lease.token, 30)
        with (
            ours.store.lease("retrain/billing", what="retrain of billing") as other,
            pytest.raises(ServerError, match=f"paused already, for {WHAT}"),
        ):
            ours.server.pause(other.name, other.token, 30)
        assert ours.server.pause(LEASE, lease.token, 30) < 30  # asked twice: it is paused
        ours.server.resume(LEASE, lease.token)


def test_who_takes_too_long_is_cut_off_and_a_pause_can_be_called_off(ours: Ours) -> None:
    before = ask(ours)
    with ours.store.lease(LEASE, what=WHAT) as lease:
        stream = Stream(ours, TOO_LONG)
        pause(ours, lease.token, 60)
        ours.server.resume(LEASE, lease.token)  # while it drains
        stream.thread.join()
        assert stream.finished == {"length"}
        assert ask(ours) == before

        # Two rounds of what the engine does at once: however fast it is, the second has to wait.
        stream = Stream(ours, TOO_LONG, choices=2 * VLLM["max_num_seqs"])
        pause(ours, lease.token, 0)
        stream.thread.join(30)
        assert "abort" in stream.finished
        wait_for(lambda: state(ours) == "paused", "the pause", 30)
        ours.server.resume(LEASE, lease.token)
    assert ask(ours) == before


def test_deployments_of_a_pause_are_followed_after_it(ours: Ours) -> None:
    version = publish_random_adapter(ours.settings, "support", ours.model, 11)
    number = version.manifest.version
    with ours.store.lease(LEASE, what=WHAT) as lease:
        ours.server.pause(LEASE, lease.token, 30)
        change = ours.deployments.promote("support", number, who="test", why="")
        with pytest.raises(ServerError, match="did not follow"):
            ours.server.wait_for_event("support", change.event.seq, seconds=1)
        ours.server.resume(LEASE, lease.token)
    ours.follow(change)
    assert ask(ours) != ask(ours, "tiny")
    ours.follow(ours.deployments.promote("support", 0, who="test", why="tidy up"))


# -- memory that has to be there again -----------------------------------------------------


class Sleeper:
    """In the place of vLLM's engine: takes and gives 80 GiB."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def sleep(self, level: int) -> None:
        self.said.append(f"sleep {level}")

    async def wake_up(self) -> None:
        self.said.append("wake")


def a_pause(engine: Any, free: Callable[[], int | None], holds: Callable[[], bool]) -> Pause:
    held = Held(LEASE, "another machine", "token", now(), now() + 3600, WHAT)
    return Pause(
        engine,
        Traffic(),
        lambda name: held if holds() else None,
        asyncio.Lock(),
        free,
        retry_after=5,
    )


async def until(pause: Pause, wanted: Callable[[], bool]) -> None:
    for _ in range(1000):
        if wanted():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(pause.now())


def test_it_wakes_only_when_the_memory_is_free_again() -> None:
    free = iter([10 * 2**30, 90 * 2**30, 20 * 2**30, 20 * 2**30, 90 * 2**30])

    async def live() -> None:
        engine = Sleeper()
        pause = a_pause(engine, lambda: next(free), lambda: True)
        await pause.begin(LEASE, "token", 1)
        await until(pause, lambda: pause.state == "paused")
        await pause.end(LEASE, "token")
        await until(pause, lambda: bool(pause.problem))
        assert engine.said == ["sleep 1"]
        assert "80.0 GiB of GPU memory are needed, 20.0 GiB are free" in pause.problem
        assert pause.refusal("chat") is not None
        await until(pause, lambda: pause.state == "serving")
        assert engine.said == ["sleep 1", "wake"]
        assert pause.problem == ""

    asyncio.run(live())


def test_an_engine_that_cannot_sleep_goes_on_serving() -> None:
    class Broken(Sleeper):
        async def sleep(self, level: int) -> None:
            raise RuntimeError("no memory on the host")

    async def live() -> None:
        pause = a_pause(Broken(), lambda: None, lambda: True)
        await pause.begin(LEASE, "token", 1)
        await until(pause, lambda: pause.state == "serving")
        assert "no memory on the host" in pause.problem
        assert pause.refusal("chat") is None

    asyncio.run(live())


def test_a_server_without_sleep_mode_says_so() -> None:
    async def live() -> None:
        pause = a_pause(Sleeper(), lambda: None, lambda: True)
        pause._cannot = "started without sleep mode"
        assert (await pause.begin(LEASE, "token", 1)).status_code == 409
        assert pause.state == "serving"

    asyncio.run(live())


# -- how the server is started ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "vllm", "cuda", "wanted"),
    [
        ({}, {}, True, ["--gpu-memory-utilization", "0.5"]),
        ({"server_share": 0.3}, {}, True, ["--gpu-memory-utilization", "0.3"]),
        ({}, {"gpu_memory_utilization": 0.7}, True, ["--gpu-memory-utilization", "0.7"]),
        ({"beside_server": "pause"}, {}, True, ["--enable-sleep-mode"]),
        ({"beside_server": "elsewhere"}, {}, True, []),
        ({}, {}, False, []),
        ({"beside_server": "pause"}, {}, False, []),
    ],
)
def test_the_server_is_given_its_part_of_the_gpu(
    tiny_home: Any, train: dict[str, Any], vllm: dict[str, Any], cuda: bool, wanted: list[str]
) -> None:
    settings, config, _ = tiny_home
    settings = settings.model_copy(
        update={
            "train": settings.train.model_copy(update=train),
            "serve": settings.serve.model_copy(update={"vllm": vllm, "port": free_port()}),
        }
    )
    words = prepare(settings, str(config), (), cuda=cuda).command
    at = [
        n for n, w in enumerate(words) if w in ("--gpu-memory-utilization", "--enable-sleep-mode")
    ]
    assert words[at[0] : at[0] + len(wanted)] == wanted if wanted else at == []
    assert len(at) == bool(wanted)


SMI = """#!/bin/sh
case "$1" in
--query-gpu=*) printf '0, GPU-aaaa, 81559, 40000\\n1, GPU-bbbb, 81559, 80000\\n' ;;
*) printf 'GPU-aaaa, 17, python, 512\\nGPU-aaaa, 4, VLLM::EngineCore, [N/A]\\n' ;;
esac
"""


def test_the_driver_says_what_is_free_and_who_has_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    file = tmp_path / "nvidia-smi"
    file.write_text(SMI)
    file.chmod(0o755)
    assert [one.free // 2**20 for one in gpu.gpus()] == [40000, 80000]
    assert [one.uuid for one in gpu.gpus({"CUDA_VISIBLE_DEVICES": "1"})] == ["GPU-bbbb"]
    assert [one.uuid for one in gpu.gpus({"CUDA_VISIBLE_DEVICES": "GPU-a"})] == ["GPU-aaaa"]
    assert [(one.pid, one.used // 2**20) for one in gpu.users()] == [(17, 512), (4, 0)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.free_bytes() is None
    file.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.gpus({}) == []


# -- for real ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="no CUDA device")
def test_a_sleeping_gpu_has_room_and_wakes_as_it_was(tiny_home: Any, tmp_path: Path) -> None:
    """Memory is freed, and base and adapter answer as before."""
    from tiny import write_config

    from ledger.deployments import Deployments
    from ledger.store import Store

    settings, _, model = tiny_home
    settings = settings.model_copy(
        update={
            "var": tmp_path / "var",
            "ledger": settings.ledger.model_copy(
                update={"url": f"sqlite:///{tmp_path}/var/ledger.db"}
            ),
            "train": settings.train.model_copy(update={"beside_server": "pause"}),
            "serve": settings.serve.model_copy(
                update={"vllm": {"gpu_memory_utilization": 0.3, "enforce_eager": True}}
            ),
        }
    )
    version = publish_random_adapter(settings, "support", model, 5)
    store = Store.open(settings)
    Deployments(store).promote("support", version.manifest.version, who="test", why="")
    config = write_config(settings, tmp_path / "config.yaml")
    running = RunningServer.flywheel(config, free_port(), tmp_path / "log", FLYWHEEL_API_KEYS=KEY)
    with running:
        server, client = Server(running.url, KEY), openai.OpenAI(base_url=running.url, api_key=KEY)

        def say(name: str) -> str:
            done = client.chat.completions.create(
                model=name, messages=QUESTION, temperature=0, max_tokens=16
            )
            return done.choices[0].message.content or ""

        before = [say("support"), say("tiny")]
        assert before[0] != before[1]
        full = gpu.free_bytes()
        with store.lease(LEASE, what=WHAT) as lease:
            server.pause(LEASE, lease.token, 30)
            slept = gpu.free_bytes()
            assert full is not None
            assert slept is not None
            assert slept - full > 0.2 * gpu.gpus()[0].total
            server.resume(LEASE, lease.token)
        assert [say("support"), say("tiny")] == before
    store.close()
