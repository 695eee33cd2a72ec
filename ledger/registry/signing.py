"""Signatures of versions, by the OpenSSF's `model-signing` with a key of one's own.

A signature covers every file of a version's folder but two: `manifest.json`, which holds what
differs between registries (the number, the adapter's id), and `training_data.jsonl`, whose lines
go when somebody is forgotten. Both are hashed, and `flywheel verify` compares what the manifest
claims with the signed `train.json`. It lies beside the folder and is a sigstore bundle, so that
`model_signing verify key` reads it too. Keys are PEM files of an elliptic curve (`openssl ecparam
-name prime256v1 -genkey -noout`). Not covered: who may hold the key.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ledger.errors import ConfigError, RegistryError
from ledger.registry.manifest import MANIFEST, TRAINING_DATA
from ledger.settings.registry import Signing

#: Beside the versions of an alias.
SIGNATURES = ".signatures"
PASSWORD_VARIABLE = "FLYWHEEL_SIGNING_PASSWORD"
_NOT_COVERED = (MANIFEST, TRAINING_DATA)


class Signer:
    """Signs and checks versions with the keys of a configuration."""

    def __init__(self, given: Signing) -> None:
        self._given = given

    @property
    def required(self) -> bool:
        """Whether a version without a valid signature is not served."""
        return self._given.required

    @property
    def can_check(self) -> bool:
        """Whether there is a public key to check with."""
        return self._given.public_key is not None

    def sign(self, folder: Path, signature: Path) -> None:
        """Sign a version.

        Raises:
            ConfigError: there is no key, or `model-signing` is not installed.
            RegistryError: the key cannot be used.
        """
        key = self._given.private_key
        if key is None:
            raise ConfigError(
                "signing.private_key is not set",
                remedy="Make a key (`openssl ecparam -name prime256v1 -genkey -noout -out KEY`) "
                "and name it there.",
            )
        signing, config = _modules("signing"), _hashing(folder)
        password = os.environ.get(PASSWORD_VARIABLE)
        signature.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=signature.parent, prefix=f".{signature.name}.")
        os.close(descriptor)
        temporary = Path(name)
        try:
            signer = signing.Config().set_hashing_config(config)
            # The library takes the password as bytes, whatever its annotation says.
            signer.use_elliptic_key_signer(
                private_key=key, password=None if password is None else password.encode()
            )
            signer.sign(folder, temporary)
            temporary.chmod(0o644)
            temporary.replace(signature)
        except (OSError, ValueError, TypeError) as error:
            raise RegistryError(
                f"{folder} cannot be signed with {key}: {error}",
                remedy="The key is a PEM file of the curve P-256, P-384 or P-521; "
                f"{PASSWORD_VARIABLE} holds its password where it has one.",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def verify(self, folder: Path, signature: Path, name: str) -> None:
        """Check a version's signature.

        Raises:
            ConfigError: there is no public key, or `model-signing` is not installed.
            RegistryError: there is no signature, it is another key's, or a file differs.
        """
        key = self._given.public_key
        if key is None:
            raise ConfigError(
                "signing.public_key is not set, and without it no signature can be checked",
                remedy="`openssl ec -in KEY -pubout -out KEY.pub` makes it of the private key.",
            )
        if not signature.is_file():
            raise RegistryError(
                f"{name} is not signed",
                rule="signing.required is on: only signed versions are served.",
                remedy=f"`flywheel sign {name.replace('@v', ' --version ')}`, where the private "
                "key is.",
            )
        verifying = _modules("verifying")
        try:
            verifier = verifying.Config().set_hashing_config(_hashing(folder))
            verifier.use_elliptic_key_verifier(public_key=key).verify(folder, signature)
        except Exception as error:  # whatever the library says of it: it is not valid
            raise RegistryError(
                f"the signature of {name} is not valid: {error or type(error).__name__}",
                rule="It was made by the holder of the private key, of these very files.",
                remedy="Restore the version, or sign it again where the private key is.",
            ) from error


def _hashing(folder: Path) -> Any:
    config = _modules("hashing").Config()
    return config.set_ignored_paths(
        paths=[folder / file for file in _NOT_COVERED], ignore_git_paths=False
    )


def _modules(name: str) -> Any:
    """A module of `model_signing`; it takes most of a second to import."""
    try:
        import importlib

        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise ConfigError(
            f"signatures need the package model-signing: {error}",
            remedy="pip install 'flywheel[signing]'",
        ) from error
