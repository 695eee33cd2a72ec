"""The parts of clusters: questions, spaces, groups, names, and an endpoint for embeddings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa
import uvicorn
from asked import OLD, START, TOPICS, add_topics, ask
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from curate import clusters
from curate.clusters.endpoint import BATCH, Endpoint
from curate.clusters.group import ALONE, grouped, matched
from curate.clusters.names import Asked, name_of, telling_terms, terms_of
from curate.clusters.space import LEAST, Tfidf
from ledger.database import tables
from ledger.errors import ConfigError, ServerError
from ledger.questions import question
from ledger.settings.curation import Clusters


def questions(topics, number, seed=0):
    import random

    rng = random.Random(seed)
    return [ask(rng, topics[place % len(topics)]) for place in range(number)]


# -- the question of a row -----------------------------------------------------------------------


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "system", "content": "Be brief."}, user("Where is my parcel now?")],
         "Where is my parcel now?"),
        ([user("Where is my parcel?"), {"role": "assistant", "content": "It?"}, user("a red one")],
         "Where is my parcel?\na red one"),
        ([user("Where is my parcel?"), user("And how long does a refund take here?")],
         "And how long does a refund take here?"),
        ([user([{"type": "text", "text": "What is"}, {"type": "image_url"},
                {"type": "text", "text": "in this picture of mine?"}])],
         "What is\nin this picture of mine?"),
        ([user("Write to [EMAIL_1] or call [PHONE_2] soon")], "Write to   or call   soon"),
        ([user("[EMAIL_1]")], ""),
        ([{"role": "assistant", "content": "Hello"}], ""),
        (None, ""),
    ],
)  # fmt: skip
def test_the_question_is_what_the_user_said_last(messages, expected):
    assert question(messages) == expected


# -- spaces --------------------------------------------------------------------------------------


def test_a_space_is_the_same_again_and_after_it_was_stored():
    texts = questions(OLD, 120)
    space, again = Tfidf.fit(texts), Tfidf.fit(texts)
    assert space.dump() == again.dump()
    loaded = Tfidf.load(space.dump())
    here, there = space.see(texts), loaded.see(texts)
    assert np.allclose(here.vectors, there.vectors, atol=1e-6)
    assert np.allclose(np.linalg.norm(here.vectors, axis=1), 1, atol=1e-5)
    assert loaded.floor == space.floor
    assert np.all((here.energy > 0) & (here.energy <= 1 + 1e-5))


def test_what_a_space_was_not_fitted_on_it_hardly_sees():
    space = Tfidf.fit(questions(OLD, 200))
    known = space.see(questions(OLD, 50, seed=1)).energy
    unknown = space.see(["my espresso machine leaks", "xyzzy plugh", "", "steam wand cold"]).energy
    assert np.mean(known >= space.floor) > 0.95
    assert np.all(unknown < space.floor)


def test_what_few_questions_had_is_not_in_a_space():
    rare = ["zanzibar quokkaville"] * (LEAST - 1)
    texts = questions(OLD, 60)
    lone = Tfidf.fit([*texts, *rare]).see(["zanzibar quokkaville"])
    common = Tfidf.fit([*texts, *rare, rare[0]]).see(["zanzibar quokkaville"])
    assert lone.energy[0] < 0.05 < 0.5 < common.energy[0]


def test_pickled_objects_are_refused():
    import io

    file = io.BytesIO()
    np.savez(file, questions=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        Tfidf.load(file.getvalue())


# -- groups --------------------------------------------------------------------------------------


def around(centre, number, rng, spread=0.2):
    found = centre + spread * rng.standard_normal((number, len(centre)))
    return (found / np.linalg.norm(found, axis=1)[:, None]).astype(np.float32)


def test_groups_are_found_and_what_is_alone_stays_alone():
    rng = np.random.default_rng(0)
    axes = np.eye(8)
    vectors = np.concatenate(
        [around(axes[0], 30, rng), around(axes[1], 20, rng), around(axes[2], 3, rng)]
    )
    labels = grouped(vectors, np.ones(53, dtype=bool), 0.5, 5)
    assert len(set(labels[:30])) == len(set(labels[30:50])) == 1
    assert labels[0] != labels[30]
    assert set(labels[50:]) == {ALONE}
    unseen = grouped(vectors, np.zeros(53, dtype=bool), 0.5, 5)
    assert set(unseen) == {ALONE}


def test_a_group_keeps_its_number_by_the_majority_of_its_members():
    new = np.array([0, 0, 0, 1, 1, 1, 2, 2, ALONE])
    old = [7, 7, 8, 8, 8, None, None, None, 9]
    assert matched(new, old) == {0: 7, 1: 8}


# -- names ---------------------------------------------------------------------------------------


def test_terms_are_words_and_pairs_and_nothing_that_says_nothing():
    assert terms_of("Where is the espresso machine 4711?") == {
        "espresso", "machine", "espresso machine",
    }  # fmt: skip
    assert "machine descale" not in terms_of("espresso machine, descale")


def test_a_term_needs_several_rows_of_several_people():
    def rows(text, people):
        return [Asked(text, person) for person in people]

    found = telling_terms(
        {
            1: [
                *rows("parcel late", ["ada", "ben", "eve"]),
                *rows("parcel zanzibar", ["ada"] * 5),
                *rows("parcel rare", ["ada", "ben"]),
            ],
            2: rows("refund please", [str(number) for number in range(20)]),
        }
    )
    assert found == {1: ["parcel", "late"], 2: []}
    alone = telling_terms({2: rows("refund please", ["ada", "ben", "eve"])})
    assert alone == {2: ["refund"]}


def test_names_differ():
    assert name_of(["a", "b", "c", "d"], 1) == "a, b, c"
    assert name_of(["a", "b", "c", "d"], 2, ["a, b, c"]) == "a, b, c, d"
    assert name_of(["a"], 3, ["a"]) == "a (3)"
    assert name_of([], 4) == "cluster 4"


# -- an endpoint ---------------------------------------------------------------------------------


class Served:
    """An endpoint that knows topics by their words; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.keys: set[str] = set()
        self.broken = False
        self.url = ""

    def vector(self, text: str) -> list[float]:
        """One direction a topic."""
        parts = [float(any(word in text for word in words)) for words, _ in TOPICS.values()]
        return [*parts, 0.1]


