"""A small Hugging Face hub on this machine: repositories, commits, large files, downloads.

It speaks what `huggingface_hub` asks of a real one: commits as NDJSON that name their parent,
weights by the LFS protocol, files by revision. Not Xet, nor who may do what, beyond one token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of-the-tests"


class FakeHub:
    """The server; use it in `with`.

    Attributes:
        repos: of each repository its commits: (sha, files by path).
        private: what each was made as.
        before_commit: called before a commit is looked at, for races.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.cards: list[str] = []
        self.before_commit = lambda: None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._handle(self)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo: str) -> dict[str, bytes]:
        """What the last commit holds."""
        return self.repos[repo][-1][1]

    def commit(self, repo: str, **files: bytes) -> None:
        """Somebody else's commit."""
        self._append(repo, {**self.files(repo), **files})

    def _append(self, repo: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{repo}{len(self.repos[repo])}".encode()).hexdigest()
        self.repos[repo].append((sha, files))
        return sha

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        status, data, headers = self._answer(request, body)
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        request.send_response(status)
        length = headers.pop("Content-Length", str(len(raw)))
        for name, value in {**headers, "Content-Length": length}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(raw)

    def _answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        path, kind = unquote(urlsplit(request.path).path), request.command
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            return 200, {}, {}
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}, {}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            if repo in self.repos:
                return 409, {"error": "You already created this model repo"}, {}
            self.repos[repo] = []
            self.private[repo] = wanted.get("visibility") == "private"
            self._append(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
            return 200, {"url": f"{self.url}/{repo}", "name": repo}, {}
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}, {}
        parts = path.removeprefix("/api/models/").lstrip("/").split("/")
        repo, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if rest[:3] == ["info", "lfs", "objects"]:
            return 200, self._lfs(json.loads(body)), {"Content-Type": "application/json"}
        if rest[:1] == ["preupload"]:
            listed = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": listed}, {}
        if rest[:1] == ["commit"]:
            return self._commit(repo, body)
        if kind in ("GET", "HEAD") and rest[:1] == ["resolve"]:
            return self._resolve(repo, rest[1], "/".join(rest[2:]))
        sha, files = self._at(repo, rest[1] if rest[:1] == ["tree"] else "main")
        if rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in files.items()
            ]
            return 200, entries, {}
        return 200, {"id": repo, "modelId": repo, "sha": sha, "siblings": []}, {}

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = self.repos[repo]
        return next((one for one in commits if one[0] == revision), commits[-1])

    def _lfs(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {
                **one,
                "actions": {"upload": {"href": f"{self.url}/large/{one['oid']}", "header": {}}},
            }
            for one in wanted["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        self.before_commit()
        lines = [json.loads(line) for line in body.splitlines()]
        files, parent = dict(self.files(repo)), lines[0]["value"].get("parentCommit")
        if parent is not None and parent != self.repos[repo][-1][0]:
            return 412, {"error": "A commit has happened since. Please refresh and try again."}, {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        sha = self._append(repo, files)
        found = {"commitUrl": f"{self.url}/{repo}/commit/{sha}", "commitOid": sha, "success": True}
        return 200, found, {}

    def _resolve(self, repo: str, revision: str, name: str) -> tuple[int, Any, dict[str, str]]:
        sha, files = self._at(repo, revision)
        if name not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
        data = files[name]
        tag = hashlib.sha256(data).hexdigest()
        return 200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": sha}
