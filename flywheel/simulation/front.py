"""Replicas behind a load balancer. Each follows the deployments by itself, as real servers do, and
decides by `serve.routing` alone; one that is down is passed over, and nobody waits in vain."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import NamedTuple

from ledger.deployments import Deployment
from serve.routing import route


class Routed(NamedTuple):
    """Which version answers on which side, by the deployment event that it was decided on."""

    version: int
    arm: str
    event: int


class Replica:
    """A server. `down` holds spans in which it does not answer, seconds since the epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Deployment | None = None
        self.down: list[tuple[float, float]] = []

    def up(self, at: float) -> bool:
        """Whether it answers."""
        return not any(begin <= at < end for begin, end in self.down)


class Front:
    """Sends each request to the next replica; to another one where that is down.

    Attributes:
        sent, answered: requests; they differ where no replica was up.
        passed_over: requests that met a replica that was down.
        moved: (user, event) whose side changed while one deployment event held.
    """

    def __init__(self, replicas: int) -> None:
        self.replicas = [Replica(f"replica-{number}") for number in range(1, replicas + 1)]
        self._turn = itertools.cycle(range(replicas))
        self.sent = self.answered = self.passed_over = 0
        self._sides: dict[tuple[str, int], set[str]] = defaultdict(set)

    @property
    def moved(self) -> list[tuple[str, int]]:
        """Users who were on two sides within one stage."""
        return [key for key, sides in self._sides.items() if len(sides) > 1]

    def follow(self, state: Deployment) -> None:
        """All replicas that are up see a new state; one that is down sees it when it is back."""
        for replica in self.replicas:
            replica.state = state

    def send(self, at: float, user: str) -> Routed | None:
        """Route a request; None where nobody answers."""
        self.sent += 1
        first = next(self._turn)
        for step in range(len(self.replicas)):
            replica = self.replicas[(first + step) % len(self.replicas)]
            if not replica.up(at) or replica.state is None:
                self.passed_over += 1
                continue
            found = route(replica.state, user)
            self.answered += 1
            self._sides[user, replica.state.seq].add(found.arm)
            return Routed(found.version, found.arm, replica.state.seq)
        return None