@pytest.fixture
def served() -> Iterator[Served]:
    state, app = Served(), FastAPI()

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> JSONResponse:
        body = await request.json()
        state.keys.add(request.headers["authorization"])
        if state.broken:
            return JSONResponse(
                {"error": {"message": body["input"][0]}}, 503, {"x-should-retry": "false"}
            )
        state.asked.append(len(body["input"]))
        data = [
            {"object": "embedding", "index": place, "embedding": state.vector(text)}
            for place, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        found = {"object": "list", "model": body["model"], "data": data[::-1], "usage": usage}
        return JSONResponse(found)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 10
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    state.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield state
    server.should_exit = True
    thread.join()


def by_endpoint(make_settings, url, **given):
    return make_settings(
        curate={"clusters": {"embedding": "endpoint", "url": url, "model": "tiny", **given}}
    )


def test_an_endpoint_makes_clusters(make_settings, store, served, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_EMBEDDING_KEY", "secret-of-ada")
    settings = by_endpoint(make_settings, served.url)
    add_topics(store, [*OLD, *OLD] * 25)
    done = clusters.update(settings, store, "support")
    assert done.clusters == 3
    assert served.keys == {"Bearer secret-of-ada"}
    assert max(served.asked) <= BATCH
    before = sum(served.asked)
    ids = add_topics(store, ["parcel"] * 10, ts=START + 9000, seed=2)
    clusters.update(settings, store, "support")
    assert sum(served.asked) - before <= 10  # equal questions are asked once
    assert len(set(clusters.cluster_of(store, ids).values())) == 1
    add_topics(store, ["espresso"] * 20, ts=START + 20_000, seed=3)
    assert clusters.update(settings, store, "support").new
    # Another model has other vectors: everything is fitted anew.
    other = by_endpoint(make_settings, served.url, model="larger")
    assert clusters.update(other, store, "support").fitted


@pytest.mark.sqlite
def test_an_endpoint_that_fails_loses_nothing(make_settings, store, served):
    settings = by_endpoint(make_settings, served.url)
    add_topics(store, OLD * 20)
    clusters.update(settings, store, "support")
    with store.reading() as connection:
        before = connection.execute(sa.select(tables.cursors)).all()
    ids = add_topics(store, ["parcel"] * 10, ts=START + 9000, seed=2)
    served.broken = True
    with pytest.raises(ServerError, match="status 503") as caught:
        clusters.update(settings, store, "support")
    assert "parcel" not in str(caught.value)
    assert served.url in str(caught.value)
    with store.reading() as connection:
        assert connection.execute(sa.select(tables.cursors)).all() == before
    served.broken = False
    assert clusters.update(settings, store, "support").placed == 10
    assert None not in clusters.cluster_of(store, ids).values()


def test_an_endpoint_that_is_not_there_is_named():
    endpoint = Endpoint(Clusters(embedding="endpoint", url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        endpoint.see(["where is my parcel"])


@pytest.mark.sqlite
def test_an_endpoint_without_an_address_is_refused(make_settings, store):
    settings = make_settings(curate={"clusters": {"embedding": "endpoint"}})
    add_topics(store, OLD)
    with pytest.raises(ConfigError, match=r"curate\.clusters\.url and curate\.clusters\.model"):
        clusters.update(settings, store, "support")
