"""What Presidio without a language model finds; benchmarks/redaction.py runs it in its own
environment, so it imports nothing of this project.

Reads from stdin JSON `{"texts": [...], "timed": [...]}`, writes to stdout JSON `{"spans":
[[[start, end], ...], ...], "ms": [...], "version": "..."}`: spans of `texts`, milliseconds of
each of `timed`.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import spacy
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import SpacyNlpEngine


class Tokens(SpacyNlpEngine):
    """A pipeline that cuts text into words and knows nothing else."""

    def __init__(self) -> None:
        super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
        self.nlp = {"en": spacy.blank("en")}


def main() -> None:
    """Read, analyze, write."""
    given = json.load(sys.stdin)
    engine = AnalyzerEngine(nlp_engine=Tokens(), supported_languages=["en"])

    def spans(text: str) -> list[list[int]]:
        return [[found.start, found.end] for found in engine.analyze(text, language="en")]

    found = [spans(text) for text in given["texts"]]
    times = []
    for text in given["timed"]:
        started = time.perf_counter()
        spans(text)
        times.append((time.perf_counter() - started) * 1000)
    json.dump({"spans": found, "ms": times, "version": version("presidio-analyzer")}, sys.stdout)


if __name__ == "__main__":
    main()
