"""What a rollout's stage comes to: expand, roll back, hold, or ask a person. Reads only.

    roll back   harm is shown by a metric, a guard or the shadow, unless harm above the tolerance
                is excluded at the same time: what is tolerated is no reason to go back
    expand      the stage has had its time and its answers, and of negatives and edits harm
                above the tolerance is excluded
    ask         neither, and the stage is older than `rollout.ask_days`
    hold        neither

Where the canary got too little feedback to say anything, the comparison out of sight
(`shadows`) stands in for negatives and edits. A paused stage still goes back when harm is shown: a
pause must not make it less safe.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from eval.canary.answers import Answers, read
from eval.canary.signals import Signal, guards, metrics, shadowed
from ledger.deployments import Deployment, Deployments, version_name
from ledger.settings import Settings
from ledger.settings.rollout import Rollout, Stage
from ledger.store import Store

_DAY = 86_400.0
Action = Literal["expand", "roll_back", "hold", "ask"]


class Judgement(NamedTuple):
    """What to do.

    Attributes:
        stage: position of the stage that is running, from 0; None where none is.
        evidence: the numbers that it rests on; no text of users.
        said: the same for a person, in a sentence.
    """

    action: Action
    stage: int | None
    evidence: dict[str, Any]
    said: str


def judge(settings: Settings, store: Store, alias: str, *, now: float) -> Judgement:
    """Look at the stage that is running.

    Args:
        now: seconds since the epoch.
    """
    return judge_state(settings, store, Deployments(store).state(alias), now=now)


def judge_state(settings: Settings, store: Store, state: Deployment, *, now: float) -> Judgement:
    """The same, of a state that was read before."""
    rollout = settings.rollout_of(state.alias)
    if state.stage != "canary" or state.candidate is None:
        return Judgement("hold", None, {}, "no canary is running")
    position = stage_of(rollout, state.share)
    if position is None:
        return Judgement("hold", None, {}, "a person set the share, and no stage is configured")
    stage = rollout.stages[position]
    answers = read(store, state, user_day=rollout.user_day)
    name = version_name(state.alias, state.candidate, settings.model.name)
    compared = store.shadow_counts(state.alias, name, since=state.stage_since)
    signals = metrics(answers, rollout, position, stage)
    watched = guards(answers, rollout, position)
    shadow = shadowed(compared.lost, compared.won, rollout, position)
    days = state.stage_seconds(now) / _DAY
    evidence = {
        "candidate": name,
        "share": state.share,
        "stage": position,
        "days": round(days, 3),
        "answers": {"canary": round(answers.canary.total), "control": round(answers.control.total)},
        "feedback": round(expected_feedback(answers), 1),
        "metrics": [one.as_json() for one in signals],
        "guards": [one.as_json() for one in watched],
        "shadow": compared._asdict() | shadow.as_json(),
    }
    action, said = _decide(rollout, stage, state, days, answers, signals, watched, shadow)
    return Judgement(action, position, evidence, said)


def stage_of(rollout: Rollout, share: float) -> int | None:
    """The stage that a share belongs to: the last one that is not larger, else the first."""
    if not rollout.stages:
        return None
    smaller = [position for position, one in enumerate(rollout.stages) if one.share <= share]
    return smaller[-1] if smaller else 0


def expected_feedback(answers: Answers) -> float:
    """Answers of the canary that would have got feedback at the control's rate."""
    control = answers.control
    spoken = float((control.spoken / control.probabilities).sum())
    return answers.canary.total * spoken / control.total if control.total else 0.0


def _decide(
    rollout: Rollout,
    stage: Stage,
    state: Deployment,
    days: float,
    answers: Answers,
    signals: list[Signal],
    watched: list[Signal],
    shadow: Signal,
) -> tuple[Action, str]:
    thin = expected_feedback(answers) < stage.feedback
    deciding = [shadow] if thin else signals
    harmful = [one for one in (*signals, *watched) if one.harmful]
    # Not as often as it is looked at: the shadow counts where nothing better is at hand.
    harmful += [shadow] if thin and shadow.harmful else []
    # A guard has its tolerance within itself.
    harmful = [one for one in harmful if one.safety is None or not one.safe]
    if harmful:
        return "roll_back", "; ".join(map(_harm, harmful))
    missing = []
    if state.paused:
        missing.append("it is paused")
    if days < stage.days:
        missing.append(f"{days:.1f} of {stage.days:g} days")
    if answers.canary.total < stage.events:
        missing.append(f"{answers.canary.total:.0f} of {stage.events} answers")
    for one in deciding:
        if not one.safe:
            missing.append(f"{_open(one)} is not excluded yet")
    if thin and not shadow.safe:
        missing.append(
            f"too little feedback ({expected_feedback(answers):.0f} of {stage.feedback:g})"
        )
    if not missing:
        return "expand", "; ".join(map(_safe, deciding))
    said = "; ".join(missing)
    if days >= rollout.ask_days and not state.asked and not state.paused:
        return "ask", f"after {days:.0f} days at {state.share:g} %: {said}"
    return "hold", said


def _rates(one: Signal) -> str:
    if one.name == "shadow":
        return "comparisons lost beside those won"
    return f"{one.name} {one.canary:.1%} beside {one.control:.1%}"


def _harm(one: Signal) -> str:
    if one.safety is None:
        return f"{_rates(one)}: clearly more answers beyond the line"
    return f"{_rates(one)}: at least {one.ratio.low:.2f} times as many, whenever one looks"


def _safe(one: Signal) -> str:
    if one.ratio.high > (one.tolerated or 0.0):  # so rare that only points say something
        return f"{_rates(one)}: too few to matter"
    return f"{_rates(one)}: at most {one.ratio.high:.2f} times as many (tolerated: {_below(one)})"


def _open(one: Signal) -> str:
    return f"{_rates(one)}: {_below(one)} times as many"


def _below(one: Signal) -> str:
    return f"{one.tolerated:.2f}" if one.tolerated is not None else "–"
