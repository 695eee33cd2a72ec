"""The one seam of the loop: what needs a model. Training, publishing, loading, the gate.

Everything else (rows, curation, statistics, stages) is the ledger's, and runs in tests as it runs
on a box. `flywheel.simulation.engine` stands here in the simulated product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ledger.settings import Settings


class Turned(NamedTuple):
    """What a retrain came to."""

    run: str
    version: str
    verdict: str


class Wheel(Protocol):
    """What the loop asks of the engine."""

    @property
    def url(self) -> str:
        """The API of the live server, ending in `/v1`: where gold questions are asked."""
        ...

    def retrain(self, alias: str) -> Turned:
        """Train a version and put it before the gate; an unfinished run is resumed.

        Raises:
            FlywheelError: a step failed; the next call resumes.
        """
        ...

    def unfinished(self, alias: str) -> bool:
        """Whether a run of the alias was cut off and would be resumed."""
        ...


class Engine:
    """The real one: `flywheel.retrain` against the server that users talk to."""

    def __init__(
        self, settings: Settings, config: str, url: str | None, say: Callable[[str], None]
    ) -> None:
        from flywheel.server import server_url

        self._settings, self._config, self._say = settings, config, say
        self.url = url or server_url(settings)

    def retrain(self, alias: str) -> Turned:
        """See `Wheel`."""
        from flywheel.retrain import retrain

        done = retrain(self._settings, self._config, alias, url=self.url, say=self._say)
        return Turned(done.run.name, done.version, done.verdict)

    def unfinished(self, alias: str) -> bool:
        """See `Wheel`."""
        from flywheel.retrain import unfinished

        return unfinished(self._settings, alias) is not None
