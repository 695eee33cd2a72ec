"""A repository on the Hugging Face hub as a place for versions.

A push is one commit that names the commit it was decided on, so it is there whole or not at all,
and two at once cannot both win. Who we are says `HF_TOKEN` or `hf auth login`; another hub says
`HF_ENDPOINT`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from flywheel.sharing.place import PlaceError
from ledger.errors import ConfigError

HUB = "hf://"


class HubPlace:
    """`hf://owner/name`.

    Args:
        private: whether a repository that is made here is private.
    """

    def __init__(self, url: str, *, private: bool = True) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        self.url = url.rstrip("/")
        self._repo, self._private = self.url.removeprefix(HUB), private
        try:
            validate_repo_id(self._repo)
        except HFValidationError as error:
            raise ConfigError(f"{url} names no repository: {error}") from error
        if "/" not in self._repo:
            raise ConfigError(f"{url} names no repository", rule="Write hf://owner/name.")
        self._api = HfApi()
        self._at: str | None = None

    def card_path(self, alias: str) -> str:
        """The hub shows the README of a repository."""
        return "README.md"

    def read(self, path: str) -> bytes | None:
        """See `Place`.

        Raises:
            PlaceError: the hub does not answer, or refuses us.
        """
        if path not in self.files(""):
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            self.download(path, file)
            return file.read_bytes()

    def files(self, folder: str) -> list[str]:
        """See `Place`.

        Raises:
            PlaceError: the hub does not answer, or refuses us.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            self._at = self._api.repo_info(self._repo).sha
            names = self._api.list_repo_files(self._repo, revision=self._at)
        except RepositoryNotFoundError:
            self._at = None
            return []
        except Exception as error:
            raise self._broken("list", folder, error) from error
        return sorted(n for n in names if not folder or n.startswith(f"{folder}/"))

    def upload(self, files: dict[str, Path | bytes], message: str) -> None:
        """See `Place`: one commit.

        Raises:
            PlaceError: the hub refuses it, or somebody else committed meanwhile.
        """
        from huggingface_hub import CommitOperationAdd

        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
            for path, data in files.items()
        ]
        try:
            if self._at is None:
                self._api.create_repo(self._repo, private=self._private, exist_ok=True)
                self._at = self._api.repo_info(self._repo).sha
            self._api.create_commit(
                self._repo, operations, commit_message=message, parent_commit=self._at
            )
        except Exception as error:
            raise self._broken("write", next(iter(files)), error) from error

    def download(self, path: str, target: Path) -> None:
        """See `Place`.

        Raises:
            PlaceError: there is no such file, or the hub does not answer.
        """
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
                found = self._api.hf_hub_download(
                    self._repo, path, revision=self._at, local_dir=folder
                )
                Path(found).replace(target)
        except Exception as error:
            raise self._broken("fetch", path, error) from error

    def _broken(self, what: str, path: str, error: Exception) -> PlaceError:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return PlaceError(
            f"cannot {what} {self.url}/{path}: {said[0]}",
            remedy="HF_TOKEN says who we are; the repository must be one that it may write."
            if what == "write"
            else "",
        )
