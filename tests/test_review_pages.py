"""The pages Rows, Clusters, Datasets, Versions and Live, over HTTP and in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import review_rows
import sqlalchemy as sa
from review_rows import NOW, add, in_both_datasets, is_queued
from starlette.testclient import TestClient

from curate.review.app import create
from curate.review.keys import People, Role, keys_file
from ledger.database import tables
from ledger.deployments import Deployments
from ledger.marks import OPERATOR_REVIEW
from ledger.records import Correction, Feedback, Tag
from ledger.settings import Settings
from ledger.store import Store

ROWS = 300
NASTY = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'{{7*7}}"


@pytest.fixture
def ids(settings: Settings, store: Store) -> list[str]:
    """A full ledger; ids of its rows, oldest first."""
    return review_rows.fill(settings, store, NOW, ROWS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> float:
    """The pages' clock stands at the end of the ledger."""
    import curate.review.pages.clusters
    import curate.review.pages.live

    class Fixed:
        @staticmethod
        def time() -> float:
            return NOW

    monkeypatch.setattr(curate.review.pages.live, "time", Fixed)
    monkeypatch.setattr(curate.review.pages.clusters, "time", Fixed)
    return NOW


class Client:
    """Somebody who is logged in."""

    def __init__(self, settings: Settings, store: Store, role: Role = "operator") -> None:
        self.http = TestClient(create(settings, store), base_url="http://testserver")
        key = People(keys_file(settings)).add(f"ada-{role}", role)
        answer = self.http.post("/login", data={"key": key}, follow_redirects=False)
        assert answer.status_code == 303

    def get(self, path: str, status: int = 200) -> str:
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, token: str | None = None) -> int:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/support/rows"))
        assert found is not None
        sent = {"csrf": found[1] if token is None else token}
        return self.http.post(path, data=sent, follow_redirects=False).status_code


@pytest.fixture
def client(settings: Settings, store: Store) -> Iterator[Client]:
    found = Client(settings, store)
    yield found
    found.http.close()


PAGES = {
    "rows": ("/support/rows", "Does the solar panel kit"),
    "rows of a filter": ("/support/rows?tag=user_edit&from=2025-11-01&to=2025-11-17", "correction"),
    "clusters": ("/support/clusters", "refund · money · back"),
    "datasets": ("/support/datasets", "9f8e7d6c9f8e"),
    "dataset": (f"/support/datasets/{review_rows.DATASETS[1]}", "gold question"),
    "versions": ("/support/versions", "underpowered"),
    "version": ("/support/versions/2", "McNemar"),
    "live": ("/support/live", "Answers users were not content with"),
    "live of a day": ("/support/live?days=1", "Answers per hour"),
}


# -- each page ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("ids", "clock")
def test_each_page_shows_what_the_ledger_has(client: Client) -> None:
    for path, words in PAGES.values():
        page = client.get(path)
        assert words in page, path
        assert "<svg" in page or "rows" in path or path.endswith("datasets"), path
    # A fifth of today's questions, and nothing of it in the newest dataset.
    assert "<strong>New:</strong>" in client.get("/support/clusters")


@pytest.mark.sqlite
def test_each_page_of_an_empty_ledger_says_what_fills_it(client: Client) -> None:
    assert "No answers yet" in client.get("/support/rows")
    assert "No clusters yet" in client.get("/support/clusters")
    assert "No dataset yet" in client.get("/support/datasets")
    assert "No versions yet" in client.get("/support/versions")
    assert "No answers in this window" in client.get("/support/live")


@pytest.mark.sqlite
@pytest.mark.parametrize(("age", "days"), [(0.02, 1), (3, 7), (20, 30), (400, 30)])
def test_live_opens_on_the_window_that_has_something_to_show(
    client: Client, store: Store, clock: float, age: float, days: int
) -> None:
    for number in range(3):
        add(store, f"first-{number}", ts=clock - age * 86_400 + number)
    page = client.get("/support/live")
    assert f'<a href="?days={days}" aria-current="true">' in page
    if age < 30:
        assert "3 answers from" in page
        assert "No answers in this window" not in page


