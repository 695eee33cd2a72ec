"""What many tests share: limits on threads, and a configuration in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.files import write_jsonl
from ledger.settings import Settings, parse
from ledger.store import Store

# Before anything imports torch: two tests' worth of threads on a small machine is slower.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What the person who runs the tests has set must not reach them.
for name in ("FLYWHEEL_CONFIG", "FLYWHEEL_API_KEYS", "FLYWHEEL_URL", "FLYWHEEL_USER"):
    os.environ.pop(name, None)

MakeSettings = Callable[..., Settings]


# -- what tests of training share ------------------------------------------------------------------


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder; nobody writes into it."""
    from benchmarks.tiny import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def one_threaded() -> Iterator[None]:
    """Training on one thread, see `tiny.one_thread`."""
    from tiny import one_thread

    with one_thread():
        yield


# -- the databases a ledger can be in -----------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a store on both databases, unless it is marked `sqlite`."""
    if {"store", "ledger_url"} <= set(metafunc.fixturenames):
        only = metafunc.definition.get_closest_marker("sqlite")
        both = ["sqlite"] if only else ["sqlite", "postgresql"]
        metafunc.parametrize("ledger_url", both, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running PostgreSQL."""
    from postgres import start_or_skip

    running = start_or_skip()
    yield running
    running.remove()


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the ledger of a test is: an SQLite file where nothing else is asked for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path}/var/ledger.db"
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.new_ledger()
    yield url
    postgres.drop(url)


@pytest.fixture
def make_settings(tmp_path: Path, ledger_url: str) -> MakeSettings:
    """Settings under `tmp_path`; keyword arguments replace values section by section."""

    def make(**sections: Any) -> Settings:
        raw: dict[str, Any] = {
            "var": str(tmp_path / "var"),
            "model": {"name": "base", "path": str(tmp_path / "model")},
            "aliases": {"support": {}},
            "ledger": {"url": ledger_url},
            "privacy": {"key_file": str(tmp_path / "var/keys/subject.key")},
        }
        for section, values in sections.items():
            old = raw.get(section)
            raw[section] = {**old, **values} if isinstance(old, dict) else values
        return parse(raw, name="test")

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The plainest settings."""
    return make_settings()


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    """The settings as a file, for programs that are started with --config."""
    from tiny import write_config

    return write_config(settings, tmp_path / "config.yaml")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """A new ledger."""
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium. Not for the whole run: tests with event loops could not run beside it."""
    from browser import launched

    with launched() as started:
        yield started


# -- real servers, started once for all tests that use them -------------------------------------


def make_tiny_home(home: Path) -> tuple[Settings, Path, Path]:
    """Settings, their file and the tiny model in a folder."""
    from servers import ENVIRONMENT, VLLM
    from tiny import build_tiny_model, tiny_settings, write_config

    model = build_tiny_model(home / "model")
    queues = ("billing", "delivery", "returns", "accounts")
    write_jsonl(
        home / "gold.jsonl",
        (
            {
                "id": f"gold-{number}",
                "messages": [
                    {
                        "role": "user",
                        "content": f"Message {number} is about {queues[number % 4]}. Which queue?",
                    }
                ],
                "checks": [{"type": "normalised", "value": queues[number % 4]}],
                "max_tokens": 4,
            }
            for number in range(100, 124)
        ),
    )
    settings = tiny_settings(
        model,
        home / "var",
        # 24 questions, all answered alike, exclude a loss of an eighth.
        aliases={"support": {"gate": {"gold": [str(home / "gold.jsonl")], "margin": 0.2}}},
        curate={
            "trusted_sources": ["user", "operator"],
            # The users of the tests just came, and their questions differ in a number.
            "acceptance": {"new_subject_hours": 0},
            "dataset": {"near_duplicate": 1},
        },
        train={"epochs": 8, "checkpoint_steps": 2},
        serve={"vllm": VLLM, "env": ENVIRONMENT, "max_lora_rank": 8, "metrics_seconds": 0.5},
        ledger={"url": f"sqlite:///{home}/var/ledger.db"},
        privacy={"key_file": str(home / "var/keys/subject.key")},
    )
    return settings, write_config(settings, home / "config.yaml"), model


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path, Path]:
    """Settings, their file and the tiny model: what the servers of a test run share."""
    return make_tiny_home(tmp_path_factory.mktemp("tiny"))


def serving(
    home: tuple[Settings, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A running server with the plugin, for a fixture."""
    from servers import start_ours

    settings, config, model = home
    running = start_ours(settings, config, model, tmp_path_factory.mktemp("log") / "ours.log")
    yield running
    running.close()


@pytest.fixture(scope="session")
def ours(tiny_home: tuple[Settings, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The server that the tests of a run share."""
    yield from serving(tiny_home, tmp_path_factory)


@pytest.fixture(scope="session")
def plain(tiny_home: tuple[Settings, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client of the same vLLM without the plugin."""
    import httpx
    from servers import KEY, start_plain

    settings, config, _ = tiny_home
    running = start_plain(settings, config, tmp_path_factory.mktemp("log") / "plain.log")
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
        yield client
    running.stop()
