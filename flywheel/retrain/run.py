"""The turn itself, from the lease to the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flywheel.retrain import folder, sharing
from flywheel.retrain.steps import Step, Steps, Stopped, noted
from flywheel.server import Server
from ledger.deployments import Deployment, Deployments, parse_version, version_name
from ledger.errors import DatasetError, GateRefused, UsageError
from ledger.files import read_json
from ledger.settings import Settings
from ledger.store import Lease, Store
from train.report import refusal


class Outcome(NamedTuple):
    """What a retrain came to."""

    run: Path
    version: str
    baseline: str
    verdict: str
    seconds: dict[str, float]


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
        UsageError: a canary is running, another retrain of the alias is, or training belongs on
            another machine.
        ServerError: no server answers, or it could not load what would be made.
        DatasetError: what was corrected cannot be trained on; that run is over.
        FlywheelError: another step failed; it has said why, and the next call goes on there.
        LeaseLost: another machine took over while this one stood still.
    """
    settings.alias(alias)
    server = Server.of(settings, url)
    store = Store.open(settings)
    try:
        with store.lease(f"retrain/{alias}", what=f"retrain of {alias}") as lease:
            turn = _Turn(settings, config, alias, server, store, lease, say)
            return turn.run(fresh=fresh)
    finally:
        server.close()
        store.close()


class _Turn:
    """One retrain of one alias."""

    def __init__(
        self,
        settings: Settings,
        config: str,
        alias: str,
        server: Server,
        store: Store,
        lease: Lease,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._config, self._alias = settings, config, alias
        self._server, self._store, self._lease, self._say = server, store, lease, say
        self._deployments = Deployments(store)

    def run(self, *, fresh: bool) -> Outcome:
        """All that is left to do of the unfinished run, or of a new one."""
        run = None if fresh else folder.unfinished(self._settings, self._alias)
        if run is not None and (judged := self._judged(run)) is not None:
            # Only the end was cut off, and the world may have moved on since.
            self._say(f"Resuming {run}")
            return self._finish(run, *judged, noted(run))
        sharing.check_machine(self._settings, self._server)
        state = self._deployments.state(self._alias)
        self._check_state(state)
        # Better now than after the training.
        sharing.check_shared(self._settings, self._server, state)
        resumed = run is not None
        run = run or folder.begin(self._settings, self._alias)
        self._say(f"{'Resuming' if resumed else 'Run'} {run}")
        steps = Steps(run, self._lease, self._say)
        version, baseline = self._make(run, steps)
        self._gate(run, steps, version, baseline)
        judged = self._judged(run)
        assert judged is not None
        return self._finish(run, *judged, steps.seconds)

    def _make(self, run: Path, steps: Steps) -> tuple[int, str]:
        """Curate, train, publish; the version's number and the name of what is live now."""
        of_run = ["--config", self._config, "--run", str(run)]
        of_alias = [*of_run, "--alias", self._alias]
        curate = ["curate.datasets.build", *of_alias]
        steps.do(Step("curate", curate, made="dataset/manifest.json"))
        from train.fast.launch import command

        train = Step("train", ["train.sft", *of_run], made="train.json")
        if steps.is_done(train.name, train.made):
            steps.do(train)
        else:
            try:
                with sharing.server_aside(self._settings, self._server, self._lease, self._say):
                    steps.do(train, launcher=command(self._settings))
            except Stopped as error:
                self._close_refused(run, error)
                raise
        # Hours may have passed: what is live now is what the version has to beat.
        baseline = self._name(self._deployments.state(self._alias).live)
        publish = ["train.publish", *of_alias, "--parent", baseline]
        steps.do(Step("publish", publish, made="publish.json"))
        return parse_version(read_json(run / "publish.json")["version"], self._alias), baseline

    def _close_refused(self, run: Path, error: Stopped) -> None:
        """End a run whose dataset cannot be trained on: its dataset stays as it is, for ever.

        Raises:
            DatasetError: it was that.
        """
        if why := refusal(run):
            folder.close(run, why)
            raise DatasetError(
                f"the dataset of {run} cannot be trained on",
                rule=why,
                remedy="That run is closed. Run the same command again when this is mended: it "
                "begins with the corrections that there are then.",
            ) from error

    def _gate(self, run: Path, steps: Steps, version: int, baseline: str) -> None:
        """Load the version into the live server and judge it there."""
        name, started = self._name(version), time.monotonic()
        self._lease.still_mine()
        state = self._deployments.state(self._alias)
        if state.candidate != version:
            self._deployments.candidate(self._alias, version, who="retrain", why=f"run {run.name}")
        self._server.wait_for_candidate(self._alias, name)
        steps.seconds["load"] = time.monotonic() - started
        self._say(f"load     {name} is in the live server, with no traffic")
        words = ["eval.gate", "--config", self._config, "--run", str(run), "--alias", self._alias]
        words += ["--candidate", name, "--baseline", baseline, "--base-url", self._server.url]
        accept = (0, GateRefused.exit_code)
        steps.do(Step("gate", words, made="eval_results.json", accept=accept))

    def _judged(self, run: Path) -> tuple[int, str, str] | None:
        """The version of a run, its baseline and its verdict, where the gate has spoken."""
        published = run / "publish.json"
        if not published.exists():
            return None
        version = parse_version(read_json(published)["version"], self._alias)
        found = self._store.evaluations(self._alias).get(self._name(version))
        if found is None or found.run_id != run.name:
            return None
        return version, found.baseline, found.verdict

    def _finish(
        self, run: Path, version: int, baseline: str, verdict: str, seconds: dict[str, float]
    ) -> Outcome:
        """Take back what did not pass, and note the end."""
        self._lease.still_mine()
        if verdict != "pass":
            state = self._deployments.state(self._alias)
            if state.candidate == version and state.stage == "candidate":
                why = f"run {run.name}: {verdict}"
                self._deployments.withdraw(self._alias, who="gate", why=why)
        self._record_spending(run, self._name(version))
        folder.finish(run, self._name(version), verdict, seconds)
        return Outcome(run, self._name(version), baseline, verdict, seconds)

    def _record_spending(self, run: Path, name: str) -> None:
        from flywheel.spent import record_gate, record_training  # reads results: 0.5 s to import

        record_training(self._settings, self._store, self._alias, name, run)
        record_gate(self._settings, self._store, self._alias, name, run)

    def _check_state(self, state: Deployment) -> None:
        if state.stage == "canary":
            raise UsageError(
                f"{self._alias} has a canary running: v{state.candidate} at {state.share:g} %",
                remedy=f"Promote it or drop it (`flywheel rollback {self._alias}`), then retrain.",
            )

    def _name(self, version: int) -> str:
        return version_name(self._alias, version, self._settings.model.name)
