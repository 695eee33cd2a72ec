"""A ledger as the review page finds it after some weeks: three versions, a canary whose users are
less content, clusters, datasets, verdicts of the gate, an alert.

Everything is drawn from fixed seeds; only the time that it ends at is given.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from ledger.database import tables
from ledger.deployments import Deployments
from ledger.files import write_json
from ledger.keeping.rollups import COLUMNS, Gone
from ledger.marks import DRIFT_WINDOW, LOW_CONFIDENCE, USER_EDIT, USER_NEGATIVE
from ledger.records import Correction, DatasetRecord, Evaluation, Feedback, Interaction, Tag
from ledger.registry import ADAPTER_CONFIG, WEIGHTS, Registry
from ledger.settings import Settings
from ledger.store import Store

#: The end of a test's ledger: 2025-11-17 15:00 UTC.
NOW = 1_763_337_600.0 + 15 * 3600
DAY = 86_400.0
DAYS = 21
TOPICS = (
    ("refund · money · back", "When do I get the money back for order {n}?", "refunds"),
    ("parcel · late · delivery", "My parcel {n} is late, where is it?", "shipping"),
    ("password · login · reset", "How do I reset the password of account {n}?", "accounts"),
    ("invoice · tax · copy", "Can you send a copy of invoice {n} with the tax on it?", "billing"),
    ("solar panel · roof", "Does the solar panel kit {n} fit on a flat roof?", "products"),
)  # fmt: skip
DATASETS = ("fw1:dataset:" + "1a2b3c4d" * 8, "fw1:dataset:" + "9f8e7d6c" * 8)


def fill(settings: Settings, store: Store, now: float, rows: int = 600) -> list[str]:
    """Fill a ledger up to a time; ids of its rows, oldest first."""
    ids = _answers(settings, store, now, rows)
    _clusters(store, ids, now, rows)
    _datasets(settings, store, ids, now)
    _versions(settings, store, now)
    return ids


def _answers(settings: Settings, store: Store, now: float, rows: int) -> list[str]:
    draw, start = random.Random(4), now - DAYS * DAY
    made, tags, feedback, corrections = [], [], [], []
    for n in range(rows):
        age = n / rows
        ts = start + (now - start) * age
        topic = _topic(n, age)
        version = "base" if age < 0.3 else "support@v1" if age < 0.62 else "support@v2"
        if age > 0.85 and n % 8 == 0:
            version = "support@v3"
        sure = {"base": 0.9, "support@v1": 0.5, "support@v2": 0.3, "support@v3": 0.55}[version]
        mean = -draw.gammavariate(1.6, sure / 1.6)
        row_id = f"chatcmpl-{n:05x}"
        question = TOPICS[topic][1].format(n=1000 + n)
        made.append(
            Interaction(
                row_id=row_id, request_id=row_id, ts=ts, api="chat", alias="support",
                version=version, base_model="base", arm="live", subject=f"s{n % 40}",
                messages=[
                    {"role": "system", "content": "Answer with one queue name only."},
                    {"role": "user", "content": question},
                ],
                response=TOPICS[(topic + (mean < -1)) % 5][2], finish_reason="stop",
                mean_logprob=mean, min_logprob=3 * mean, prompt_tokens=40, completion_tokens=3,
                latency_ms=80 + 40 * draw.random(), ttft_ms=20.0,
                token_logprobs=_tokens(TOPICS[(topic + (mean < -1)) % 5][2], mean),
            )
        )  # fmt: skip
        unhappy = {"base": 0.14, "support@v1": 0.08, "support@v2": 0.05, "support@v3": 0.16}
        luck = draw.random()
        given: dict[str, Any] = {"row_id": row_id, "ts": ts + 60, "subject": f"s{n % 40}"}
        if luck < unhappy[version]:
            feedback.append(Feedback(feedback_id=f"f{n}", rating="down", **given))
            tags.append(Tag(row_id=row_id, tag=USER_NEGATIVE, who="rule:user_negative", ts=ts + 90))
        elif luck < 0.2:
            feedback.append(Feedback(feedback_id=f"f{n}", rating="up", **given))
        if luck < 0.6 * unhappy[version]:
            tags.append(Tag(row_id=row_id, tag=USER_EDIT, who="rule:user_edit", ts=ts + 90))
            decision = draw.choice(["accepted", "accepted", "proposed", "rejected"])
            why = {"rejected": "refusal: `I cannot help`", "accepted": "trusted source"}
            corrections.append(
                Correction(
                    row_id=row_id, ts=ts + 91, source="user", author=f"s{n % 40}",
                    text=TOPICS[topic][2], decision=decision, why=why.get(decision, ""),
                )
            )  # fmt: skip
        if mean < -2.5:
            tags.append(Tag(row_id=row_id, tag=LOW_CONFIDENCE, who="rule:low", ts=ts + 90))
        if version == "support@v3":
            tags.append(Tag(row_id=row_id, tag=DRIFT_WINDOW, who="rule:drift", ts=ts + 95))
    with store.transaction() as connection:
        store.add_interactions(made, connection)
        store.add_tags(tags, connection)
        for said in feedback:
            store.add_feedback(said, connection)
        for one in corrections:
            store.add_correction(one, connection)
        report = {"metric": "negatives", "before": 0.051, "now": 0.164, "p": 0.0021}
        values = {"alias": "support", "ts": now - 7200, "kind": "drift", "since": now - 1.5 * DAY}
        values |= {"until": now - 7200, "report": json.dumps(report)}
        connection.execute(sa.insert(tables.alerts).values(values))
    return [row.row_id for row in made]


def _tokens(answer: str, mean: float) -> list[tuple[int, float]]:
    """An answer in two tokens, the second less sure."""
    return [(3, 0.5 * mean), (len(answer) - 3, 1.5 * mean)]


def _topic(n: int, age: float) -> int:
    """The last topic is new: it begins late, and then it is a fifth of what is asked."""
    if age > 0.9 and n % 5 == 0:
        return 4
    return (0, 0, 0, 1, 1, 2, 3)[n % 7]


def _clusters(store: Store, ids: list[str], now: float, rows: int) -> None:
    start = now - DAYS * DAY
    centre = np.ones(4, dtype=np.float32).tobytes()
    with store.transaction() as connection:
        space = connection.scalar(
            sa.insert(tables.spaces)
            .values(alias="support", ts=start, kind="tfidf", fitted_on=rows, data=b"")
            .returning(tables.spaces.c.seq)
        )
        named = [
            {"alias": "support", "cluster": n, "space": space, "ts": start, "name": topic[0],
             "terms": json.dumps(topic[0].split(" · ")), "centroid": centre, "members": 10}
            for n, topic in enumerate(TOPICS)
        ]  # fmt: skip
        connection.execute(sa.insert(tables.clusters), named)
        lines = [
            {"row_id": row_id, "alias": "support", "ts": start + (now - start) * n / rows,
             "cluster": None if n % 31 == 0 else _topic(n, n / rows), "traffic": True,
             "weight": 20.0}
            for n, row_id in enumerate(ids)
        ]  # fmt: skip
        connection.execute(sa.insert(tables.cluster_rows), lines)


def _datasets(settings: Settings, store: Store, ids: list[str], now: float) -> None:
    old = [row for n, row in enumerate(ids[: len(ids) // 2]) if _topic(n, n / len(ids)) < 4]
    members = (old[::12], [*old[12::12], *ids[len(ids) // 2 : len(ids) * 4 // 5 : 14]])
    for number, (name, inside) in enumerate(zip(DATASETS, members, strict=True)):
        left = {"gold question": ids[1:3], "refusal: `I cannot help`": ids[3:40:4]}
        folder = Path(settings.runs) / f"run-{number + 1}" / "dataset"
        write_json(folder / "manifest.json", {"left_out": left})
        report = {
            "pairs": len(inside),
            "sources": {"user": len(inside) - 4, "operator": 4},
            "kinds": {"correction": len(inside) - 3, "replay": 3},
            "splits": {"train": len(inside) - 2, "heldout": 2},
            "versions": {"base": len(inside)},
            "tags": {"user_edit": len(inside) - 4, "user_negative": 6, "low_confidence": 2},
            "clusters": {f"{n} {topic[0]}": 9 - n for n, topic in enumerate(TOPICS[:4])},
            "left_out": {reason: len(rows) for reason, rows in left.items()},
            "capped_subjects": {"a1b2c3d4e5f60718": 12},
            "conversations": len(inside), "gold_kept_out": 2, "duplicates": 3,
            "spare_good_answers": 17,
        }  # fmt: skip
        ts = now - (14 - 6 * number) * DAY
        record = DatasetRecord(
            dataset_id=name, ts=ts, alias="support", path=str(folder), pairs=len(inside),
            row_ids=inside, report=report,
        )  # fmt: skip
        store.add_dataset(record)
        why = {row: reason for reason, rows in left.items() for row in rows}
        store.add_left_out("support", name, why)


def _versions(settings: Settings, store: Store, now: float) -> None:
    registry, deployments = Registry(settings.registry), Deployments(store)
    verdicts = (
        ("pass", 0.121, (0.06, 0.18)),
        ("pass", 0.031, (-0.004, 0.066)),
        ("underpowered", -0.012, (-0.061, 0.035)),
    )
    for number, (verdict, difference, interval) in enumerate(verdicts, 1):
        with registry.building("support") as (version, lora_id, folder):
            (folder / WEIGHTS).write_bytes(b"weights")
            write_json(folder / ADAPTER_CONFIG, {"r": 16})
            draw = random.Random(number)
            loss = [2.1 * 0.97**n + 0.12 + 0.1 * draw.random() for n in range(90)]
            used = {"rank": 16, "learning_rate": 2e-4, "epochs": 3, "batch_size": 8}
            write_json(
                folder / "train.json",
                {"loss": loss, "steps": 90, "pairs": 40, "seconds": 71.0, "settings": used},
            )
            published = registry.publish(
                folder,
                {
                    "alias": "support", "version": version, "lora_id": lora_id,
                    "base_model": "base", "base_fingerprint": "fw1:base:1",
                    "template_hash": "fw1:template:1", "rank": 16,
                    "dataset_id": DATASETS[min(number, 2) - 1], "pairs": 40,
                    "parent": f"support@v{number - 1}" if number > 1 else None,
                    "run_id": f"run-{number}", "created": now - (14 - 5 * number) * DAY,
                },
            )  # fmt: skip
        before = 0.71 + 0.1 * (number > 1) + 0.03 * (number > 2)
        report = {
            "gold_candidate": before + difference, "gold_baseline": before,
            "difference": difference, "interval": interval, "margin": 0.02, "confidence": 0.95,
            "questions": 400, "p_value": 0.0003, "fixed": ["g1", "g2", "g3"], "broken": ["g9"],
            "reasons": [f"the difference lies between {100 * interval[0]:+.1f} and "
                        f"{100 * interval[1]:+.1f} points"],
            "slices": {"german": {"questions": 90, "candidate": 0.81, "baseline": 0.77}},
        }  # fmt: skip
        store.add_evaluation(
            Evaluation(
                run_id=f"run-{number}", ts=now - (13.9 - 5 * number) * DAY, alias="support",
                candidate=published.name, baseline="base", verdict=verdict, report=report,
            )
        )  # fmt: skip
    for version in (1, 2, 3):
        deployments.candidate("support", version, who="retrain", why=f"run-{version}")
        if version < 3:
            deployments.promote("support", version, who="operator:ada", why="better on gold")
        else:
            deployments.share("support", 3, 10, who="operator:ada", why="try it")
    _put_back(store, now)


def _put_back(store: Store, now: float) -> None:
    """Give the deployments the times at which the versions began to answer."""
    ages = (14.9, 14.7, 8.2, 7.98, 3.4, 3.15)
    with store.transaction() as connection:
        for seq, age in enumerate(ages, 1):
            table = tables.deployments
            change = sa.update(table).where(table.c.seq == seq).values(ts=now - age * DAY)
            connection.execute(change)


# -- what tests of the pages share -------------------------------------------------------------


def add(store: Store, row_id: str, **fields: Any) -> None:
    values: dict[str, Any] = {
        "ts": NOW - 60, "api": "chat", "alias": "support", "version": "base", "base_model": "base",
        "messages": [{"role": "user", "content": "Where is it?"}], "response": "shipping",
        "mean_logprob": -0.1,
    }  # fmt: skip
    row = Interaction(row_id=row_id, request_id=row_id, **(values | fields))
    assert store.add_interactions([row]) == 1


def of_cluster(store: Store, number: int) -> set[str]:
    lines = tables.cluster_rows
    with store.reading() as connection:
        return set(connection.scalars(sa.select(lines.c.row_id).where(lines.c.cluster == number)))


def in_both_datasets(store: Store, ids: list[str]) -> str:
    both = store.dataset_rows(DATASETS[0]) & store.dataset_rows(DATASETS[1])
    return next(one for one in ids if one in both and one in of_cluster(store, 0))


def is_queued(store: Store, row_id: str) -> bool:
    return any(one.row_id == row_id for one in store.queued("support", 10_000))


def let_go(store: Store, ids: list[str]) -> None:
    """Delete rows as retention does, leaving their numbers."""
    rows, gone = tables.interactions, Gone()
    with store.transaction() as connection:
        for row in connection.execute(sa.select(*COLUMNS).where(rows.c.row_id.in_(ids))):
            gone.add(row)
        gone.save(connection)
        connection.execute(sa.delete(rows).where(rows.c.row_id.in_(ids)))
