"""The pages, one module each, with a `router` in it."""

from __future__ import annotations

import importlib

from fastapi import APIRouter

#: In the order of the navigation.
PAGES = ("queue", "rows", "clusters", "datasets", "versions", "live")


def routers() -> list[APIRouter]:
    """The routes of all pages."""
    found: list[APIRouter] = []
    for name in PAGES:
        try:
            found.append(importlib.import_module(f"{__name__}.{name}").router)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    return found
