"""A stand-in for the Hugging Face Hub: the few routes over which files are fetched and pushed, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit


class StandIn:
    """A context manager.

    Attributes:
        url: of the server.
        repos: owner/name → branch → commit.
        commits: 40 hexadecimal digits → file → content.
        restricted: repositories whose files nobody may read.
        asked: what was asked for so far, "METHOD /path".
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.restricted: set[str] = set()
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandIn:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit that holds these files alone, and return it."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.repos.setdefault(repo, {})[branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._file()

    def do_HEAD(self) -> None:
        self._file()

    def do_POST(self) -> None:
        path = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            said = json.loads(body)
            repo = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            self.hub.repos.setdefault(repo, {})
            self._json({"url": f"{self.hub.url}/{repo}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            # The real one wants binary files by another way.
            files = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
                    ]
                }
            )
        elif "/commit/" in path:
            repo = path.removeprefix("/api/models/").partition("/commit/")[0]
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.put(repo, files)
            self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})
        else:
            self._refuse(404, "RepoNotFound")

    def _file(self) -> None:
        """Answer /owner/name/resolve/revision/file."""
        path = self._asked()
        repo, resolve, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not resolve or repo not in self.hub.repos:
            # Whoever is not logged in is not told what is private and what is not there.
            self._refuse(401, "RepoNotFound")
        elif repo in self.hub.restricted:
            self._refuse(403, "GatedRepo")
        elif (commit := self.hub.repos[repo].get(unquote(revision), revision)) not in self.hub.commits:
            self._refuse(404, "RevisionNotFound")
        elif name not in (files := self.hub.commits[commit]):
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            self._answer(200, files[name], {"X-Repo-Commit": commit, "ETag": etag})

    def _asked(self) -> str:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _json(self, record: object) -> None:
        self._answer(200, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, b"", {"X-Error-Code": code, **(headers or {})})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
