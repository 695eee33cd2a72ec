"""What docs/operations.md says is true: commands exist, alerts are explained, backups restore."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from kept_rows import make
from rollout_rows import version
from tiny import write_config

from flywheel.backup import NOTE, backup, check
from flywheel.cli import cli
from ledger.errors import ConfigError, LedgerError, UsageError
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/operations.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# -- commands in the pages ------------------------------------------------------------------------


def blocks(text: str, language: str = "") -> Iterator[str]:
    """Fenced blocks of a page, of one language where it is given."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if not language or match[1] == language:
            yield match[2]


def lines(text: str) -> Iterator[str]:
    """Everything on a page that looks like something to type."""
    for block in blocks(text):
        yield from block.replace("\\\n", " ").splitlines()
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", plain):
        yield re.sub(r"\s+", " ", span)


def typed(text: str) -> Iterator[list[str]]:
    """The words behind each `flywheel` that is a program, not a user or a database."""
    for line in lines(text):
        for part in re.split(r"&&|\|\||[;|]|\$\(", line.split(" #")[0]):
            try:
                words = shlex.split(part.strip().removeprefix("$ "))
            except ValueError:  # a quotation that goes over several lines
                words = part.split()
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            for place, word in enumerate(words):
                if word.endswith("/bin/flywheel") or (word == "flywheel" and place == 0):
                    yield words[place + 1 :]
                    break


def wrong(words: list[str]) -> str:
    """What a command line has that does not exist; "" where all is right."""
    command: click.Command = cli
    try:
        while isinstance(command, click.Group):
            # Groups parse as they do when they run: some take an alias for a command's word.
            context = command.make_context(command.name, list(words))
            words = [*context._protected_args, *context.args]
            if not words or words[0] == "…":
                return ""  # `flywheel gate` by itself; any command
            if words[0] not in command.commands:
                return f"no command {words[0]}"
            command, words = command.commands[words[0]], words[1:]
        # Not the values: N and FILE stand for some.
        parser = command.make_parser(click.Context(command, info_name=command.name))
        parser.parse_args(list(words))
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
        return ""  # `flywheel rollout`: the group as a whole; `--help`
    except click.BadOptionUsage as error:
        return "" if "requires" in error.format_message() else error.format_message()
    except click.UsageError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flywheel_command_in_the_pages_exists_with_its_options(page: Path) -> None:
    found = list(typed(page.read_text(encoding="utf-8")))
    assert [(words, said) for words in found if (said := wrong(words))] == []


def test_there_are_commands_to_check_and_mistakes_are_noticed() -> None:
    assert len(list(typed(PAGE.read_text(encoding="utf-8")))) > 40
    text = "```sh\ncd x && .venv/bin/flywheel -c f.yaml statsu\n```\nor `flywheel backup D --chekc`"
    first, second = (wrong(words) for words in typed(text))
    assert first == "no command statsu"
    assert "--chekc" in second
    assert wrong(["keys", "rotate", "--keep-old"]) == ""
    assert "--keep-new" in wrong(["keys", "rotate", "--keep-new"])
    assert list(typed("```sh\nsudo -u flywheel make setup\n```")) == []


# -- alerts ---------------------------------------------------------------------------------------


def test_every_alert_has_its_section_and_every_section_an_alert() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    names = [rule["alert"] for rule in alerts]
    assert len(names) == len(set(names)) > 10
    parts = PAGE.read_text(encoding="utf-8").partition("\n## Alerts\n")[2]
    assert sorted(re.findall(r"^### (\w+)$", parts, re.MULTILINE)) == sorted(names)
    for rule in alerts:
        assert rule["annotations"]["runbook"].endswith(f"#{rule['alert'].lower()}")
    # Each says something.
    for section in parts.split("\n### ")[1:]:
        assert len(section.split()) > 20, section


