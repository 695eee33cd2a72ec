"""Which rows the rules match: what columns say first, then tags, feedback and clusters, text last.

A rule sees a row as it is when it is looked at. A sweep looks at every row when it comes in, and
again at what may have come to hold since (`Matcher.that_use`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import sqlalchemy as sa

from curate.tagging.rules import Rule, load_rules
from ledger.database import tables
from ledger.records import Tag, is_negative
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import chunks


class Matched(NamedTuple):
    """Rows by the rules that matched them, in order, and how many texts a rule gave up on."""

    rows: dict[str, list[str]]
    timeouts: dict[str, int]


class Matcher:
    """Rules applied to rows."""

    def __init__(self, rules: Sequence[Rule], store: Store) -> None:
        self.rules = list(rules)
        self._store = store
        self._clusters: dict[tuple[str, str], set[int]] = {}

    @classmethod
    def of(cls, settings: Settings, store: Store) -> Self:
        """The configured rules.

        Raises:
            ConfigError: see `load_rules`.
        """
        return cls(load_rules(settings.curate.rules), store)

    def of_rows(self) -> Matcher:
        """The rules that can match a row when it comes in, before anything is known of it."""
        later = ("tagged", "cluster")
        rules = [r for r in self.rules if all(getattr(r.when, c) is None for c in later)]
        rules = [r for r in rules if r.when.feedback in (None, "none")]
        return Matcher(rules, self._store)

    def that_use(self, condition: str) -> Matcher:
        """The rules with a condition, to be looked at again when it may have come to hold."""
        used = [r for r in self.rules if getattr(r.when, condition) not in (None, "none")]
        return Matcher(used, self._store)

    def tags(self, rows: Sequence[Any]) -> tuple[list[Tag], dict[str, int]]:
        """The tags that the rules give rows, and how many texts each gave up on.

        Args:
            rows: of `COLUMNS`.
        """
        matched = self.match(rows, sampled=True)
        found = [rule.mark(row_id) for rule in self.rules for row_id in matched.rows[rule.name]]
        return found, matched.timeouts

    def match(self, rows: Sequence[Any], *, sampled: bool = False) -> Matched:
        """Which rows each rule matches.

        Args:
            sampled: leave out what is not in the rule's sample, before a text is opened.
        """
        left: dict[str, list[str]] = {}
        for rule in self.rules:
            fits = (row.row_id for row in rows if rule.when.fits(row))
            left[rule.name] = [
                row_id for row_id in fits if not sampled or rule.sampled(self._store, row_id)
            ]
        self._keep(left, rows)
        timeouts: dict[str, int] = {}
        opening = [rule for rule in self.rules if rule.when.opens and left[rule.name]]
        wanted = sorted({row_id for rule in opening for row_id in left[rule.name]})
        says: dict[str, set[str]] = {rule.name: set() for rule in opening}
        chosen = {rule.name: set(left[rule.name]) for rule in opening}
        for row in self._store.interactions(row_ids=wanted) if wanted else ():
            for rule in opening:
                if row.row_id not in chosen[rule.name] or not row.stored_text:
                    continue
                try:
                    if rule.when.says(row):
                        says[rule.name].add(row.row_id)
                except TimeoutError:
                    timeouts[rule.name] = timeouts.get(rule.name, 0) + 1
        for name, said in says.items():
            left[name] = [row_id for row_id in left[name] if row_id in said]
        return Matched(left, timeouts)

    def _keep(self, left: dict[str, list[str]], rows: Sequence[Any]) -> None:
        """Of the rows by rule, keep those whose tags, feedback and cluster fit."""
        whens = {rule.name: rule.when for rule in self.rules}

        def wanted(*conditions: str) -> list[str]:
            ids = (
                left[name]
                for name, when in whens.items()
                if any(getattr(when, condition) is not None for condition in conditions)
            )
            return sorted({row_id for some in ids for row_id in some})

        aliases = {row.row_id: row.alias for row in rows}
        tagged = self._tags(wanted("tagged", "not_tagged"))
        said = self._feedback(wanted("feedback"))
        clusters = self._cluster_of(wanted("cluster"))
        for name, when in whens.items():
            ids: Iterable[str] = left[name]
            if when.tagged is not None:
                ids = [one for one in ids if when.tagged in tagged.get(one, ())]
            if when.not_tagged is not None:
                ids = [one for one in ids if when.not_tagged not in tagged.get(one, ())]
            if when.feedback is not None:
                ids = [one for one in ids if when.feedback in said.get(one, {"none"})]
            if when.cluster is not None:
                ids = [
                    one
                    for one in ids
                    if clusters.get(one) in self._numbers(aliases[one], when.cluster)
                ]
            left[name] = list(ids)

    def _tags(self, row_ids: list[str]) -> dict[str, set[str]]:
        table = tables.tags
        found: dict[str, set[str]] = {}
        with self._store.reading() as connection:
            for chunk in chunks(row_ids):
                query = sa.select(table.c.row_id, table.c.tag).where(table.c.row_id.in_(chunk))
                for row_id, tag in connection.execute(query):
                    found.setdefault(row_id, set()).add(tag)
        return found

    def _feedback(self, row_ids: list[str]) -> dict[str, set[str]]:
        """`any`, and `negative` where some was."""
        table = tables.feedback
        columns = [table.c[name] for name in ("row_id", "rating", "score", "regenerate")]
        columns += [table.c.report, table.c.success]
        found: dict[str, set[str]] = {}
        with self._store.reading() as connection:
            for chunk in chunks(row_ids):
                for row in connection.execute(sa.select(*columns).where(table.c.row_id.in_(chunk))):
                    said = found.setdefault(row.row_id, {"any"})
                    said |= {"negative"} if is_negative(row) else set()
        return found

    def _cluster_of(self, row_ids: list[str]) -> dict[str, int | None]:
        table = tables.cluster_rows
        found: dict[str, int | None] = {}
        with self._store.reading() as connection:
            for chunk in chunks(row_ids):
                query = sa.select(table.c.row_id, table.c.cluster)
                for row_id, cluster in connection.execute(query.where(table.c.row_id.in_(chunk))):
                    found[row_id] = cluster
        return found

    def _numbers(self, alias: str | None, wanted: int | str) -> set[int]:
        """Numbers of the clusters meant: the one given, or those with a name."""
        if isinstance(wanted, int):
            return {wanted}
        key = (alias or "", wanted)
        if key not in self._clusters:
            table = tables.clusters
            last = sa.select(sa.func.max(table.c.seq)).group_by(table.c.alias, table.c.cluster)
            query = sa.select(table.c.cluster).where(
                table.c.seq.in_(last), table.c.alias == key[0], table.c.name == wanted
            )
            with self._store.reading() as connection:
                self._clusters[key] = set(connection.scalars(query))
        return self._clusters[key]
