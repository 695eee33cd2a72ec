"""The PostgreSQL of `benchmarks.postgres`, for tests: skipped where none is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from benchmarks.postgres import ASKED, REMEDY, Postgres, binaries

__all__ = ["Postgres", "start_or_skip"]


def start_or_skip(**settings: Any) -> Postgres:
    """A running server; skips the test where none is installed, unless one is required."""
    if binaries() is None or importlib.util.find_spec("psycopg") is None:
        if ASKED:
            pytest.fail(f"FLYWHEEL_TEST_POSTGRES={ASKED}, and there is none: {REMEDY}")
        pytest.skip(f"no PostgreSQL here: {REMEDY}")
    return Postgres(**settings).start()
