"""Names of clusters: the terms that are frequent in one and rare elsewhere (c-TF-IDF).

A term is a word or a pair of words. It becomes part of a name only when it stands in the questions
of at least `ROWS` rows of at least `PEOPLE` people, so that nobody's own word is shown; and
placeholders, digits and words that say nothing are no terms. Names are of redacted text.

Source: class-based TF-IDF, Grootendorst, "BERTopic", arXiv 2203.05794
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

#: Rows, and people behind them, that must use a term before it may be shown.
ROWS, PEOPLE = 3, 2
#: Terms kept with a cluster, and how many of them its name has.
TERMS, IN_NAME = 8, 3
# A term in more than this share of all questions is no term, where there are several clusters.
_EVERYWHERE = 0.4
_WORD = re.compile(r"[^\W\d_]{2,30}")


class Asked(NamedTuple):
    """A question, and whose it is."""

    text: str
    person: str


def terms_of(text: str) -> set[str]:
    """Words of a text, and pairs of words that follow each other; none of them a stop word."""
    found: set[str] = set()
    before = ""
    end = 0
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        if word in _stop_words() or len(word) < 3:
            before = ""
            continue
        found.add(word)
        if before and text[end : match.start()].isspace():
            found.add(f"{before} {word}")
        before, end = word, match.end()
    return found


def telling_terms(
    clusters: dict[int, Sequence[Asked]], others: Iterable[Asked] = ()
) -> dict[int, list[str]]:
    """The most telling terms of each cluster, the best first; some may have none.

    Args:
        clusters: questions by cluster.
        others: questions of none, which say what is common.
    """
    everywhere, number = Counter[str](), 0
    rows: dict[int, Counter[str]] = {}
    people: dict[int, dict[str, set[str]]] = {}
    for cluster, questions in [*clusters.items(), (None, others)]:
        counted, whose = Counter[str](), defaultdict[str, set[str]](set)
        for asked in questions:
            number += 1
            terms = terms_of(asked.text)
            counted.update(terms)
            for term in terms:
                if len(whose[term]) < PEOPLE:
                    whose[term].add(asked.person)
        everywhere.update(counted)
        if cluster is not None:
            rows[cluster], people[cluster] = counted, whose
    common = _EVERYWHERE * number if len(clusters) > 1 else math.inf
    found = {}
    for cluster, counted in rows.items():
        scores = {
            term: count * math.log(1 + number / everywhere[term]) * (1.0 + 0.2 * (" " in term))
            for term, count in counted.items()
            if count >= ROWS and len(people[cluster][term]) >= PEOPLE and everywhere[term] <= common
        }
        found[cluster] = _best(scores)
    return found


def _best(scores: dict[str, float]) -> list[str]:
    """The best terms, no two of which say the same word."""
    chosen: list[str] = []
    said: set[str] = set()
    for term in sorted(scores, key=lambda term: (-scores[term], term)):
        stems = {_stem(word) for word in term.split()}
        if not stems & said:
            chosen.append(term)
            said |= stems
        if len(chosen) == TERMS:
            break
    return chosen


def _stem(word: str) -> str:
    """Enough of a word to know its other forms again."""
    return word[: max(4, len(word) - 3)]


def name_of(terms: Sequence[str], cluster: int, taken: Iterable[str] = ()) -> str:
    """A name that no other cluster has: some terms, as many more as it takes, else a number."""
    used = set(taken)
    for count in range(min(IN_NAME, len(terms)), len(terms) + 1):
        name = ", ".join(terms[:count])
        if name and name not in used:
            return name
    first = ", ".join(terms[:IN_NAME])
    return f"{first} ({cluster})" if first else f"cluster {cluster}"


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS | _MORE


# What people say when they ask, and the small words of some other languages.
_MORE = frozenset(
    word
    for line in (
        "hello hi hey dear thanks thank please help need want wants like know tell does did doesn",
        "don didn isn wasn won just get got getting way use using used make makes made going think",
        "sure trying try yes okay question problem issue thing things really still",
        "aber als am auch auf aus bei bin bis bitte das dass dem den der des die dies du ein eine",
        "einem einen einer er es für hab habe haben hallo hat ich ihr im ist ja kann kein keine",
        "man mein meine meinen mich mir mit nach nein nicht noch nur oder ob sein sich sie sind so",
        "um und von vor war warum was wenn wer wie wir wird wo zu zum zur über",
        "avec ces dans des elle est les leur mais mon nous par pas pour que qui ses son sur une",
        "vous vos votre como con del ella esta este las los más para pero por sin sus una",
    )
    for word in line.split()
)