def test_what_is_not_there_is_not_found(client: Client, store: Store, ids: list[str]) -> None:
    for path in (
        "/support/rows/nobody", "/support/datasets/fw1:dataset:0", "/support/versions/9",
        "/nobody/live", "/nobody/rows", "/nobody/clusters", "/nobody/datasets", "/nobody/versions",
    ):  # fmt: skip
        client.get(path, 404)
    add(store, "elsewhere", alias="other", version="other@v1")
    client.get("/support/rows/elsewhere", 404)
    assert client.post("/support/rows/elsewhere") == 404
    assert "write a number" in client.get("/support/rows?high=nan&before=nonsense")
    assert store.tags(["elsewhere"]) == {}


@pytest.mark.sqlite
def test_nobody_sees_anything_without_a_login(settings: Settings, store: Store) -> None:
    http = TestClient(create(settings, store))
    for path, _ in PAGES.values():
        answer = http.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"][:10]) == (303, "/login?to="), path


@pytest.mark.sqlite
@pytest.mark.usefixtures("clock")
def test_nothing_that_somebody_typed_can_run(
    settings: Settings, store: Store, ids: list[str], client: Client
) -> None:
    row_id, hours = "a/b?c#d <b>", NOW - 3600
    add(store, row_id, ts=hours, messages=[{"role": NASTY, "content": NASTY}], response=NASTY)
    store.add_tags([Tag(row_id=row_id, tag="odd", who=NASTY, why=NASTY, ts=hours)])
    store.add_feedback(
        Feedback(feedback_id="n", row_id=row_id, ts=hours, reason=NASTY, correction=NASTY)
    )
    store.add_correction(
        Correction(row_id=row_id, ts=hours, source="user", author=NASTY, text=NASTY,
                   decision="rejected", why=NASTY)
    )  # fmt: skip
    store.add_left_out("support", review_rows.DATASETS[1], {row_id: NASTY})
    Deployments(store).rollback("support", who=NASTY, why=NASTY)
    with store.transaction() as connection:
        store.add_review(row_id, NASTY, "operator", "skip", connection, why=NASTY)
        connection.execute(sa.update(tables.clusters).values(name=NASTY))
        connection.execute(
            sa.update(tables.cluster_rows)
            .where(tables.cluster_rows.c.row_id == ids[-1])
            .values(row_id=row_id)
        )
        report = {"pairs": 1, "sources": {NASTY: 1}, "left_out": {NASTY: 1},
                  "capped_subjects": {NASTY: 2}, "clusters": {NASTY: 3}}  # fmt: skip
        connection.execute(sa.update(tables.datasets).values(report=json.dumps(report)))
        connection.execute(sa.update(tables.alerts).values(kind=NASTY, report=json.dumps(report)))
    row = "/support/rows/a%2Fb%3Fc%23d%20%3Cb%3E"
    paths = [path for path, _ in PAGES.values()]
    seen = 0
    for path in [*paths, row, "/support/rows?text=%3Cscript%3E&tag=%3Cb%3E&from=%3Cb%3E"]:
        page = client.get(path)
        assert "<script>" not in page, path
        assert "<img" not in page, path
        assert "<b>" not in page, path
        assert " style=" not in page, path
        assert " onerror" not in page.replace("src=x onerror", ""), path
        seen += "&lt;script&gt;" in page
    assert seen >= 6
    assert "{{7*7}}" in client.get(row)


# -- one row -----------------------------------------------------------------------------------


def test_a_row_with_all_that_is_known_of_it(
    settings: Settings, store: Store, ids: list[str], client: Client
) -> None:
    row_id = in_both_datasets(store, ids)
    store.add_tags([Tag(row_id=row_id, tag="vip", who="operator:ben", why="a key account", ts=NOW)])
    store.add_feedback(Feedback(feedback_id="x", row_id=row_id, ts=NOW, score=0.1, reason="rude"))
    for decision, why in (("proposed", ""), ("rejected", "too long"), ("accepted", "it is right")):
        store.add_correction(
            Correction(row_id=row_id, ts=NOW, source="operator", author="ben", text="shipping",
                       decision=decision, why=why)
        )  # fmt: skip
    with store.transaction() as connection:
        store.add_review(row_id, "ben", "operator", "accept", connection, why="seen twice")
    page = client.get(f"/support/rows/{row_id}")
    for words in (
        "operator:ben", "a key account", "score 0.1", "rude", "too long", "it is right",
        "seen twice", "/support/versions/1", "/support/versions/2", "/support/versions/3",
        *(f"/support/datasets/{quoted}" for quoted in map(quote, review_rows.DATASETS)),
        "Like it",
    ):  # fmt: skip
        assert words in page, words
    assert page.index("too long") < page.index("it is right")


