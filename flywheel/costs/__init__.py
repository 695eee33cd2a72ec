"""What the wheel costs, and what 1,000 answers do: `flywheel costs`, and the weekly report."""

from flywheel.costs.bill import costs, rate, total
from flywheel.costs.kinds import Box, Costs, Line, Rate, Thousand, Total
from flywheel.costs.shown import text

__all__ = [
    "Box",
    "Costs",
    "Line",
    "Rate",
    "Thousand",
    "Total",
    "costs",
    "rate",
    "text",
    "total",
]
