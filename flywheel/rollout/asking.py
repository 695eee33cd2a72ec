"""Telling a person that a stage does not come to an end by itself.

The question is an event of its own (`ask`), so `flywheel status` and the review page show it until
somebody answers with `flywheel promote`, `abort` or by waiting longer. Where drift's webhook is set
it is told, too: once, and a webhook that does not answer changes nothing.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import httpx

from ledger.deployments import Change, name_or_none
from ledger.loopback import is_loopback
from ledger.settings import Settings

logger = logging.getLogger(__name__)


def tell(settings: Settings, change: Change) -> bool:
    """Post the question to the webhook; False where there is none, or it did not take it."""
    url = settings.drift.webhook
    if url is None:
        return False
    event, state = change.event, change.after
    body = {
        "kind": "rollout_ask",
        "alias": event.alias,
        "version": name_or_none(event.alias, state.candidate, settings.model.name),
        "share": state.share,
        "ts": event.ts,
        "said": event.why,
        "evidence": event.report,
    }
    # A proxy set in the environment must not see requests to this very machine.
    local = is_loopback(urlsplit(url).hostname)
    try:
        with httpx.Client(trust_env=not local, timeout=settings.drift.webhook_seconds) as client:
            client.post(url, json=body).raise_for_status()
    except httpx.HTTPError as error:
        logger.error("the webhook did not take the question about %s: %s", event.alias, error)
        return False
    return True
