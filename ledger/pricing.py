"""What answers and the box cost, from measured tokens and seconds and the prices configured.

A model that is paid by the token costs what its tokens cost. One that is served here costs the
time that the box was busy with it: the seconds of a pass, shared out by tokens, at
`prices.gpu_hour`. Prompt and completion tokens count alike there, which makes long answers to
short questions look cheaper than they are and the other way round; models that answer the same
questions on the same box compare fairly. Where no price is set the cost is None, never 0.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.settings import Settings
from ledger.settings.curation import Teacher
from ledger.settings.prices import TokenPrice

_MILLION = 1e6
_HOUR = 3600.0


class Use(NamedTuple):
    """What a model's answers took, measured.

    Attributes:
        seconds: of the box, for all of them; None where that was not measured.
    """

    answers: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None = None


class Cost(NamedTuple):
    """A cost and what it rests on. `amount` is in `prices.currency`; None where it is unknown."""

    amount: float | None
    how: str


def of_box(settings: Settings, seconds: float) -> float | None:
    """What so many seconds of the box cost; None where `prices.gpu_hour` is not set."""
    price = settings.prices.gpu_hour
    return None if price is None else seconds * price / _HOUR


def of_tokens(price: TokenPrice, prompt: int, completion: int) -> float:
    """What tokens cost."""
    return (prompt * price.prompt + completion * price.completion) / _MILLION


def token_price(settings: Settings, name: str) -> tuple[str, TokenPrice] | None:
    """The price of a served model's tokens, and under which key it stands.

    Args:
        name: a pinned version, whose alias counts where it has no price itself; or the base.
    """
    models = settings.prices.models
    for key in dict.fromkeys((name, name.partition("@v")[0])):
        if key in models:
            return key, models[key]
    return None


def per_thousand(settings: Settings, name: str, use: Use) -> Cost:
    """What 1,000 answers of a model that is served here cost."""
    if not use.answers:
        return Cost(None, "it gave no answers")
    each = 1000 / use.answers
    if priced := token_price(settings, name):
        key, price = priced
        amount = of_tokens(price, use.prompt_tokens, use.completion_tokens)
        return Cost(each * amount, f"prices.models.{key}")
    if settings.prices.gpu_hour is None:
        return Cost(None, "unknown: set prices.gpu_hour, or its price under prices.models")
    if use.seconds is None:
        return Cost(None, "unknown: all its answers were kept from earlier gates")
    amount_of_time = of_box(settings, use.seconds)
    assert amount_of_time is not None
    return Cost(each * amount_of_time, f"{use.seconds / use.answers:.3g} s of the box an answer")


def teacher_per_thousand(teacher: Teacher, use: Use, section: str = "curate.teacher") -> Cost:
    """What 1,000 answers of a teacher or judge cost."""
    if teacher.prompt_price is None or teacher.completion_price is None:
        return Cost(None, f"unknown: set {section}.prompt_price and {section}.completion_price")
    if not use.answers:
        return Cost(None, "it gave no answers")
    price = TokenPrice(prompt=teacher.prompt_price, completion=teacher.completion_price)
    amount = of_tokens(price, use.prompt_tokens, use.completion_tokens)
    return Cost(1000 / use.answers * amount, section)
