"""A folder or bucket that holds versions: all that fsspec reads."""

from __future__ import annotations

import posixpath
from pathlib import Path

from flywheel.sharing.place import PlaceError
from ledger.errors import ConfigError


class FsspecPlace:
    """A folder or bucket that fsspec reads: `file://`, `s3://`, `gs://`, `memory://`, a path."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{url} cannot be opened: {error}",
                remedy="Install what fsspec needs for it (`s3fs` for s3://, `gcsfs` for gs://).",
            ) from error

    def card_path(self, alias: str) -> str:
        """Beside the versions of the alias."""
        return f"{alias}/README.md"

    def read(self, path: str) -> bytes | None:
        """See `Place`.

        Raises:
            PlaceError: the place does not answer.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(path))
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system has errors of its own
            raise self._broken("read", path, error) from error
        return data

    def files(self, folder: str) -> list[str]:
        """See `Place`.

        Raises:
            PlaceError: the place does not answer.
        """
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(self._path(folder))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._broken("list", folder, error) from error
        start = self._root.rstrip("/") + "/"
        return sorted(str(name).removeprefix(start) for name in found)

    def upload(self, files: dict[str, Path | bytes], message: str) -> None:
        """See `Place`. What was cut off is overwritten by the next try.

        Raises:
            PlaceError: a file cannot be written.
        """
        *before, last = files
        for path in before:
            self._write(path, files[path])
        try:
            with self._fs.transaction:  # the last one whole or not at all
                self._write(last, files[last])
        except PlaceError:
            raise
        except Exception as error:
            raise self._broken("write", last, error) from error

    def download(self, path: str, target: Path) -> None:
        """See `Place`.

        Raises:
            PlaceError: there is no such file, or the place does not answer.
        """
        try:
            self._fs.get_file(self._path(path), str(target))
        except Exception as error:
            raise self._broken("fetch", path, error) from error

    def _write(self, path: str, data: Path | bytes) -> None:
        full = self._path(path)
        try:
            self._fs.makedirs(posixpath.dirname(full), exist_ok=True)
            with self._fs.open(full, "wb") as out:
                if isinstance(data, bytes):
                    out.write(data)
                    return
                with open(data, "rb") as handle:
                    while chunk := handle.read(1 << 22):
                        out.write(chunk)
        except Exception as error:
            raise self._broken("write", path, error) from error

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _broken(self, what: str, path: str, error: Exception) -> PlaceError:
        return PlaceError(f"cannot {what} {self.url}/{path}: {error or type(error).__name__}")