@pytest.mark.sqlite
def test_why_a_row_is_not_in_a_dataset(client: Client, ids: list[str]) -> None:
    page = client.get(f"/support/rows/{ids[1]}")
    assert "left out: gold question" in page
    assert "In no dataset" not in page


@pytest.mark.sqlite
def test_a_correction_whose_author_was_forgotten_is_listed_without_its_text(
    store: Store, client: Client, ids: list[str]
) -> None:
    correction = {"row_id": ids[0], "ts": NOW, "source": "user", "decision": "rejected"}
    for author in ("ada", "ben"):
        store.add_correction(Correction(author=author, text=f"{author} said so", **correction))
    store.forget("ben", who="operator:ada", why="asked for it")
    history = store.correction_history(ids[0])
    assert [(one.author, one.text) for one in history[-2:]] == [
        ("ada", "ada said so"),
        ("ben", None),
    ]
    page = client.get(f"/support/rows/{ids[0]}")
    assert "ada said so" in page
    assert "Its text is gone" in page


@pytest.mark.sqlite
def test_a_reviewer_puts_a_row_on_the_queue_and_a_viewer_cannot(
    settings: Settings, store: Store, ids: list[str]
) -> None:
    row_id = next(one for one in ids if not is_queued(store, one))
    viewer, reviewer = Client(settings, store, "viewer"), Client(settings, store, "reviewer")
    assert "Put on the queue" not in viewer.get(f"/support/rows/{row_id}")
    assert viewer.post(f"/support/rows/{row_id}") == 403
    assert "Put on the queue" in reviewer.get(f"/support/rows/{row_id}")
    assert reviewer.post(f"/support/rows/{row_id}", token="another") == 403
    assert not is_queued(store, row_id)
    assert reviewer.post(f"/support/rows/{row_id}") == 303
    assert is_queued(store, row_id)
    assert [tag.tag for tag in store.tags([row_id])[row_id]][-1] == OPERATOR_REVIEW
    assert "Waits in the queue" in reviewer.get(f"/support/rows/{row_id}")
    # Judged, and asked for again by the same person.
    store.add_correction(
        Correction(row_id=row_id, ts=NOW, source="operator", author="ben", text="shipping",
                   decision="accepted")
    )  # fmt: skip
    assert not is_queued(store, row_id)
    assert reviewer.post(f"/support/rows/{row_id}") == 303
    assert is_queued(store, row_id)


# -- in a browser ------------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.usefixtures("clock")
def test_each_page_in_a_browser(settings: Settings, store: Store, ids: list[str]) -> None:
    import browser

    paths = {name.replace(" ", "-"): path for name, (path, _) in PAGES.items()}
    paths["row"] = f"/support/rows/{in_both_datasets(store, ids)}"
    looks: dict[str, dict[str, Any]] = {
        "light": {},
        "dark": {"color_scheme": "dark"},
        "phone": {"viewport": browser.PHONE},
    }
    with browser.served(settings, store) as page, browser.launched() as chromium:
        for look, options in looks.items():
            tab = browser.logged_in(chromium, page, f"ada-{look}", **options)
            errors: list[str] = []
            tab.on("console", lambda said, errors=errors: errors.append(said.text))
            for name, path in paths.items():
                answer = tab.goto(path)
                assert answer.status == 200, path
                browser.screenshot(tab, f"{name}-{look}")
                assert not browser.is_wider_than_the_screen(tab), (look, path)
                if look != "phone":
                    assert browser.axe_findings(tab) == [], (look, path)
            assert errors == []  # the policy for content would name what it blocked
