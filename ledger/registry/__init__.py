"""Versions on disk: `registry/<alias>/v<N>/`, immutable once they are there.

`versions` finds, makes and reads them, `adapters` says what vLLM can serve, `verify` recomputes
every hash, `signing` signs what a version is, `prune` lets the weights of a rejected one go.
What is known about a version from outside (a signature, that its weights were let go) lies
beside its folder, never in it.
"""

from ledger.registry.adapters import ADAPTER_CONFIG, WEIGHTS, check_adapter, unservable
from ledger.registry.manifest import MANIFEST, TRAINING_DATA, Manifest, Version, content_id
from ledger.registry.versions import Registry

__all__ = [
    "ADAPTER_CONFIG",
    "MANIFEST",
    "TRAINING_DATA",
    "WEIGHTS",
    "Manifest",
    "Registry",
    "Version",
    "check_adapter",
    "content_id",
    "unservable",
]
