"""One tick: do what is due for each alias, and return.

    roll out the next stage, or back, as the canary's evidence says. First, and from the ledger
             alone: whatever fails after it, a version that harms users goes back
    curate   tags, users' corrections, clusters
    watch    drift: alerts, their windows
    learn    what was new in a version that harmed users waits for eyes again; decisions are linked
             to what came of them
    resume   a retrain that was cut off
    decide   retrain, collect more first, or wait; a version that passes begins its rollout
    report   what the wheel did, once a week

A tick is idempotent: what was done is not done again, and two at once, on one machine or two, are
one: the second finds the lease taken and leaves. One that dies in the middle leaves nothing that
the next one does not take up, for every step reads what holds from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from flywheel.loop.decide import Decision, decide
from flywheel.loop.facts import facts
from flywheel.loop.history import link
from flywheel.loop.wheel import Wheel
from ledger.clock import now
from ledger.deployments import Deployments, parse_version, version_name
from ledger.errors import FlywheelError, UsageError
from ledger.glance import LOOP, remember
from ledger.settings import Settings
from ledger.store import Lease, Store

WHO = "loop"


class Step(NamedTuple):
    """Something that was done, or would be: `dry` says which. `failed` holds an error's text."""

    alias: str
    what: str
    said: str
    dry: bool = False
    failed: bool = False


class Tick(NamedTuple):
    """What a tick came to.

    Attributes:
        busy: who has the lease, where another tick was running; nothing was done then.
        decisions: of each alias that was decided on.
    """

    steps: list[Step]
    decisions: dict[str, Decision]
    busy: str = ""

    @property
    def failed(self) -> bool:
        """Whether a step ended with an error."""
        return any(step.failed for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "steps": [step._asdict() for step in self.steps],
            "decisions": {alias: one.report() for alias, one in self.decisions.items()},
            "busy": self.busy,
        }


def tick(
    settings: Settings,
    store: Store,
    wheel: Wheel,
    *,
    aliases: Sequence[str] | None = None,
    dry_run: bool = False,
    train: bool = True,
    say: Callable[[str], None] = print,
) -> Tick:
    """Do what is due for these aliases, by default all.

    A step that fails is reported and ends its alias's turn; other aliases have theirs.

    Args:
        dry_run: say what would be done and do none of it.
        train: also retrain, which may take hours; without it nothing is resumed, decided or
            reported.
    """
    done = Tick([], {})
    for alias in sorted(settings.aliases) if aliases is None else aliases:
        settings.alias(alias)
        with ExitStack() as stack:
            lease = None
            if not dry_run:
                try:
                    lease = stack.enter_context(
                        store.lease(f"tick/{alias}", what=f"tick of {alias}")
                    )
                except UsageError as taken:
                    done = done._replace(busy=taken.problem)
                    if train:  # else it is known that somebody is at it
                        say(f"{alias}: {taken.problem}")
                    continue
            turn = _Turn(settings, store, wheel, alias, lease, dry_run, train, say, done)
            try:
                turn.run()
            except FlywheelError as error:
                turn.note(turn.at, str(error), failed=True)
            turn.leave()
    return done