def test_the_links_of_the_page_lead_somewhere() -> None:
    for page in (PAGE, ROOT / "docs/costs.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
            assert (page.parent / target).exists(), (page.name, target)
        slugs = {
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= slugs


def test_the_units_can_write_where_libraries_cache() -> None:
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        text = unit.read_text()
        [home] = re.findall(r"^Environment=HOME=(\S+)$", text, re.MULTILINE)
        [open_] = re.findall(r"^ReadWritePaths=(\S+)$", text, re.MULTILINE)
        assert home.startswith(f"{open_}/")


def test_what_is_filled_in_by_hand_reaches_neither_git_nor_an_image() -> None:
    secret = "deploy/.env"
    assert f"/{secret}" in (ROOT / ".gitignore").read_text().splitlines()
    assert secret in (ROOT / ".dockerignore").read_text().splitlines()
    text = PAGE.read_text(encoding="utf-8")
    for made in ("deploy/kubernetes/flywheel.yaml", "deploy/kubernetes/gold/"):
        assert made in text
        assert f"/{made}" in (ROOT / ".gitignore").read_text().splitlines()


# -- backup and restore ---------------------------------------------------------------------------


class Writing:
    """Somebody who goes on writing rows, one a transaction."""

    def __init__(self, settings: Settings) -> None:
        self._store, self._stop = Store.open(settings), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written, self.failed = 0, ""
        self.some = threading.Event()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                text = f"number {self.written}"
                self._store.add_interactions([make(f"w{self.written}", text=text)])
                self.written += 1
                if self.written >= 30:
                    self.some.set()
        except Exception as error:
            self.failed = repr(error)
            self.some.set()

    def __enter__(self) -> Writing:
        self._thread.start()
        assert self.some.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._store.close()


def elsewhere(settings: Settings, var: Path, url: str | None = None) -> Settings:
    """The same settings for what was restored into another folder."""
    privacy = settings.privacy.model_copy(update={"key_file": var / "keys/subject.key"})
    ledger = settings.ledger.model_copy(update={"url": url or f"sqlite:///{var}/ledger.db"})
    return settings.model_copy(update={"var": var, "privacy": privacy, "ledger": ledger})


def rows_of(settings: Settings) -> dict[str, str]:
    with closing(Store.open(settings)) as store:
        return {
            row.row_id: str(row.messages and row.messages[0]["content"])
            for row in store.interactions()
        }


@pytest.mark.sqlite
def test_a_copy_taken_while_somebody_writes_is_one_moment_and_restores(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    version(settings, store)
    folder, keys = tmp_path / "backup", tmp_path / "safe"
    with Writing(settings) as writing:
        before = writing.written
        done = backup(settings, folder, keys=keys, versions=True)
        after = writing.written
        # Nobody had to wait for it.
        assert writing.failed == ""
    assert done.versions.keys() == {"support@v1"}
    assert check(folder).endswith("1 version(s)")
    assert [one.name for one in done.keys] == ["subject.key", "master.key"]
    # Nothing that opens a text lies beside the ledger, and nobody else may read either.
    secrets = [one.read_bytes().strip() for one in done.keys]
    for file in folder.rglob("*"):
        if file.is_file():
            assert not any(secret in file.read_bytes() for secret in secrets), file
    assert {one.stat().st_mode & 0o777 for one in [done.ledger, *done.keys]} == {0o600}
    assert sorted(file.name for file in folder.iterdir()) == [NOTE, "ledger.db", "registry"]

    # The commands of the page, with this test's folders.
    text = PAGE.read_text(encoding="utf-8")
    [block] = [one for one in blocks(text, "sh") if "ledger.db-wal" in one]
    var = tmp_path / "new"
    var.mkdir()
    (var / "ledger.db").write_bytes(b"an old one")
    (var / "ledger.db-wal").write_bytes(b"its log")
    script = "".join(
        line + "\n"
        for line in block.splitlines()
        if not line.startswith(("sudo", "flywheel")) and line
    )
    for name, place in (
        ("/backups/2026-11-26", folder),
        ("/safe/keys-2026-11-26", keys),
        ("/opt/flywheel/var", var),
    ):
        assert name in script
        script = script.replace(name, str(place))
    subprocess.run(["bash", "-ec", script], check=True, capture_output=True, timeout=60)

    restored = elsewhere(settings, var)
    found = rows_of(restored)
    # A prefix of what was written: every row up to one moment, and its text opens.
    assert found == {f"w{n}": f"number {n}" for n in range(len(found))}
    assert before <= len(found) <= after + 1
    assert not (var / "ledger.db-wal").exists() or (var / "broken/ledger.db-wal").exists()
    registry = Registry(restored.registry)
    [copied] = registry.versions("support")
    registry.verify(copied)
    # A number that was used once stays used.
    assert registry.claimed(copied.manifest.lora_id) == ("support", 1)


@pytest.mark.sqlite
def test_a_backup_that_is_not_whole_is_said(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    store.add_interactions([make(f"r{n}", text="words " * 50) for n in range(40)])
    folder = tmp_path / "backup"
    with pytest.raises(LedgerError, match="no backup"):
        check(folder)
    done = backup(settings, folder, keys=None, versions=False)
    assert (done.copied, done.keys, done.versions) == (False, [], {})
    assert check(folder).startswith(str(folder))
    with pytest.raises(UsageError, match="not empty"):
        backup(settings, folder, keys=None, versions=True)
    for inside in (tmp_path / "b", tmp_path / "b/keys", tmp_path):
        with pytest.raises(UsageError, match="keys would lie"):
            backup(settings, tmp_path / "b", keys=inside, versions=True)
    assert not (tmp_path / "b").exists()
    content = bytearray(done.ledger.read_bytes())
    content[len(content) // 2] ^= 255
    done.ledger.write_bytes(content)
    with pytest.raises(LedgerError, match="not what was written"):
        check(folder)
    (folder / NOTE).unlink()
    with pytest.raises(LedgerError, match="cut off"):
        check(folder)


@pytest.mark.sqlite
def test_a_damaged_ledger_makes_no_backup(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger to copy"):
        backup(settings, tmp_path / "none", keys=None, versions=False)
    with closing(Store.open(settings)) as store:
        store.add_interactions([make(f"r{n}", text="words " * 200) for n in range(60)])
    file = Path(settings.ledger.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [page] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'interactions_alias_ts'"
        ).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * size + 100 : page * size] = bytes(size - 100)
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="is damaged"):
        backup(settings, tmp_path / "backup", keys=None, versions=False)
    assert not (tmp_path / "backup" / NOTE).exists()


@pytest.mark.sqlite
def test_the_command_says_what_it_copied(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_interactions([make("r1")])
    config = write_config(settings, tmp_path / "config.yaml")

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["-c", str(config), "backup", *words])

    said = run(str(tmp_path / "b"))
    assert said.exit_code == 0, said.output
    assert "keys      not copied" in said.output
    assert "without it no text can be read" in said.output
    assert run(str(tmp_path / "b"), "--check").output.startswith(str(tmp_path / "b"))
    assert run(str(tmp_path / "none"), "--check").exit_code == 1
    # A key that no file has cannot be copied, and that is said.
    monkeypatch.setenv("FLYWHEEL_MASTER_KEY", "ab" * 32)
    found = json.loads(run(str(tmp_path / "c"), "--keys", str(tmp_path / "k"), "--json").output)
    assert "FLYWHEEL_MASTER_KEY" in found["missing"][0]
    assert [Path(one).name for one in found["keys"]] == ["subject.key"]


def test_a_postgresql_ledger_is_dumped_and_restored(
    request: pytest.FixtureRequest,
    make_settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgres = request.getfixturevalue("postgres")
    programs = postgres.programs
    if not (programs / "pg_dump").exists():
        pytest.skip(f"no pg_dump in {programs}")
    settings = make_settings(ledger={"url": postgres.new_ledger()})
    with closing(Store.open(settings)) as store:
        store.add_interactions([make(f"r{n}", text=f"number {n}") for n in range(20)])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="pg_dump is not installed"):
        backup(settings, tmp_path / "none", keys=None, versions=False)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    done = backup(settings, tmp_path / "backup", keys=tmp_path / "safe", versions=True)
    assert done.ledger.name == "ledger.dump"
    assert check(tmp_path / "backup")

    # The page's command, for this server.
    [block] = [one for one in blocks(PAGE.read_text(), "sh") if "pg_restore" in one]
    [line] = [one for one in block.splitlines() if one.startswith("pg_restore")]
    name = postgres.new_database()
    line = line.replace("flywheel_restored", name)
    line = line.replace("/backups/2026-11-26", str(tmp_path / "backup"))
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(postgres.port))
    monkeypatch.setenv("PGUSER", "flywheel")
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    subprocess.run(["bash", "-ec", line], check=True, capture_output=True, timeout=60)
    restored = settings.model_copy(
        update={"ledger": settings.ledger.model_copy(update={"url": postgres.url(name)})}
    )
    assert rows_of(restored) == {f"r{n}": f"number {n}" for n in range(20)}
    assert rows_of(restored) == rows_of(settings)
