"""Made-up answers of about 4 KB, as the server hands them to the writer."""

from __future__ import annotations

import random
import time
from typing import Any

_SENTENCES = (
    "the parcel that was promised for this week has still not come and nobody on the telephone "
    "could say where it is now so please look into it and tell me what happens with my refund "
    "because the account shows a payment that we never ordered while another one is missing "
    "thank you for the quick answer we tried what was suggested but the page asks for a code"
)
_WORDS = _SENTENCES.split()


def _card(rng: random.Random) -> str:
    """A number that passes the Luhn check, in groups of four."""
    digits = [4] + [rng.randrange(10) for _ in range(14)]
    doubled = [d if i % 2 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(digits)]
    number = "".join(map(str, digits)) + str(-sum(doubled) % 10)
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _personal(rng: random.Random) -> str:
    number = rng.randrange(1000, 9999)
    kind = rng.randrange(5)
    if kind == 0:
        return f"customer{number}@mail.example.com"
    if kind == 1:
        return f"+49 30 {rng.randrange(10**6, 10**7)}"
    if kind == 2:
        return _card(rng)
    if kind == 3:
        return f"10.{rng.randrange(256)}.{rng.randrange(256)}.7"
    return f"order {number} of 2026-03-{rng.randrange(10, 28)}"


def text(rng: random.Random, length: int, *, personal: bool) -> str:
    """Words of about that many characters; with something personal every hundred words or so."""
    parts: list[str] = []
    size = 0
    while size < length:
        hidden = personal and rng.random() < 0.012
        parts.append(_personal(rng) if hidden else rng.choice(_WORDS))
        size += len(parts[-1]) + 1
    return " ".join(parts)


def records(count: int, *, seed: int, personal: bool, size: int = 4000) -> list[dict[str, Any]]:
    """Records of chat answers, as `serve.capture` makes them.

    Args:
        size: characters of text in each.
    """
    rng = random.Random(seed)
    now = time.time()
    return [
        {
            "request_id": f"chatcmpl-{seed:x}-{number:08x}-bench",
            "choice": 0,
            "prompt_index": 0,
            "ts": now + number / 1e4,
            "api": "chat",
            "alias": "support",
            "version": f"support@v{1 + number % 2}",
            "base_model": "base",
            "arm": "live",
            "deployment": 1,
            "body": {
                "messages": [
                    {"role": "system", "content": text(rng, size // 10, personal=False)},
                    {"role": "user", "content": text(rng, size * 4 // 10, personal=personal)},
                ],
                "temperature": 0.7,
                "max_tokens": 600,
            },
            "response": text(rng, size // 2, personal=personal),
            "stored_text": True,
            "finish_reason": "stop",
            "template_hash": "fw1:template:0000",
            "mean_logprob": -rng.random(),
            "min_logprob": -4 * rng.random(),
            "prompt_tokens": 500,
            "completion_tokens": 420,
            "ttft_ms": 40.0,
            "latency_ms": 900.0,
            "user": f"user-{number % 200}",
            "session": None,
        }
        for number in range(count)
    ]
