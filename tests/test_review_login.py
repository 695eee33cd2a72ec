"""Who gets into the review page, for how long, and where their keys stand."""

from __future__ import annotations

import stat

import pytest
from curate_rows import add_row
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from review_client import QUEUE, enter, field, propose
from starlette.testclient import TestClient

from curate.review import login
from curate.review.app import create
from curate.review.keys import People, keys_file
from ledger.errors import ConfigError, RecordError
from ledger.loopback import is_loopback
from ledger.store import now

pytestmark = pytest.mark.sqlite


@pytest.fixture
def app(settings, store):
    return create(settings, store)


@pytest.fixture
def client(app):
    """Somebody who is an operator and logged in."""
    return enter(app, "ada", "operator")


# -- getting in -----------------------------------------------------------------------------------


def test_without_a_login_there_is_only_the_login(app, store):
    add_row(store, "a", "Where is the secret parcel?")
    client = TestClient(app)
    for path in ("/", QUEUE, "/support/rows?q=x", "/support/live", "/nobody/queue"):
        page = client.get(path, follow_redirects=False)
        assert page.status_code == 303, path
        assert page.headers["location"].startswith("/login?to="), path
    assert client.get(QUEUE).url.params["to"] == QUEUE
    answer = client.post(f"{QUEUE}/draft", data={}, headers={"Accept": "application/json"})
    assert answer.status_code in (401, 422)
    for path in ("accept", "reject", "edit", "good", "skip", "undo", "tag", "draft", "hold"):
        data = {"row": "a", "seen": "0.0", "text": "x", "tag": "x"}
        page = client.post(f"{QUEUE}/{path}", data=data, follow_redirects=False)
        assert page.status_code == 303, path
    assert store.reviews() == []
    assert client.get("/openapi.json").status_code == 404


def test_every_route_but_the_login_asks_who_it_is(app):
    from fastapi.routing import APIRoute

    from curate.review.web import person

    open_to_all = {"/login", "/logout"}

    def dependencies(one):
        for part in one.dependencies:
            yield part.call
            yield from dependencies(part)

    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(routes) > 15
    for route in routes:
        if route.path not in open_to_all:
            assert person in set(dependencies(route.dependant)), route.path


def test_the_cookie_and_the_headers(app):
    client = TestClient(app)
    key = app.state.people.add("ada", "operator")
    page = client.post("/login", data={"key": f" {key}\n"}, follow_redirects=False)
    cookie = page.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert key not in page.headers["set-cookie"]
    page = client.get(QUEUE)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "same-origin"
    assert client.get("/static/style.css").status_code == 200
    assert client.get("/static/../app.py").status_code == 404


def test_secure_cookies(make_settings, store):
    settings = make_settings(curate={"review": {"secure_cookies": True}})
    app = create(settings, store)
    key = app.state.people.add("ada", "operator")
    page = TestClient(app).post("/login", data={"key": key}, follow_redirects=False)
    assert page.headers["set-cookie"].startswith("__Host-flywheel=")
    assert "secure" in page.headers["set-cookie"].lower()


def test_a_wrong_key_and_too_many_of_them(app):
    client = TestClient(app)
    key = app.state.people.add("ada", "operator")
    for _ in range(login.PER_ADDRESS):
        page = client.post("/login", data={"key": "guess"})
        assert page.status_code == 401
        assert "guess" not in page.text
    page = client.post("/login", data={"key": key})
    assert page.status_code == 429
    assert 0 < int(page.headers["retry-after"]) <= 60


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "x"])
def test_the_login_leads_nowhere_else(app, to):
    key = app.state.people.add("ada", "operator")
    data = {"key": key, "to": to}
    page = TestClient(app).post("/login", data=data, follow_redirects=False)
    assert page.headers["location"] == "/"


def test_logging_in_again_from_another_window(app, client):
    key = app.state.people.add("ben", "reviewer")
    page = client.post("/login", data={"key": key, "to": QUEUE})
    assert page.status_code == 200
    assert "ben <" in page.text


def test_who_is_taken_out_is_out_at_once(app, client):
    assert client.get(QUEUE, follow_redirects=False).status_code == 200
    app.state.people.remove("ada")
    assert client.get(QUEUE, follow_redirects=False).status_code == 303
    app.state.people.add("ada", "operator")
    assert client.get(QUEUE, follow_redirects=False).status_code == 303, "it is another key"


def test_after_logging_out_the_cookie_is_worth_nothing(app, client, store):
    add_row(store, "a")
    propose(store, "a")
    stolen = dict(client.cookies)
    client.post("/logout", data={"csrf": field(client.get(QUEUE), "csrf")})
    assert client.get(QUEUE, follow_redirects=False).status_code == 303
    assert TestClient(app, cookies=stolen).get(QUEUE, follow_redirects=False).status_code == 303
    assert store.claim("support", "ben", seconds=1) == "a", "who goes gives the row back"


def test_a_cookie_of_another_secret_is_none(settings, store, client):
    other = TestClient(create(settings, store, secret="another"), cookies=dict(client.cookies))
    assert other.get(QUEUE, follow_redirects=False).status_code == 303
    same = TestClient(create(settings, store), cookies=dict(client.cookies))
    assert same.get(QUEUE, follow_redirects=False).status_code == 200, "a restart logs nobody out"


@pytest.mark.parametrize(("hours", "status"), [(11, 200), (13, 303)])
def test_a_login_ends(settings, store, hours, status):
    class Then(TimestampSigner):
        def get_timestamp(self):
            return int(now()) - hours * 3600

    app = create(settings, store, secret="known")
    app.state.people.add("ada", "operator")
    key = app.state.people.named("ada").digest[:16]
    signer = URLSafeTimedSerializer("known", salt=login.SALT, signer=Then)
    cookie = signer.dumps({"name": "ada", "key": key, "token": "t"})
    client = TestClient(app, cookies={"flywheel": cookie})
    assert client.get(QUEUE, follow_redirects=False).status_code == status


# -- people --------------------------------------------------------------------------------


def test_keys_are_kept_as_hashes_and_nobody_else_reads_them(settings):
    people = People(keys_file(settings))
    key = people.add("ada", "reviewer")
    assert len(key) >= 43
    assert key not in people.path.read_text()
    assert stat.S_IMODE(people.path.stat().st_mode) == 0o600
    assert people.with_key(key).name == "ada"
    assert people.with_key(key[:-1]) is None
    assert [one.may("reviewer") for one in people.all()] == [True]
    assert not people.named("ada").may("operator")
    with pytest.raises(RecordError, match="already"):
        people.add("ada", "operator")
    with pytest.raises(RecordError, match="cannot be a name"):
        people.add("a b", "operator")
    with pytest.raises(RecordError, match="no 'ben'"):
        people.remove("ben")


@pytest.mark.parametrize("line", ["ada", "ada boss " + "0" * 64, "ada viewer xyz", "a viewer"])
def test_a_malformed_file_of_keys_lets_nobody_in(settings, line):
    people = People(keys_file(settings))
    people.add("ben", "operator")
    people.path.write_text(f"{people.path.read_text()}{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        people.all()


def test_a_file_of_keys_that_others_can_read_lets_nobody_in(settings):
    people = People(keys_file(settings))
    people.add("ada", "operator")
    people.path.chmod(0o640)
    people.path.touch()
    with pytest.raises(ConfigError, match="0640"):
        People(people.path).all()


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.de", False)],
)
def test_what_is_this_machine_only(host, own):
    assert is_loopback(host) is own
