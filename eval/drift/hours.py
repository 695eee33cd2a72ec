"""One step of everything that is watched: the next hours of an alias, taken in in order.

What an hour does depends on what is remembered and on what the ledger says of the hour, not on
when anybody looks: looking each five minutes or once a day comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from eval.drift import answers, questions, reactions
from eval.drift.calibration import calibrate
from eval.drift.clusters import new_share
from eval.drift.detector import Change, Watch, adopt, step, warmed
from eval.drift.rules import HOURS_A_DAY, Hour, Rule
from eval.drift.signals import SHARES, rules
from ledger.deployments import Deployment, Deployments, fold, version_name
from ledger.keeping.histogram import Histogram
from ledger.keeping.rollups import SECONDS, Group, Stats
from ledger.records import DeploymentEvent
from ledger.settings import Settings
from ledger.store import Store

#: Looks at new clusters a day.
_CLUSTER_LOOKS = 4
_DAYS_A_MONTH = 30


class Noticed(NamedTuple):
    """A change of a signal. `since` and `hour` are hours since the epoch."""

    signal: str
    kind: str  # drift, recovered, replaced
    since: int
    hour: int
    numbers: dict[str, Any]


class Hours:
    """Takes in hours, and keeps what is to be remembered.

    Args:
        states: what was remembered, by what is watched; see `ledger.store.watches`.

    Attributes:
        noticed: changes, in the order of time.
    """

    def __init__(
        self, settings: Settings, store: Store, alias: str, states: dict[str, dict[str, Any]]
    ) -> None:
        self._settings, self._store, self._alias = settings, store, alias
        self._rules = rules(settings)
        self._watches = {
            name: Watch.load(states[name]) if name in states else Watch() for name in self._rules
        }
        self._questions: dict[str, Any] = dict(states.get("questions", {}))
        self._clusters: dict[str, Any] = dict(states.get("new_clusters", {}))
        self._events = Deployments(store).events(alias)
        self.noticed: list[Noticed] = []

    def states(self) -> dict[str, dict[str, Any]]:
        """What is to be remembered."""
        found = {name: watch.dump() for name, watch in self._watches.items()}
        return {**found, "questions": self._questions, "new_clusters": self._clusters}

    def take(self, hour: int, said: reactions.Reactions) -> None:
        """Take in the next hour."""
        version = self._live(hour)
        found = answers.numbers(self._store, self._alias, hour)
        for name, rule in self._rules.items():
            watch = self._watches[name]
            change = step(watch, rule, self._hour(name, hour, version, found, said), version)
            if change is not None:
                self._note(name, change, hour)
            self._warm(name, watch, rule)
        if hour % HOURS_A_DAY == HOURS_A_DAY - 1 and "questions" not in self._settings.drift.off:
            self._look_at_questions(hour, version)
        if (hour + 1) % (HOURS_A_DAY // _CLUSTER_LOOKS) == 0:
            self._look_at_clusters(hour)

    def _live(self, hour: int) -> str:
        """The version that was live at the end of an hour."""
        state = at(self._events, self._alias, (hour + 1) * SECONDS)
        return version_name(self._alias, state.live, self._settings.model.name)

    # -- what is watched by the hour -----------------------------------------------------

    def _hour(
        self,
        name: str,
        hour: int,
        version: str,
        found: dict[Group, Stats],
        said: reactions.Reactions,
    ) -> Hour:
        if name in ("negatives", "edits"):
            part = said.negatives if name == "negatives" else said.edits
            of = said.events
            if self._settings.drift.rates_of == "answers":
                of = max(float(sum(stats.rows for stats in found.values())), said.events)
            return Hour(hour, of, part)
        if name == "errors":
            return answers.errors(found, hour)
        if name == "refusals":
            most = self._settings.drift.texts_an_hour
            return answers.refusals(self._store, self._alias, version, hour, most)
        return self._place(name, hour, answers.of_version(found, version))

    def _place(self, name: str, hour: int, stats: Stats) -> Hour:
        """An hour of what is told against the histogram of the warm-up; no sum before it is there:
        then only how many answers came counts."""
        histogram = stats.measures[_measure(name)].histogram
        reference = self._watches[name].reference
        if reference is None:
            return Hour(hour, float(histogram.count), 0.0)
        of = answers.above if name == "unsure" else answers.place
        return of(histogram, Histogram.load(reference), hour)

    def _warm(self, name: str, watch: Watch, rule: Rule) -> None:
        """End a warm-up that has enough; one of a new version not while there is drift."""
        given = self._settings.drift
        days = given.version_warmup_days if rule.per_version else given.warmup_days
        if not warmed(watch, days=days, events=given.warmup_events):
            return
        warm = watch.warm or []
        if watch.drift is not None and watch.baseline is not None:
            watch.warm = []
            return
        if rule.per_version and name != "refusals":
            warm = self._placed(name, watch, [int(one[0]) for one in warm])
        adopt(watch, calibrate(warm, rule), watch.version)

    def _placed(self, name: str, watch: Watch, hours: Sequence[int]) -> list[list[float]]:
        """The hours of a warm-up again, as places in the histogram of all of them."""
        version = watch.version or ""
        found = {
            hour: answers.of_version(answers.numbers(self._store, self._alias, hour), version)
            for hour in hours
        }
        parts = [stats.measures[_measure(name)].histogram for stats in found.values()]
        watch.reference = Histogram.merged(parts).dump()
        return [list(self._place(name, hour, stats)) for hour, stats in found.items()]

    def _note(self, name: str, change: Change, hour: int) -> None:
        window = change.window
        numbers = {} if window is None else window._asdict()
        numbers.pop("since", None)
        since = hour if window is None else window.since
        self.noticed.append(Noticed(name, change.kind, since, hour, numbers | {"way": change.line}))

    # -- what is looked at on a schedule -------------------------------------------------

    def _look_at_questions(self, hour: int, version: str) -> None:
        given, state = self._settings.drift, self._questions
        days = int(max(given.warmup_days, 2))
        if version != state.get("version"):
            state |= {"version": version, "begun": hour + 1 - HOURS_A_DAY}
        if state["begun"] is not None and hour + 1 - state["begun"] >= days * HOURS_A_DAY:
            self._take_reference(hour, days)
            return
        if state.get("reference") is None:
            return
        level = given.false_alarms * SHARES["questions"] / _DAYS_A_MONTH
        since, until = state["reference"]
        auc = self._told_apart(since, until, hour + 1 - HOURS_A_DAY, hour + 1, level)
        if auc is None:
            return
        state["last"] = [round(one, 4) for one in auc]
        enough = auc.texts >= given.questions_sample // 4
        usual = max(state["usual"], 0.5)
        drifted = enough and auc.value >= given.questions_auc and auc.low > usual
        over = auc.value < (usual + given.questions_auc) / 2
        self._turn("questions", state, hour, HOURS_A_DAY, auc[:3], drifted=drifted, over=over)

    def _take_reference(self, hour: int, days: int) -> None:
        """The warm-up is over: its days are the reference, and its last day against the others
        says what is usual."""
        state, begun = self._questions, hour + 1 - days * HOURS_A_DAY
        last = hour + 1 - HOURS_A_DAY
        auc = self._told_apart(begun, last, last, hour + 1, 0.05)
        if auc is None:
            return
        if state.get("drift"):
            self.noticed.append(Noticed("questions", "replaced", begun, hour, {}))
        state |= {"begun": None, "reference": [begun, hour + 1], "usual": auc.value}
        state |= {"last": [round(one, 4) for one in auc], "drift": None}

    def _told_apart(
        self, since: int, until: int, start: int, end: int, level: float
    ) -> questions.Auc | None:
        most = self._settings.drift.questions_sample
        before = questions.sample(self._store, self._alias, since, until, most)
        after = questions.sample(self._store, self._alias, start, end, most)
        return questions.told_apart(before, after, level)

    def _look_at_clusters(self, hour: int) -> None:
        given, state = self._settings.drift, self._clusters
        if "new_clusters" in given.off:
            return
        level = given.false_alarms * SHARES["new_clusters"] / (_DAYS_A_MONTH * _CLUSTER_LOOKS)
        share = new_share(self._store, self._alias, hour, NormalDist().inv_cdf(1 - level))
        state["last"] = None if share is None else [round(one, 4) for one in share]
        if share is None:
            return
        enough = share.questions >= given.minimum
        drifted = enough and share.value > given.new_share and share.low > given.new_share / 2
        over = share.value < given.new_share / 2
        self._turn("new_clusters", state, hour, HOURS_A_DAY, share[:3], drifted=drifted, over=over)

    def _turn(
        self,
        name: str,
        state: dict[str, Any],
        hour: int,
        window: int,
        found: tuple[float, float, float],
        *,
        drifted: bool,
        over: bool,
    ) -> None:
        """Begin or end a drift."""
        since = hour + 1 - window
        numbers = dict(zip(("rate", "low", "high"), found, strict=True))
        if drifted and not state.get("drift"):
            state["drift"] = {"since": since}
            self.noticed.append(Noticed(name, "drift", since, hour, numbers))
        elif over and state.get("drift"):
            state["drift"] = None
            self.noticed.append(Noticed(name, "recovered", since, hour, numbers))


def at(events: Sequence[DeploymentEvent], alias: str, ts: float) -> Deployment:
    """What held at a time, seconds since the epoch."""
    state = Deployment(alias)
    for event in events:
        if event.ts >= ts:
            break
        state = fold(state, event)
    return state


def _measure(name: str) -> str:
    return "surprise" if name == "unsure" else answers.PLACES[name]
