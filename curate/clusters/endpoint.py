"""Vectors from an OpenAI-compatible /v1/embeddings, such as vLLM's with a pooling model.

What is sent are questions as the ledger holds them: redacted. Nothing is fitted, so every
question counts as seen. Covers no authentication other than a bearer key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from curate.clusters.space import Seen, packed, unpacked
from ledger.errors import ConfigError, ServerError
from ledger.loopback import is_loopback
from ledger.settings.curation import Clusters

#: Questions in one request.
BATCH = 64
_SECONDS, _RETRIES = 60.0, 2


class Endpoint:
    """A space behind an endpoint.

    Args:
        settings: where it is.
        http: a client of the `openai` library's HTTP to use instead of one of its own.

    Raises:
        ConfigError: `clusters.url` or `clusters.model` is not set.
    """

    kind = "endpoint"
    floor = 0.0

    def __init__(self, settings: Clusters, http: Any = None) -> None:
        missing = [name for name in ("url", "model") if not getattr(settings, name)]
        if missing:
            names = " and ".join(f"curate.clusters.{name}" for name in missing)
            raise ConfigError(
                f"curate.clusters.embedding is endpoint, and {names} is not set",
                rule="An endpoint has an address, ending in /v1, and a model.",
                remedy=f"Set {names}, or curate.clusters.embedding: tfidf.",
            )
        self.url, self.model = str(settings.url), str(settings.model)
        self._key_variable, self._http = settings.key_variable, http

    def see(self, questions: Sequence[str]) -> Seen:
        """Where questions lie: vectors of length 1.

        Raises:
            ServerError: it cannot be reached, refuses, or answers something else.
        """
        import openai

        own = self._http is None
        proxies = not is_loopback(urlsplit(self.url).hostname)
        http = openai.DefaultHttpxClient(trust_env=proxies) if own else self._http
        client = openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get(self._key_variable) or "none",
            timeout=_SECONDS,
            max_retries=_RETRIES,
            http_client=http,
        )
        found: list[list[float]] = []
        try:
            for start in range(0, len(questions), BATCH):
                # An empty text is refused by some servers.
                part = [text or " " for text in questions[start : start + BATCH]]
                reply = client.embeddings.create(
                    model=self.model, input=part, encoding_format="float"
                )
                rows = sorted(reply.data, key=lambda row: row.index)
                if len(rows) != len(part):
                    raise ValueError(f"{len(rows)} vectors for {len(part)} questions")
                found += [row.embedding for row in rows]
            vectors = np.asarray(found, dtype=np.float32).reshape(len(questions), -1)
            if not np.isfinite(vectors).all():
                raise ValueError("vectors that are no numbers")
        except openai.OpenAIError as error:
            raise self._error(_reason(error)) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise self._error(f"it answered {type(error).__name__}: {error}") from error
        finally:
            if own:
                http.close()
        length = np.sqrt((vectors**2).sum(axis=1))
        return Seen(vectors / np.maximum(length, 1e-9)[:, None], (length > 0).astype(np.float32))

    def dump(self) -> bytes:
        """What must be the same for vectors to be comparable, as bytes."""
        return packed(model=np.array(self.model))

    def is_same(self, data: bytes) -> bool:
        """Whether a stored space is this one."""
        return str(unpacked(data).get("model", "")) == self.model

    def _error(self, what: str) -> ServerError:
        return ServerError(
            f"no embeddings from {self.url} ({self.model}): {what}",
            rule="Nothing was lost: what is new is looked at again the next time.",
            remedy="Start the endpoint, or set curate.clusters.url, curate.clusters.model and "
            f"the key in {self._key_variable}.",
        )


def _reason(error: Exception) -> str:
    """What went wrong, without the body of an answer: it may quote the question."""
    status = getattr(error, "status_code", None)
    if status is not None:
        return f"it answered with status {status}"
    cause = error.__cause__
    return f"{type(cause or error).__name__}"