class _Turn:
    """One alias's part of a tick."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        wheel: Wheel,
        alias: str,
        lease: Lease | None,
        dry: bool,
        train: bool,
        say: Callable[[str], None],
        done: Tick,
    ) -> None:
        self._settings, self._store, self._wheel = settings, store, wheel
        self._alias, self._lease, self._dry, self._train = alias, lease, dry, train
        self._say, self._done = say, done
        self.at = "rollout"

    def run(self) -> None:
        """All steps, in order."""
        self._roll_out()
        if not self._dry:
            self._curate()
            self._watch()
            self._set_aside()
            link(self._settings, self._store, self._alias)
        if not self._train:
            return
        self._resume()
        self._decide()
        if not self._dry:
            self._report()

    def note(self, what: str, said: str, *, failed: bool = False) -> None:
        """Report a step."""
        self._done.steps.append(Step(self._alias, what, said, self._dry, failed))
        mark = "failed: " if failed else "would: " if self._dry else ""
        self._say(f"{self._alias}: {what:<8} {mark}{said}")

    def leave(self) -> None:
        """Leave what this turn came to for status, the review page and metrics."""
        if self._dry or not self._train:
            return
        decision = self._done.decisions.get(self._alias)
        failed = [one.said for one in self._done.steps if one.alias == self._alias and one.failed]
        said = {"decision": None if decision is None else decision.report(), "failed": failed}
        try:
            remember(self._store, self._alias, LOOP, said, at=now())
        except FlywheelError as error:
            self.note("leave", str(error), failed=True)

    def _curate(self) -> None:
        self.at = "curate"
        from curate.clusters import update
        from curate.tagging.sweep import sweep

        swept = sweep(self._settings, self._store)
        found = update(self._settings, self._store, self._alias)
        if swept.interactions or swept.feedback:
            self.note(
                "curate",
                f"{swept.interactions} answers and {swept.feedback} reactions looked at, "
                f"{swept.accepted} corrections accepted, {found.clusters} clusters",
            )

    def _watch(self) -> None:
        from eval.drift import gold_asker, watch

        self.at = "watch"
        asker = gold_asker(self._settings, self._alias, self._wheel.url)
        seen = watch(self._settings, self._store, self._alias, now=now(), ask_gold=asker)
        for alert in seen.new_alerts:
            self.note("watch", alert.said)
        for problem in seen.problems:
            self.note("watch", problem, failed=True)

    def _roll_out(self) -> None:
        from eval.canary import judge
        from flywheel.rollout import advance
        from flywheel.rollout.shadow import shadow

        self.at = "rollout"
        state = Deployments(self._store).state(self._alias)
        if state.candidate is None:
            return
        if self._dry:
            found = judge(self._settings, self._store, self._alias, now=now())
            self.note("rollout", f"{found.action}: {found.said}")
            return
        self._ours()
        change = advance(self._settings, self._store, self._alias, now=now(), who=WHO)
        if change is not None:
            self.note("rollout", f"{change.event.kind}: {change.event.why}")
        # It asks a server and a judge; what they say counts from the next tick on.
        shadowed = shadow(self._settings, self._store, self._alias, url=self._wheel.url, now=now())
        if shadowed.said:
            self.note("shadow", shadowed.said)

    def _set_aside(self) -> None:
        from curate.acceptance.harmed import set_aside

        done = set_aside(self._settings, self._store, self._alias)
        if done is not None:
            name = version_name(self._alias, done.version, self._settings.model.name)
            self.note(
                "rollout",
                f"{done.corrections} corrections that were new in {name} wait for eyes again: "
                "`flywheel review`",
            )

    def _resume(self) -> None:
        self.at = "resume"
        if not self._wheel.unfinished(self._alias):
            return
        if Deployments(self._store).state(self._alias).stage == "canary":
            return  # a person brought another version on meanwhile: one is tried at a time
        if self._dry:
            self.note("resume", "a retrain that was cut off")
            return
        open_firings = [
            one
            for one in self._store.firings(self._alias)
            if one.decision == "retrain" and one.outcome("run") is None
        ]
        self._retrain(open_firings[-1].seq if open_firings else None, "resume")

    def _decide(self) -> None:
        self.at = "decide"
        found = facts(self._settings, self._store, self._alias, now=now())
        decision = decide(found, self._settings)
        self._done.decisions[self._alias] = decision
        if decision.action == "wait":
            return
        why = f"{decision.action} because of {', '.join(decision.because)}"
        said = "; ".join([why, *decision.said, *decision.missing])
        if self._dry:
            self.note("decide", said)
            return
        last = found.firings[-1] if found.firings else None
        again = last is not None and (last.decision, last.triggers) == (
            decision.action,
            decision.because,
        )
        if decision.action == "collect" and again:
            return  # said before, and nothing has changed
        self._ours()
        firing = self._store.add_firing(
            self._alias, decision.because, decision.action, decision.report()
        )
        self.note("decide", said)
        if decision.action == "retrain":
            self._retrain(firing, "retrain")

    def _retrain(self, firing: int | None, what: str) -> None:
        from flywheel.rollout import begin

        self.at = what
        turned = self._wheel.retrain(self._alias)
        if firing is not None:
            self._store.add_outcome(firing, "run", {"run": turned.run, "version": turned.version})
        self.note(what, f"{turned.version}: {turned.verdict}")
        if turned.verdict == "pass":
            self._ours()
            number = parse_version(turned.version, self._alias)
            change = begin(
                self._settings, self._store, self._alias, number, who=WHO, why=f"run {turned.run}"
            )
            if change is not None:
                name = version_name(self._alias, number, self._settings.model.name)
                self.note("rollout", f"{name} gets {change.after.share:g} %")
        link(self._settings, self._store, self._alias)

    def _report(self) -> None:
        """The weekly report, where a week is over."""
        from flywheel import weekly

        self.at = "report"
        if weekly.due(self._settings, self._store, self._alias, now=now()):
            written = weekly.write(self._settings, self._store, self._alias, now=now())
            self.note("report", f"the week's report is in {written}")

    def _ours(self) -> None:
        """Before what cannot be taken back: the lease still holds."""
        if self._lease is not None:
            self._lease.still_mine()
