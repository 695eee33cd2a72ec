"""The spaces and clusters of an alias as the ledger holds them, and where a question belongs.

A model is one space that was fitted on everything, and layers above it: spaces that were fitted
later on questions which those below could not see, or which were near nothing in them. Each
cluster lies in one of them. The last line of a cluster holds, as long as its space does; fitting
everything anew starts a new model, and a cluster that is still there keeps its number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.settings.curation import Clusters
from ledger.store import Store, now

if TYPE_CHECKING:
    from curate.clusters.endpoint import Endpoint
    from curate.clusters.space import Floats, Seen, Tfidf

#: The kind of a space that was fitted on what others could not see.
LAYER = "tfidf layer"

_spaces, _clusters = tables.spaces, tables.clusters


class Cluster(NamedTuple):
    """A cluster as it is now.

    Attributes:
        cluster: its number, which stays.
        name: its most telling terms.
        terms: more of them, the most telling first.
        members: rows that it had when this was written.
        space: number of the space that it lies in.
        ts: when this was written, seconds since the epoch.
    """

    cluster: int
    name: str
    terms: tuple[str, ...]
    members: int
    space: int
    ts: float


class Group(NamedTuple):
    """What is written of a cluster; `centre` is of shape (dimensions,) and length 1."""

    cluster: int
    name: str
    terms: list[str]
    centre: Floats
    members: int


def latest(store: Store, alias: str) -> dict[int, Cluster]:
    """The clusters of an alias by number."""
    with store.reading() as connection:
        return {
            row.cluster: Cluster(
                row.cluster, row.name, tuple(json.loads(row.terms)), row.members, row.space, row.ts
            )
            for row in _living(alias, connection)
        }


def newest_space(alias: str, connection: sa.Connection) -> int:
    """Number of the last space of an alias; 0 where there is none."""
    query = sa.select(sa.func.max(_spaces.c.seq)).where(_spaces.c.alias == alias)
    return int(connection.scalar(query) or 0)


def next_number(alias: str, connection: sa.Connection) -> int:
    """A number that no cluster of the alias ever had."""
    query = sa.select(sa.func.max(_clusters.c.cluster)).where(_clusters.c.alias == alias)
    return int(connection.scalar(query) or 0) + 1


class Model:
    """What is needed to place questions.

    Attributes:
        newest: number of the last space; another one means that somebody learned something.
        fitted_on: questions that there were when everything was fitted.
        spaces: by number, the fitted one first, then its layers.
        clusters: by number.
    """

    def __init__(self, settings: Clusters, http: Any = None) -> None:
        self.settings, self.http = settings, http
        self.newest = 0
        self.fitted_on = 0
        self.spaces: dict[int, Tfidf | Endpoint] = {}
        self.clusters: dict[int, Cluster] = {}
        self._centres: dict[int, tuple[list[int], Floats]] = {}  # by space

    @classmethod
    def load(cls, store: Store, alias: str, settings: Clusters, http: Any = None) -> Model:
        """The model of an alias; one without spaces where nothing was learned yet, or where it
        was learned by another kind of embedding.

        Raises:
            ConfigError: the endpoint is not set.
        """
        import numpy as np

        from curate.clusters.endpoint import Endpoint
        from curate.clusters.space import Tfidf

        model = cls(settings, http)
        endpoint = Endpoint(settings, http) if settings.embedding == "endpoint" else None
        with store.reading() as connection:
            model.newest = newest_space(alias, connection)
            root = _root(alias, connection)
            if root is None:
                return model
            query = sa.select(_spaces).where(_spaces.c.alias == alias, _spaces.c.seq >= root)
            for row in connection.execute(query.order_by(_spaces.c.seq)):
                if endpoint is None and row.kind in (Tfidf.kind, LAYER):
                    model.spaces[row.seq] = Tfidf.load(row.data)
                elif endpoint is not None and row.kind == Endpoint.kind:
                    if not endpoint.is_same(row.data):
                        return model
                    model.spaces[row.seq] = endpoint
                else:
                    return model
                if row.seq == root:
                    model.fitted_on = row.fitted_on
            found: dict[int, tuple[list[int], list[Any]]] = {}
            for row in _living(alias, connection):
                numbers, centres = found.setdefault(row.space, ([], []))
                numbers.append(row.cluster)
                centres.append(np.frombuffer(row.centroid, dtype=np.float32))
                terms = tuple(json.loads(row.terms))
                model.clusters[row.cluster] = Cluster(
                    row.cluster, row.name, terms, row.members, row.space, row.ts
                )
            model._centres = {
                space: (numbers, np.stack(centres)) for space, (numbers, centres) in found.items()
            }
        return model

    @property
    def root(self) -> Tfidf | Endpoint | None:
        """The space that everything was fitted in."""
        return next(iter(self.spaces.values()), None)

    def place(self, questions: Sequence[str]) -> list[int | None]:
        """The cluster of each question; None for what is like nothing known.

        A question belongs to the centre nearest to it, by the cosine of the whole question, what
        the space does not see of it included; and only where the part that is seen is within
        `similarity` of the centre.

        Raises:
            ServerError: the endpoint does not answer.
        """
        import numpy as np

        from curate.clusters.space import one_thread

        distinct = list(dict.fromkeys(questions))
        best = np.zeros(len(distinct), dtype=np.float32)
        found: list[int | None] = [None] * len(distinct)
        if distinct and self._centres:
            for number, seen in self._seen(distinct):
                if number not in self._centres:
                    continue
                clusters, centres = self._centres[number]
                with one_thread():
                    cosines = seen.vectors @ centres.T
                near = cosines.max(axis=1)
                whole = near * np.sqrt(seen.energy)
                enough = seen.energy >= max(self.spaces[number].floor, 1e-6)
                better = enough & (near >= self.settings.similarity) & (whole > best)
                for place in np.flatnonzero(better):
                    found[place] = clusters[int(cosines[place].argmax())]
                best = np.where(better, whole, best)
        where = {text: found[place] for place, text in enumerate(distinct)}
        return [where[text] if text.strip() else None for text in questions]

    def _seen(self, questions: Sequence[str]) -> list[tuple[int, Seen]]:
        from curate.clusters.space import Tfidf, counted

        raw: Any = None
        found = []
        for number, space in self.spaces.items():
            if isinstance(space, Tfidf):
                raw = counted(questions) if raw is None else raw
                found.append((number, space.see_counted(raw)))
            else:
                found.append((number, space.see(questions)))
        return found


def add_space(
    alias: str, space: Tfidf | Endpoint, kind: str, fitted_on: int, connection: sa.Connection
) -> int:
    """Append a space; its number."""
    values = {"alias": alias, "ts": now(), "kind": kind, "fitted_on": fitted_on}
    insert = sa.insert(_spaces).values(**values, data=space.dump())
    return int(connection.execute(insert.returning(_spaces.c.seq)).scalar_one())


def add_clusters(
    alias: str, space: int, groups: Sequence[Group], connection: sa.Connection
) -> None:
    """Append what holds of clusters from now on."""
    rows = [
        {
            "alias": alias,
            "cluster": group.cluster,
            "space": space,
            "ts": now(),
            "name": group.name,
            "terms": json.dumps(group.terms, ensure_ascii=False),
            "centroid": group.centre.astype("float32").tobytes(),
            "members": group.members,
        }
        for group in groups
    ]
    if rows:
        connection.execute(sa.insert(_clusters), rows)


def _root(alias: str, connection: sa.Connection) -> int | None:
    query = sa.select(sa.func.max(_spaces.c.seq)).where(
        _spaces.c.alias == alias, _spaces.c.kind != LAYER
    )
    return connection.scalar(query)


def _living(alias: str, connection: sa.Connection) -> Sequence[Any]:
    """The last line of each cluster whose space holds."""
    last = (
        sa.select(sa.func.max(_clusters.c.seq))
        .where(_clusters.c.alias == alias)
        .group_by(_clusters.c.cluster)
    )
    root = _root(alias, connection)
    query = sa.select(_clusters).where(_clusters.c.seq.in_(last), _clusters.c.space >= (root or 0))
    return connection.execute(query.order_by(_clusters.c.cluster)).all()
