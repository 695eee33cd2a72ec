"""What all pages share: who asks, which alias, and how a page is rendered.

Everything is escaped by the templates; nothing marks text as safe but pictures that are drawn
from numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from curate.review import csrf
from curate.review.keys import Person, Role
from curate.review.login import Session, Sessions
from ledger.settings import Settings
from ledger.store import Store

HERE = Path(__file__).parent


class Link(NamedTuple):
    """An entry of the navigation: `/{alias}/{path}`."""

    path: str
    name: str


#: The navigation, in its order.
NAVIGATION = (
    Link("queue", "Queue"),
    Link("rows", "Rows"),
    Link("clusters", "Clusters"),
    Link("datasets", "Datasets"),
    Link("versions", "Versions"),
    Link("live", "Live"),
)


class NotLoggedIn(Exception):
    """Nobody is logged in; the page of the login is shown."""


class NotAllowed(Exception):
    """A person's role, or the request itself, does not allow it. The words are shown."""


def settings_of(request: Request) -> Settings:
    """The configuration."""
    settings: Settings = request.app.state.settings
    return settings


def store_of(request: Request) -> Store:
    """The ledger."""
    store: Store = request.app.state.store
    return store


def session_of(request: Request) -> Session | None:
    """Who is logged in, and with which token."""
    sessions: Sessions = request.app.state.sessions
    return sessions.of(request)


def person(request: Request) -> Person:
    """Who asks; a dependency of routes.

    Raises:
        NotLoggedIn: nobody is.
    """
    session = session_of(request)
    if session is None:
        raise NotLoggedIn
    request.state.session = session
    return session.person


def requires(role: Role) -> Callable[..., Person]:
    """A dependency of routes that only some may use: who asks.

    Raises:
        NotLoggedIn, NotAllowed: where it is used.
    """

    def checked(who: Annotated[Person, Depends(person)]) -> Person:
        if not who.may(role):
            raise NotAllowed(f"This needs the role {role}; {who.name} is a {who.role}.")
        return who

    return checked


async def protected(request: Request) -> None:
    """A dependency of every route: whatever is not a GET comes from a page of ours.

    Raises:
        NotAllowed: it does not, or lacks the session's token.
    """
    if request.method in ("GET", "HEAD"):
        return
    if not csrf.same_site(request):
        raise NotAllowed("This was sent by another site, so nothing was done.")
    session = session_of(request)
    if session is None or request.url.path == "/login":
        return  # nothing but the login goes on from here
    if not csrf.fits(await csrf.token_of(request), session.token):
        raise NotAllowed("This form is from another login. Load the page again; nothing was done.")


def alias_of(request: Request) -> str:
    """The alias that a page is about.

    Raises:
        ConfigError: there is none of that name.
    """
    alias = str(request.path_params["alias"])
    settings_of(request).alias(alias)
    return alias


def render(request: Request, template: str, status_code: int = 200, **values: Any) -> Response:
    """A page.

    Besides `values`, templates have `request`, `person` (None without login), `csrf`, `alias`
    (None outside of an alias), `aliases`, `navigation`, `here` (`queue`, `rows`, …).
    """
    session: Session | None = getattr(request.state, "session", None) or session_of(request)
    settings = settings_of(request)
    alias = request.path_params.get("alias")
    alias = alias if alias in settings.aliases else None
    parts = request.url.path.split("/")
    shared = {
        "person": session and session.person,
        "csrf": session.token if session else "",
        "alias": alias,
        "aliases": sorted(settings.aliases),
        "navigation": NAVIGATION,
        "here": parts[2] if alias and len(parts) > 2 else "",
    }
    return templates().TemplateResponse(
        request, template, {**shared, **values}, status_code=status_code
    )


@cache
def templates() -> Jinja2Templates:
    """The templates of the package, each of them escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": when, "ago": ago, "percent": percent, "nats": nats}
    return Jinja2Templates(env=environment)


def when(ts: float | None) -> str:
    """A time, UTC, to the minute."""
    if ts is None:
        return "–"
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")


def ago(ts: float | None) -> str:
    """How long a time is past, in its largest unit."""
    if ts is None:
        return "–"
    seconds = max(0.0, time.time() - ts)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def percent(share: float | None, digits: int = 0) -> str:
    """A share, 0 to 1, in percent."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def nats(value: float | None) -> str:
    """A logprob, nats."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
