"""One turn of the wheel: curate → train → publish → load → gate.

Each step is a process of its own that writes its manifest last, in `var/runs/<id>/`; a step
that finished is not done again, so running the command again resumes. The gate talks to the
server that users talk to. A version that passes stays loaded with 0 % of the traffic: giving
it some is `flywheel promote`'s business.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flywheel.server import Server
from ledger.deployments import Deployments, parse_version, version_name
from ledger.errors import FlywheelError, GateRefused, UsageError
from ledger.files import read_json, write_json
from ledger.settings import Settings
from ledger.store import Store

#: How a run is named, with the alias behind it: no detector takes it for a telephone number or a
#: secret, so that it can be read wherever it is quoted.
NAME = "%Y-%m-%d_%Hh%Mm%Ss"


class Outcome(NamedTuple):
    """What a retrain came to."""

    run: Path
    version: str
    baseline: str
    verdict: str
    seconds: dict[str, float]


class _Stopped(FlywheelError):
    """A step ended with an error it has printed already."""

    def __init__(self, step: str, code: int, run: Path) -> None:
        self.exit_code = code
        super().__init__(
            f"{step} stopped with exit code {code}",
            remedy=f"Run the same command again: it resumes {run}.",
        )


def retrain(
    settings: Settings,
    config: str,
    alias: str,
    *,
    url: str | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train a version on what was corrected and put it before the gate.

    Args:
        url: the server that the gate asks; by default the configuration's.
        fresh: start a new run although the last one is unfinished.

    Raises:
        UsageError: a canary is running, or another retrain of the alias is.
        FlywheelError: a step failed; it has said why.
    """
    settings.alias(alias)
    server = Server.of(settings, url)
    store = Store.open(settings)
    deployments = Deployments(store)
    with _alone(settings, alias):
        state = deployments.state(alias)
        if state.stage == "canary":
            raise UsageError(
                f"{alias} has a canary running: v{state.candidate} at {state.share:g} %",
                remedy=f"Promote it or drop it (`flywheel rollback {alias}`), then retrain.",
            )
        server.deployments()  # better now than after the training
        run, resumed = _run_folder(settings, alias, fresh=fresh)
        say(f"{'Resuming' if resumed else 'Run'} {run}")
        steps = _Steps(run, ["--config", config, "--run", str(run)], say)
        of_alias = ["--alias", alias]

        from curate.tagging.sweep import sweep

        sweep(settings, store)
        steps.do("curate", "curate.datasets.build", of_alias, done="dataset/manifest.json")
        steps.do("train", "train.sft", done="train.json")
        baseline = version_name(alias, state.live, settings.model.name)
        steps.do("publish", "train.publish", [*of_alias, "--parent", baseline], done="publish.json")
        version = parse_version(read_json(run / "publish.json")["version"], alias)
        name = version_name(alias, version, settings.model.name)

        started = time.monotonic()
        if state.candidate != version:
            deployments.candidate(alias, version, who="retrain", why=f"run {run.name}")
        server.wait_for_candidate(alias, name)
        steps.seconds["load"] = time.monotonic() - started
        say(f"load     {name} is in the live server, with no traffic")

        judged = store.evaluations(alias).get(name)
        if judged is None or judged.run_id != run.name:
            asked = [*of_alias, "--candidate", name, "--baseline", baseline]
            asked += ["--base-url", server.url]
            steps.do("gate", "eval.gate", asked, accept=(0, GateRefused.exit_code))
            judged = store.evaluations(alias)[name]
        verdict = judged.verdict
        if verdict != "pass":
            deployments.withdraw(alias, who="gate", why=f"run {run.name}: {verdict}")
        _finish(run, name, verdict, steps.seconds)
    store.close()
    return Outcome(run, name, baseline, verdict, steps.seconds)


class _Steps:
    """Runs the steps of one run.

    Attributes:
        seconds: how long each took.
    """

    def __init__(self, run: Path, words: list[str], say: Callable[[str], None]) -> None:
        self._run, self._words, self._say = run, words, say
        self.seconds: dict[str, float] = {}

    def do(
        self,
        step: str,
        module: str,
        more: list[str] | None = None,
        *,
        done: str | None = None,
        accept: tuple[int, ...] = (0,),
    ) -> int:
        """Run `python -m module`, unless the file `done` says that it finished before.

        Returns:
            Its exit code.

        Raises:
            FlywheelError: it is not one of `accept`.
        """
        if done is not None and (self._run / done).exists():
            self._say(f"{step:<8} done before")
            return 0
        self._say(f"{step:<8} …")
        started = time.monotonic()
        command = [sys.executable, "-m", module, *self._words, *(more or [])]
        # What a step says is for a person; our own output may be JSON for a program.
        code = _wait(subprocess.Popen(command, stdout=sys.stderr))
        self.seconds[step] = time.monotonic() - started
        if code not in accept:
            raise _Stopped(step, code, self._run)
        self._say(f"{step:<8} {self.seconds[step]:.0f} s")
        return code


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a step. Ctrl-C reaches it too: it saves what it has, so we wait for that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)
    return code if code >= 0 else 128 - code


def _run_folder(settings: Settings, alias: str, *, fresh: bool) -> tuple[Path, bool]:
    """The alias's unfinished run, else a new one."""
    unfinished = [
        file.parent
        for file in sorted(settings.runs.glob("*/run.json"))
        if (found := read_json(file))["alias"] == alias and "verdict" not in found
    ]
    if unfinished and not fresh:
        return unfinished[-1], True
    while True:
        folder = settings.runs / f"{time.strftime(NAME, time.gmtime())}-{alias}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            time.sleep(0.2)  # two runs within a second
    write_json(folder / "run.json", {"alias": alias, "started": time.time()})
    return folder, False


def _finish(run: Path, version: str, verdict: str, seconds: dict[str, float]) -> None:
    found: dict[str, Any] = read_json(run / "run.json")
    found |= {"finished": time.time(), "version": version, "verdict": verdict, "seconds": seconds}
    write_json(run / "run.json", found)


@contextmanager
def _alone(settings: Settings, alias: str) -> Iterator[None]:
    """One retrain of an alias at a time; the second is told who holds it."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    with open(settings.runs / f".{alias}.lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip()
            raise UsageError(
                f"another retrain of {alias} is running ({holder})",
                remedy="Wait until it is done.",
            ) from None
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%F %T")}))
        handle.flush()
        yield
        handle.truncate(0)
