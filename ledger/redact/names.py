"""Detectors of people's names; off by default, for what they cost and how much they miss.

A detector is anything that takes texts and answers, for each, where names stand. Two are here,
behind the extra `names`: spaCy, and Presidio on top of spaCy. `Listed` knows only the names that
it is given: a company's own staff, say.

What a detector misses stays in the text. Small English models find about two names in three,
and next to none in scripts they were not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, Protocol

from ledger.errors import ConfigError

_INSTALL = "pip install 'flywheel[names]'"


class Detector(Protocol):
    """Finds names of people."""

    def __call__(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """For each text the spans of characters that are names, none overlapping another.

        Raises:
            Exception: whatever fails; no text is kept then.
        """


class Listed:
    """Finds the names that it is given, as whole words in any case.

    Args:
        names: such as "Ada Lovelace"; an empty list finds nothing.
    """

    def __init__(self, names: Iterable[str]) -> None:
        longest_first = sorted({name.strip() for name in names} - {""}, key=len, reverse=True)
        words = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
        self._pattern = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None

    def __call__(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """See `Detector`."""
        if self._pattern is None:
            return [[] for _ in texts]
        return [[match.span() for match in self._pattern.finditer(text)] for text in texts]


class Spacy:
    """A spaCy pipeline with an entity recognizer; takes `PERSON` and `PER`.

    Args:
        model: name of an installed pipeline, or the path of one.

    Raises:
        ConfigError: spaCy or the pipeline is not installed.
    """

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError:
            raise _absent("spacy", "spaCy") from None
        try:
            self.pipeline = spacy.load(model, exclude=["lemmatizer", "attribute_ruler"])
        except OSError:
            raise ConfigError(
                f"privacy.names_model is {model!r}, and no such spaCy pipeline is installed",
                rule="names need a trained pipeline; several look-alikes on PyPI have version "
                "999.9.9 and are none",
                remedy=f"python -m spacy download {model}, or set it to the path of a pipeline",
            ) from None

    def __call__(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """See `Detector`."""
        return [
            [
                (entity.start_char, entity.end_char)
                for entity in document.ents
                if entity.label_ in ("PERSON", "PER")
            ]
            for document in self.pipeline.pipe(texts)
        ]


class Presidio:
    """Presidio's analyzer with a spaCy pipeline; takes `PERSON`.

    Args:
        model: name of an installed spaCy pipeline, or the path of one.

    Raises:
        ConfigError: Presidio or the pipeline is not installed.
    """

    def __init__(self, model: str) -> None:
        try:
            from presidio_analyzer import AnalyzerEngine
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
        except ImportError:
            raise _absent("presidio", "presidio-analyzer") from None
        # Loaded here: Presidio would try to download a pipeline that is not installed.
        pipeline = Spacy(model).pipeline
        self._language: str = pipeline.lang
        engine = SpacyNlpEngine(models=[{"lang_code": self._language, "model_name": model}])
        engine.nlp = {self._language: pipeline}
        self._analyzer: Any = AnalyzerEngine(
            nlp_engine=engine, supported_languages=[self._language]
        )

    def __call__(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """See `Detector`."""
        return [
            [
                (result.start, result.end)
                for result in self._analyzer.analyze(
                    text, language=self._language, entities=["PERSON"]
                )
            ]
            for text in texts
        ]


def detector_of(kind: Literal["none", "spacy", "presidio"], model: str) -> Detector | None:
    """The detector that the settings name.

    Args:
        kind: `privacy.names`.
        model: `privacy.names_model`.

    Raises:
        ConfigError: it is not installed.
    """
    if kind == "none":
        return None
    return Spacy(model) if kind == "spacy" else Presidio(model)


def _absent(value: str, package: str) -> ConfigError:
    return ConfigError(
        f"privacy.names is {value!r}, and {package} is not installed",
        rule="a detector of names is an extra",
        remedy=f"{_INSTALL}, or set privacy.names to none: names then stay in the text",
    )
