"""How much is asked at once."""

from __future__ import annotations

from ledger.settings import Settings

# What vLLM answers at once where nothing is set differs by hardware and version, 128 and more.
_UNSET = 128
_SHARE = 0.75


def concurrency(settings: Settings, alias: str) -> int:
    """Questions of a gate that are under way at once.

    As many as keep the server's batch full but for a quarter: beyond its size requests queue, and
    users, who ask the same server, would wait behind the gate's questions.
    """
    if (given := settings.alias(alias).gate.concurrency) is not None:
        return given
    batch = settings.serve.vllm.get("max_num_seqs", _UNSET)
    return max(1, int(_SHARE * batch)) if isinstance(batch, int) else 1
