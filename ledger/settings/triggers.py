"""Settings: what starts a retrain."""

from __future__ import annotations

from pydantic import Field

from ledger.settings.section import Section


class AccuracyDrop(Section):
    """The gold questions are answered worse than they were."""

    on: bool = Field(True, description="whether it may start a retrain")
    points: float = Field(
        0.05, gt=0, lt=1, description="drop from the best score, beyond its interval, 0 to 1"
    )
    min_pairs: int = Field(20, ge=1, description="fewest new pairs; below it: collect more first")


class DriftAlert(Section):
    """A drift alert, and corrections of what was answered in its window or since."""

    on: bool = Field(True, description="whether it may start a retrain")
    min_pairs: int = Field(
        20, ge=1, description="fewest new pairs from the alert's window on; below it: collect more"
    )


class NewPairs(Section):
    """Enough new pairs. A permission, not a cause: they are taken along with the calendar."""

    on: bool = Field(
        True, description="whether the calendar needs so many; off: any new pair is enough for it"
    )
    count: int = Field(100, ge=1, description="new pairs since what the live version learned")


class Calendar(Section):
    """So much time since the last retrain, and enough new pairs."""

    on: bool = Field(True, description="whether it may start a retrain")
    days: float = Field(7, gt=0, description="time between two retrains, days")


class FailureCluster(Section):
    """One kind of question goes wrong again and again."""

    on: bool = Field(True, description="whether it may start a retrain")
    failures: int = Field(25, ge=1, description="failed answers of one cluster within `days`")
    days: float = Field(7, gt=0, description="window that failures are counted in, days")
    min_pairs: int = Field(10, ge=1, description="fewest new pairs of that cluster")


class NewDomain(Section):
    """A kind of question that nothing was learned about."""

    on: bool = Field(True, description="whether it may start a retrain")
    min_pairs: int = Field(
        20, ge=1, description="fewest new pairs of clusters that the training data lacks"
    )


class Triggers(Section):
    """What starts a retrain, and what keeps it from starting."""

    accuracy: AccuracyDrop = Field(
        default_factory=AccuracyDrop, description="gold questions answered worse"
    )
    drift: DriftAlert = Field(default_factory=DriftAlert, description="a drift alert")
    pairs: NewPairs = Field(default_factory=NewPairs, description="enough new pairs")
    calendar: Calendar = Field(default_factory=Calendar, description="time has passed")
    failures: FailureCluster = Field(
        default_factory=FailureCluster, description="a cluster that goes wrong"
    )
    domain: NewDomain = Field(default_factory=NewDomain, description="a cluster that is new")
    cooldown_hours: float = Field(
        24, ge=0, description="least time between two retrains of an alias, hours; twice as long "
        "for each version in a row that was refused or rolled back",
    )  # fmt: skip
    longest_cooldown_hours: float = Field(
        168, ge=0, description="what that doubling ends at, hours"
    )
    gpu_hours_a_week: float | None = Field(
        None, ge=0, description="budget of training and gates in seven days, GPU hours"
    )
    cost_a_week: float | None = Field(
        None, ge=0, description="the same in the currency of `prices`; needs `prices.gpu_hour`"
    )
    min_gain: float = Field(
        0.002, ge=0, lt=1, description="least expected gain, share of all answers, 0 to 1"
    )
    never_pays_after: int = Field(
        3, ge=1, description="retrains without a version that stayed, after which a trigger is "
        "named as one that never pays",
    )  # fmt: skip
