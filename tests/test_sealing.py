"""Text in the ledger: compressed, sealed with its user's key, and what happens to the keys."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import MakeSettings

from flywheel.keys import describe, rotate
from ledger.database import tables
from ledger.errors import ConfigError, LedgerError, UsageError
from ledger.keys import master
from ledger.keys.keyring import owner_of
from ledger.keys.pack import key_of, pack, seal, unpack, unseal
from ledger.records import Correction, Feedback, Interaction
from ledger.settings import MASTER_VARIABLE, Settings
from ledger.store import Store

ADA, BOB = "a" * 32, "b" * 32
SECRET = "the moon is made of green cheese"


def row(row_id: str = "r1", subject: str | None = ADA, **fields: Any) -> Interaction:
    said = {"messages": [{"role": "user", "content": SECRET}], "response": f"no: {SECRET}"}
    least = {"ts": 1.0, "api": "chat", "version": "support@v1", "base_model": "base"}
    return Interaction(
        **{"row_id": row_id, "request_id": row_id, "subject": subject, **least, **said, **fields}
    )


def texts(store: Store) -> dict[str, bytes]:
    with store.reading() as connection:
        table = tables.interactions
        return {one.row_id: one.text for one in connection.execute(sa.select(table))}


def test_no_text_stands_on_the_disk(store: Store, tmp_path: Path) -> None:
    store.add_interactions([row(chat_template_kwargs={"documents": [SECRET]})])
    store.add_feedback(Feedback(feedback_id="f", row_id="r1", ts=2.0, correction=SECRET))
    store.add_correction(
        Correction(
            row_id="r1", ts=3, source="operator", author="x", text=SECRET, decision="accepted"
        )
    )
    with store.reading() as connection:
        everything = [
            value
            for table in tables.metadata.sorted_tables
            for one in connection.execute(sa.select(table))
            for value in one
        ]
    assert "support@v1" in everything
    assert not [value for value in everything if "moon" in str(value) or "cheese" in str(value)]
    found = subprocess.run(["grep", "-rlE", "moon|cheese", str(tmp_path / "var")], text=True)
    assert found.returncode == 1  # nothing found
    again = store.interaction("r1")
    assert again.response == f"no: {SECRET}"
    assert again.chat_template_kwargs == {"documents": [SECRET]}
    assert store.feedback()[0][1].correction == SECRET
    assert store.corrections()["r1"].text == SECRET


def test_another_process_reads_it(settings: Settings, store: Store) -> None:
    store.add_interactions([row()])
    code = (
        "import sys; from ledger.settings import parse; from ledger.store import Store\n"
        "import json; store = Store.open(parse(json.loads(sys.argv[1]), name='t'))\n"
        "print(store.interaction('r1').response)"
    )
    words = [sys.executable, "-c", code, settings.model_dump_json()]
    assert subprocess.run(words, text=True, capture_output=True).stdout == f"no: {SECRET}\n"


def test_each_person_has_a_key(store: Store) -> None:
    rows = [row("r1"), row("r2"), row("r3", BOB), row("r4", None), row("r5", None, session="s")]
    store.add_interactions(rows)
    ids = {row_id: key_of(text) for row_id, text in texts(store).items()}
    assert ids["r1"] == ids["r2"]
    assert len(set(ids.values())) == 4
    assert None not in ids.values()
    assert owner_of(None, None, 0) == "day:1970-01-01"


def test_a_text_opens_only_in_its_own_row(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.add_interactions([row("r1"), row("r2", messages=None, response="other")])
    found = texts(store)
    with store.transaction() as connection:
        table = tables.interactions
        connection.execute(sa.update(table).where(table.c.row_id == "r2").values(text=found["r1"]))
    assert [one.row_id for one in store.interactions()] == ["r1"]
    assert store.damaged == 1
    assert "interactions:r2" in caplog.text
    assert SECRET not in caplog.text
    with pytest.raises(LedgerError, match="'r2' is damaged"):
        store.interaction("r2")
    assert store.unreadable() == ["r2"]


@pytest.mark.parametrize("place", [0, 5, 15, 25, -1])
def test_a_bit_that_flips_is_found(store: Store, place: int) -> None:
    store.add_interactions([row("r1"), row("r2")])
    data = bytearray(texts(store)["r1"])
    data[place] ^= 4
    with store.transaction() as connection:
        table = tables.interactions
        connection.execute(sa.update(table).where(table.c.row_id == "r1").values(text=bytes(data)))
    left = list(store.interactions())
    # A changed key id names a key that nobody has: as good as forgotten.
    assert [one.row_id for one in left if one.stored_text] == ["r2"]
    assert SECRET not in str([one for one in left if one.row_id == "r1"])


def test_sealing_is_compressed_and_bound() -> None:
    fields = {"response": "to be or not to be " * 100}
    packed = pack(fields)
    assert len(packed) < 100
    assert unpack(packed) == fields
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    inner, outer = AESGCM(bytes(32)), AESGCM(b"\1" * 32)
    twice = seal(seal(packed, b"i" * 8, inner, "n"), b"o" * 8, outer, "n")
    assert key_of(twice) == b"o" * 8
    once = unseal(twice, outer, "n")
    assert key_of(once) == b"i" * 8
    assert unpack(unseal(once, inner, "n")) == fields
    with pytest.raises(LedgerError, match="damaged"):
        unseal(twice, outer, "m")
    assert seal(packed, b"i" * 8, inner, "n") != seal(packed, b"i" * 8, inner, "n")


def test_without_sealing_text_is_plain_and_sealed_text_is_skipped(
    make_settings: MakeSettings, store: Store
) -> None:
    store.add_interactions([row("r1")])
    plain = Store.open(make_settings(privacy={"seal": False}))
    plain.add_interactions([row("r2")])
    assert [one.row_id for one in plain.interactions()] == ["r2"]
    assert plain.damaged == 1
    assert {one.row_id for one in store.interactions()} == {"r1", "r2"}
    with pytest.raises(LedgerError, match=r"privacy\.seal"):
        plain.forget(ADA, who="operator:x", why="")
    plain.close()


def test_a_transaction_that_fails_leaves_no_key_behind(store: Store) -> None:
    with pytest.raises(KeyError), store.transaction() as connection:  # noqa: PT012
        store.add_interactions([row()], connection)
        raise KeyError
    store.add_interactions([row()])
    assert store.interaction("r1").response == f"no: {SECRET}"


# -- the master key ------------------------------------------------------------------------


def test_a_lost_master_key_is_said_and_not_replaced(settings: Settings, store: Store) -> None:
    store.add_interactions([row()])
    settings.privacy.master_file.unlink()
    again = Store.open(settings)
    for act in (lambda: list(again.interactions()), lambda: again.add_interactions([row("r2")])):
        with pytest.raises(ConfigError, match=r"master\.key cannot be read"):
            act()
    assert not settings.privacy.master_file.exists()
    again.close()


def test_another_master_key_is_named(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_interactions([row()])
    monkeypatch.setenv(MASTER_VARIABLE, "ab" * 32)
    again = Store.open(settings)
    with pytest.raises(ConfigError, match=r"sealed under master key .* FLYWHEEL_MASTER_KEY holds"):
        list(again.interactions())
    with pytest.raises(ConfigError, match="master key"):
        again.add_interactions([row("r2", BOB)])
    again.close()


@pytest.mark.parametrize("given", ["", " , ", "xyz", "ab" * 31, "ab" * 32 + ",12"])
def test_a_master_key_that_is_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(MASTER_VARIABLE, given)
    if given:
        with pytest.raises(ConfigError, match="does not give a master key"):
            master.MasterKeys.open(settings.privacy, create=True)
    else:
        assert master.MasterKeys.open(settings.privacy, create=True).newest


def test_a_command_gives_the_master_key(make_settings: MakeSettings) -> None:
    def of(command: str) -> master.MasterKeys:
        privacy = make_settings(privacy={"master_key_command": command}).privacy
        return master.MasterKeys.open(privacy, create=True)

    assert of(f"echo {'cd' * 32}").newest == master.key_id(bytes.fromhex("cd" * 32))
    for command, message in (
        ("false", "failed with status 1"),
        ("/nowhere/kms --secret hunter2", "cannot be run"),
        ("echo no", "does not give"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            of(command)
        assert "hunter2" not in str(caught.value)


def test_rotation_with_a_key_file(settings: Settings, store: Store) -> None:
    store.add_interactions([row()])
    running = Store.open(settings)  # as a server's writer has it open meanwhile
    assert running.interaction("r1").response
    file = settings.privacy.master_file
    old_file, before = file.read_bytes(), store.master()
    done = rotate(settings, store, who="operator:x", keep_old=False)
    assert (done.before, done.keys, done.old_removed) == (before, 1, True)
    assert done.after == store.master() != before
    assert file.read_bytes() != old_file
    assert file.stat().st_mode & 0o777 == 0o600
    assert old_file.strip() not in file.read_bytes()
    for one in (store, running):
        one.add_interactions([row(f"after{id(one)}", f"{id(one):032x}")])
        assert one.interaction("r1").response == f"no: {SECRET}"
    fresh = Store.open(settings)
    assert len([one.response for one in fresh.interactions()]) == 3
    assert describe(settings, fresh)["known here"]
    # The old key opens nothing any more.
    file.write_bytes(old_file)
    old = Store.open(settings)
    with pytest.raises(ConfigError, match="sealed under master key"):
        list(old.interactions())
    for one in (running, fresh, old):
        one.close()


def test_a_rotation_that_was_cut_off_is_taken_up(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_interactions([row()])
    with monkeypatch.context() as patch:
        patch.setattr(Store, "rotate_master", lambda *_, **__: (_ for _ in ()).throw(KeyError()))
        with pytest.raises(KeyError):
            rotate(settings, store, who="operator:x", keep_old=False)
    assert len(settings.privacy.master_file.read_text().split()) == 2
    with closing(Store.open(settings)) as other:
        assert other.interaction("r1").response
    done = rotate(settings, store, who="operator:x", keep_old=False)
    assert len(settings.privacy.master_file.read_text().split()) == 1
    assert store.master() == done.after


def test_rotation_with_a_variable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "12" * 32, "34" * 32
    monkeypatch.setenv(MASTER_VARIABLE, old)
    store = Store.open(settings)
    store.add_interactions([row()])
    with pytest.raises(UsageError, match="is the one in use"):
        rotate(settings, store, who="operator:x", keep_old=False)
    monkeypatch.setenv(MASTER_VARIABLE, f"{old},{new}")
    assert rotate(settings, store, who="operator:x", keep_old=False).keys == 1
    store.close()
    monkeypatch.setenv(MASTER_VARIABLE, new)
    store = Store.open(settings)
    assert store.interaction("r1").response == f"no: {SECRET}"
    store.close()


def test_the_key_file_is_private(settings: Settings, store: Store) -> None:
    store.add_interactions([row()])
    file = settings.privacy.master_file
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with closing(Store.open(settings)) as other, pytest.raises(ConfigError, match="mode 0644"):
        list(other.interactions())


def test_old_rows_are_read(store: Store) -> None:
    """Rows of the first schema: plain JSON, template arguments in a column of their own."""
    store.add_interactions([row(stored_text=False)])
    text = b"j" + json.dumps({"response": "old", "messages": []}).encode()
    old = {"text": text, "stored_text": True, "chat_template_kwargs": '{"enable_thinking": false}'}
    with store.transaction() as connection:
        connection.execute(sa.update(tables.interactions).values(old))
    found = store.interaction("r1")
    assert (found.response, found.chat_template_kwargs) == ("old", {"enable_thinking": False})


def test_before_anything_is_sealed_there_is_no_master_key(settings: Settings, store: Store) -> None:
    assert describe(settings, store)["in use"] is None
    assert not settings.privacy.master_file.exists()
    first = rotate(settings, store, who="operator:x", keep_old=False)
    assert (first.before, first.keys, first.old_removed) == (None, 0, False)
    assert "first one" in first.text()
    assert describe(settings, store) == {
        "in use": first.after,
        "source": str(settings.privacy.master_file),
        "known here": True,
    }
    store.add_interactions([row()])
    assert store.interaction("r1").response == f"no: {SECRET}"
