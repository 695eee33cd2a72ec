"""The application: its pages, and what is shown when something is wrong.

Routes are plain functions, which run in threads: the store is synchronous.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Form
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from curate.judging.decisions import Outdated, leave
from curate.review import csrf
from curate.review.keys import People, Person, keys_file
from curate.review.login import Attempts, Sessions
from curate.review.pages import routers
from curate.review.web import HERE, NotAllowed, NotLoggedIn, person, protected, render, session_of
from ledger.errors import ConfigError, FlywheelError, LedgerLocked, RecordError, UnknownRow
from ledger.keys.vault import Vault
from ledger.settings import Settings
from ledger.store import Store

router = APIRouter()


def create(settings: Settings, store: Store, *, secret: str | None = None) -> FastAPI:
    """The application.

    Args:
        secret: what signs sessions; None: derived from the key of identities, so that a
            restart logs nobody out.

    Raises:
        ConfigError: that key cannot be read.
    """
    if secret is None:
        secret = Vault.open(settings.privacy.key_file).mac("review session", b"")
    app = FastAPI(
        title="Flywheel review",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(protected)],
    )
    app.state.settings = settings
    app.state.store = store
    app.state.people = People(keys_file(settings))
    app.state.sessions = Sessions(app.state.people, secret, settings.curate.review)
    app.state.attempts = Attempts()
    app.add_middleware(csrf.Guard)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(router)
    for one in routers():
        app.include_router(one)
    app.add_exception_handler(NotLoggedIn, _to_login)
    app.add_exception_handler(NotAllowed, _refused)
    app.add_exception_handler(FlywheelError, _failed)
    app.add_exception_handler(HTTPException, _missing)
    return app


@router.get("/")
def home(request: Request, who: Annotated[Person, Depends(person)]) -> Response:
    """The queue of the first alias."""
    first = next(iter(request.app.state.settings.aliases))
    return RedirectResponse(f"/{quote(first)}/queue", status_code=303)


@router.get("/login")
def login(request: Request, to: str = "/") -> Response:
    """Ask for a key."""
    if session_of(request) is not None:
        return RedirectResponse(_local(to), status_code=303)
    return render(request, "login.html", to=_local(to), problem="")


@router.post("/login")
def log_in(
    request: Request, key: Annotated[str, Form()] = "", to: Annotated[str, Form()] = "/"
) -> Response:
    """Check a key, and begin a session."""
    attempts: Attempts = request.app.state.attempts
    address = request.client.host if request.client else ""
    if (wait := attempts.wait(address)) > 0:
        problem = f"Too many attempts. Try again in {int(wait) + 1} seconds."
        answer = render(request, "login.html", 429, to=_local(to), problem=problem)
        answer.headers["Retry-After"] = str(int(wait) + 1)
        return answer
    found = request.app.state.people.with_key(key)
    if found is None:
        attempts.failed(address)
        return render(request, "login.html", 401, to=_local(to), problem="This key is not known.")
    response = RedirectResponse(_local(to), status_code=303)
    request.app.state.sessions.begin(response, found)
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/login", status_code=303)
    if (session := session_of(request)) is not None:
        request.app.state.sessions.end(response, session)
        if session.person.may("reviewer"):
            leave(request.app.state.store, session.person.name)
    return response


def _local(path: str) -> str:
    """A path of this page; anything else becomes `/`, so that a link cannot lead away."""
    sane = path.startswith("/") and path.isprintable() and "\\" not in path
    return path if sane and not path.startswith("//") else "/"


# -- when something is wrong ----------------------------------------------------------------------

_STATUS: tuple[tuple[type[FlywheelError], int], ...] = (
    (UnknownRow, 404),
    (Outdated, 409),
    (RecordError, 400),
    (ConfigError, 404),
    (LedgerLocked, 503),
)


def wants_json(request: Request) -> bool:
    """Whether a script asks, not a person."""
    return "application/json" in request.headers.get("accept", "")


def _said(request: Request, status: int, problem: str, more: str = "") -> Response:
    if wants_json(request):
        return JSONResponse({"problem": problem, "more": more}, status_code=status)
    title = HTTPStatus(status).phrase
    return render(request, "error.html", status, title=title, problem=problem, more=more)


def _to_login(request: Request, _error: Exception) -> Response:
    if wants_json(request):
        return _said(request, 401, "You are logged out.")
    to = request.url.path if request.method == "GET" else "/"
    if request.method == "GET" and request.url.query:
        to += f"?{request.url.query}"
    return RedirectResponse(f"/login?to={quote(to, safe='/')}", status_code=303)


def _refused(request: Request, error: Exception) -> Response:
    return _said(request, 403, str(error))


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, FlywheelError)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return _said(request, status, error.problem, " ".join(filter(None, (error.rule, error.remedy))))


def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _said(request, error.status_code, str(error.detail))
