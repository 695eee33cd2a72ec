"""In what way a pack demands less than another one did."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.gold import GoldQuestion
from ledger.packs import (
    ANY_SLICE,
    AnswerRule,
    FailureSet,
    FitsSchema,
    GoldSet,
    LoadedPack,
    MaxChars,
    PackSet,
    SliceRule,
)

_ROLES = ("informative", "guard", "required")  # from the loosest
_SHOWN = 5


def loosened(old: LoadedPack, new: LoadedPack) -> list[str]:
    """What the new pack no longer demands, a line each; empty where it is at least as strict.

    A question or rubric that changed counts: nobody can say whether it became easier.
    """
    now = {one.name: one for one in new.pack.sets}
    found = []
    for before in old.pack.sets:
        after = now.get(before.name)
        if after is None:
            found.append(f"the set {before.name!r} is gone")
            continue
        lines = list(_set(before, after))
        lines += _questions(old.questions.get(before.name, []), new.questions.get(before.name, []))
        found += [f"set {before.name!r}: {line}" for line in lines]
    return found


def _set(old: PackSet, new: PackSet) -> Iterator[str]:
    if old.kind != new.kind:
        yield f"its kind was {old.kind}, now {new.kind}"
        return
    if _ROLES.index(new.role) < _ROLES.index(old.role):
        yield f"it was {old.role}, now {new.role}"
    if (new.margin or 0.0) > (old.margin or 0.0):
        yield f"the margin was {old.margin:g}, now {new.margin:g}"
    yield from _slices(old, new)
    yield from _rules(old, new)
    for name in ("p95_latency", "completion_tokens"):
        before, after = getattr(old.limits, name), getattr(new.limits, name)
        if before is not None and (after is None or after > before):
            yield f"the limit {name} was {before:g}, now {_or_none(after)}"
    if not isinstance(old, GoldSet) and not isinstance(new, GoldSet) and old.rubric != new.rubric:
        yield "the rubric changed"
    if isinstance(old, FailureSet) and isinstance(new, FailureSet):
        if new.most < old.most:
            yield f"at most {old.most} rows were asked, now {new.most}"
        if new.judged_from != old.judged_from:
            yield f"a judge compared from {old.judged_from} characters, now {new.judged_from}"


def _slices(old: PackSet, new: PackSet) -> Iterator[str]:
    for name in sorted({*old.slices, *new.slices}):
        before, after = _of_slice(old, name), _of_slice(new, name)
        if before.floor is not None and (after.floor is None or after.floor < before.floor):
            yield f"slice {name}: the floor was {before.floor:g}, now {_or_none(after.floor)}"
        lost, may_lose = before.max_loss, after.max_loss
        if lost is not None and (may_lose is None or may_lose > lost):
            yield f"slice {name}: max_loss was {lost:g}, now {_or_none(may_lose)}"


def _of_slice(one: PackSet, name: str) -> SliceRule:
    return one.slices.get(name, one.slices.get(ANY_SLICE, SliceRule()))


def _rules(old: PackSet, new: PackSet) -> Iterator[str]:
    now = {_key(rule): rule for rule in new.rules}
    for rule in old.rules:
        after = now.get(_key(rule))
        name = _shown(rule)
        if after is None:
            yield f"the rule {name} is gone"
            continue
        before, may = rule.at_most, after.at_most
        if before != may and may != 0 and (before is None or may is None or may > before):
            yield f"the rule {name} had at_most {_or_none(before)}, now {_or_none(may)}"
        if isinstance(rule, MaxChars) and isinstance(after, MaxChars) and after.value > rule.value:
            yield f"answers had at most {rule.value} characters, now {after.value}"


def _key(rule: AnswerRule) -> str:
    """Two rules with one key are the same rule."""
    if isinstance(rule, MaxChars):
        return rule.type
    return rule.model_dump_json(exclude={"at_most"})


def _shown(rule: AnswerRule) -> str:
    value = getattr(rule, "value", None)
    return rule.type if value is None or isinstance(rule, FitsSchema) else f"{rule.type} {value!r}"


def _questions(old: list[GoldQuestion], new: list[GoldQuestion]) -> Iterator[str]:
    now = {question.id: question for question in new}
    gone = [question.id for question in old if question.id not in now]
    changed = [q.id for q in old if q.id in now and now[q.id] != q]
    for ids, what in ((gone, "gone"), (changed, "not what they were")):
        if ids:
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            yield f"{len(ids)} question(s) are {what}: {', '.join(ids[:_SHOWN])}{more}"


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
