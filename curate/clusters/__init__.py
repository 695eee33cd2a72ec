"""Clusters of questions that are alike: what people ask, what goes wrong there, and what is new.

    questions  the text of a row that says what it is about
    sample     which rows stand for all traffic, and for how much of it
    space      questions as vectors, without a model
    endpoint   the same from an embedding model behind an endpoint
    group      vectors as groups
    names      groups by their terms
    model      the spaces and clusters of an alias, and where a question belongs
    intake     takes in what is new
    learn      makes clusters
    fresh      reports those that the training data does not know
    counts     how they do over time

Rows are clustered by what was asked, never by who asked. The vector of a single question is not
stored.
"""

from __future__ import annotations

from curate.clusters.counts import (
    FAILURES,
    NOTHING_KNOWN,
    ClusterCounts,
    Day,
    cluster_of,
    counts,
    daily,
    neighbours,
)
from curate.clusters.fresh import Fresh
from curate.clusters.model import Cluster, latest
from curate.clusters.update import Updated, update

__all__ = [
    "FAILURES",
    "NOTHING_KNOWN",
    "Cluster",
    "ClusterCounts",
    "Day",
    "Fresh",
    "Updated",
    "cluster_of",
    "counts",
    "daily",
    "latest",
    "neighbours",
    "update",
]
