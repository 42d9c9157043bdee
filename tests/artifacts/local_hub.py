"""A server on this machine that speaks the hub's API as far as huggingface_hub needs it for an artifact.

Repositories, branches and commits; small files in the commit, large ones through git-lfs's batch API; downloads from a
given byte on. It holds everything in memory.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

LARGE = 40
"""Bytes from which a file is a large one here."""


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds files to what a branch has; the new commit."""
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        digests = [(path, hashlib.sha256(data).hexdigest()) for path, data in sorted(tree.items())]
        commit = hashlib.sha1(repr((digests, len(self.commits))).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = tree, commit
        return commit

    def at(self, revision: str) -> str:
        """The commit of a branch, or of itself; empty where there is none."""
        return revision if revision in self.commits else self.branches.get(revision, "")


class LocalHub(http.server.ThreadingHTTPServer):
    """The hub.

    Attributes:
        requests: method and path of each request.
        token: what every request must have as its token; empty for none.
        breaks_after: bytes of a file after which connections are cut, once; None for never.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.token = ""
        self.breaks_after: int | None = None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_request(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = (
            self.chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        )
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
            return
        for pattern, method, act in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                act(self, body, *match.groups())
                return
        self.answer(404, X_Error_Code="RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def chunked(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        return found

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            self.answer(409, {"url": f"{self.server.address}/{name}"})
            return
        self.server.repositories[name] = repository = Repository(asked.get("visibility") == "private")
        repository.commit({".gitattributes": b""})
        self.answer(200, {"url": f"{self.server.address}/{name}"})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        if repository := self.repository(name):
            if branch in repository.branches:
                self.answer(409, X_Error_Message="Reference already exists")
                return
            repository.branches[branch] = repository.branches["main"]
            self.answer(200, {})

    def information(self, body: bytes, name: str, revision: str = "main") -> None:
        if repository := self.repository(name):
            if not (commit := repository.at(revision)):
                self.answer(404, X_Error_Code="RevisionNotFound")
                return
            files = [{"rfilename": path} for path in repository.commits[commit]]
            self.answer(200, {"id": name, "sha": commit, "private": repository.private, "siblings": files})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["size"] >= LARGE else "regular" for file in files}
        self.answer(
            200,
            {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]},
        )

    def batch(self, body: bytes, name: str) -> None:
        def action(oid: str) -> dict[str, Any]:
            if oid in self.server.large:
                return {}
            return {"actions": {"upload": {"href": f"{self.server.address}/large/{oid}", "header": {}}}}

        objects = json.loads(body)["objects"]
        self.answer(200, {"transfer": "basic", "objects": [{**o, **action(o["oid"])} for o in objects]})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self.answer(200)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if repository := self.repository(name):
            files = {}
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.server.large[value["oid"]]
            oid = repository.commit(files, revision)
            self.answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid})

    def file(self, body: bytes, name: str, revision: str, path: str) -> None:
        if not (repository := self.repository(name)):
            return
        if not (commit := repository.at(revision)):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        data = repository.commits[commit].get(path)
        if data is None:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        rest = data[int(start[1]) :] if start else data
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": commit}
        if start:
            headers["Content_Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
        cut = self.server.breaks_after
        if cut is not None and self.command == "GET" and len(rest) > cut:
            self.server.breaks_after = None
            self.answer(206 if start else 200, rest[:cut], Content_Length=str(len(rest)), **headers)
            self.close_connection = True
            return
        self.answer(206 if start else 200, rest, Content_Length=str(len(rest)), **headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("/api/repos/create", "POST", _Handler.create),
    ("/api/validate-yaml", "POST", lambda handler, body: handler.answer(200, {"errors": [], "warnings": []})),
    (rf"/api/models/{_NAME}/branch/(.+)", "POST", _Handler.branch),
    (rf"/api/models/{_NAME}/preupload/(.+)", "POST", _Handler.preupload),
    (rf"/api/models/{_NAME}/commit/(.+)", "POST", _Handler.commit),
    (rf"/api/models/{_NAME}/revision/(.+)", "GET", _Handler.information),
    (rf"/api/models/{_NAME}", "GET", _Handler.information),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    ("/large/([0-9a-f]+)", "PUT", _Handler.upload),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", "HEAD", _Handler.file),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", "GET", _Handler.file),
]
