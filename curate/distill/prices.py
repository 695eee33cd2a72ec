"""What answers cost, and a budget that is not exceeded.

Before a question is sent its worst case is set aside: as many prompt tokens as it has bytes (no
tokenizer makes more of them) with room for the template, and `max_tokens` for the answer. What
it did cost takes the place of that when the answer is there. So the budget holds however many
are asked at once; what a provider charges for answers that never arrived is not known here.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ledger.errors import ConfigError
from ledger.settings.curation import Teacher
from ledger.store import Spent

# Tokens that a chat template may put around a message, and around all of them.
_AROUND_MESSAGE = 16
_AROUND_ALL = 64
_MILLION = 1e6


class Usage(NamedTuple):
    """Tokens of one answer."""

    prompt: int
    completion: int


def worst_case(model: Teacher, body: Any, messages: int) -> Usage:
    """The most tokens that a question can take.

    Args:
        body: what is sent: messages and tools, as JSON values.
        messages: how many there are.
    """
    size = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return Usage(size + _AROUND_MESSAGE * messages + _AROUND_ALL, model.max_tokens)


def cost(model: Teacher, usage: Usage) -> float | None:
    """What tokens cost, in the currency of the price table; None where no price is set."""
    if model.prompt_price is None or model.completion_price is None:
        return None
    paid = usage.prompt * model.prompt_price + usage.completion * model.completion_price
    return paid / _MILLION


def spent(model: Teacher, usage: Usage, calls: int = 1) -> Spent:
    """The same for the ledger."""
    return Spent(calls, usage.prompt, usage.completion, cost(model, usage))


class Budget:
    """Money: what is left of it, and what is set aside for questions under way.

    Raises:
        ConfigError: there is a limit, and a model without prices.
    """

    def __init__(self, limit: float | None, models: dict[str, Teacher]) -> None:
        unpriced = [n for n, m in models.items() if cost(m, Usage(1, 1)) is None]
        if limit is not None and unpriced:
            names = ", ".join(
                f"curate.{name}.{price}"
                for name in unpriced
                for price in ("prompt_price", "completion_price")
            )
            raise ConfigError(
                f"a budget of {limit:g} was given, and what tokens cost is not known",
                rule=f"Not set: {names}.",
                remedy="Set the prices (per million tokens), or ask for --limit rows instead.",
            )
        self.limit = limit
        self.spent = 0.0
        self._aside = 0.0

    def fits(self, amount: float) -> bool:
        """Whether so much more can be set aside."""
        return self.limit is None or self.spent + self._aside + amount <= self.limit

    def reserve(self, amount: float) -> None:
        """Set it aside."""
        self._aside += amount

    def settle(self, reserved: float, paid: float) -> None:
        """Give back what was set aside, and count what was paid."""
        self._aside -= reserved
        self.spent += paid
