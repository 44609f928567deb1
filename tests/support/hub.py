"""A Hugging Face hub on this machine, which serves a directory as one repository to the official client.

Like the real one, it redirects requests for files in LFS to another host (here another port), which must never get the
token. Tests can make it drop connections, corrupt files, require a token, or lack files.
"""

import hashlib
import json
import re
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

LFS = (".safetensors", ".bin", ".model")
LIST = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Request:
    """A request and its response: `host` is "hub" or "cdn", and `sent` the number of bytes of the body sent."""

    host: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Hub:
    """A hub with one repository, which serves inside a `with` block and records requests in `requests`.

    Attributes:
        token: required for files, if set; their list stays public, as for a gated repository.
        cut: by file, the number of bytes after which the first response ends.
        stall: by file, the number of bytes after which the first response halts until `released` is set.
        status: by file, the status of the first response.
        flip: by file, the position of a byte that is always corrupted.
        flip_once: by file, the position of a byte that is corrupted in the first response only.
        sizes: by file, the size that the list claims.
        ranges: whether the hub supports range requests.
        claimed_revision: the commit that responses name, if it is not `revision`.
    """

    directory: Path
    repository: str
    revision: str
    token: str | None = None
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    flip: dict[str, int] = field(default_factory=dict)
    flip_once: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    claimed_revision: str = ""
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._servers = [_Server(("127.0.0.1", 0), partial(_Handler, self, host)) for host in ("hub", "cdn")]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def commit(self) -> str:
        """The commit that responses name."""
        return self.claimed_revision or self.revision

    def use_in_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point the official client, which reads HF_ENDPOINT only when it is imported, to this hub."""
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )

    def sent(self, name: str) -> list[Request]:
        """Return the requests for which a part of a file was sent, in order."""
        return [request for request in self.requests if request.sent and request.path.endswith(f"/{name}")]

    def entry(self, name: str) -> dict[str, Any]:
        """Return the entry of a file in the hub's tree."""
        content = (self.directory / name).read_bytes()
        size = self.sizes.get(name, len(content))
        if not name.endswith(LFS):
            return {"type": "file", "path": name, "size": size, "oid": _git_sha1(content)}
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": name, "size": size, "oid": _git_sha1(pointer), "lfs": lfs}

    def tree(self) -> list[dict[str, Any]]:
        """Return the entries of all files."""
        paths = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return [self.entry(str(path.relative_to(self.directory))) for path in paths]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except for connections that a client drops."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent separately

    def __init__(self, hub: Hub, host: str, *arguments: Any) -> None:
        self.hub = hub
        self.host = host
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.record = Request(self.host, self.command, path, self.headers["Range"], self.headers["Authorization"])
        self.hub.requests.append(self.record)
        if self.host == "cdn":
            self._send_content(path.removeprefix("/"), {})
        elif match := LIST.fullmatch(path):
            repository, kind, revision = match.groups()
            if self._has_revision(repository, revision):
                self._send_json(self.hub.tree() if kind == "tree" else self._info("blobs" in parse_qs(url.query)))
        elif match := FILE.fullmatch(path):
            repository, revision, name = match.groups()
            if self._has_revision(repository, revision) and self._is_authorized():
                self._send_file(name)
        else:
            self._send_error(404, "NotFound")

    def _has_revision(self, repository: str, revision: str | None) -> bool:
        if repository != self.hub.repository:
            self._send_error(404 if self.record.authorization else 401, "RepoNotFound")
        elif revision not in (None, "main", self.hub.revision):
            self._send_error(404, "RevisionNotFound")
        else:
            return True
        return False

    def _is_authorized(self) -> bool:
        if self.hub.token is None or self.record.authorization == f"Bearer {self.hub.token}":
            return True
        self._send_error(403 if self.record.authorization else 401, "GatedRepo")
        return False

    def _info(self, with_blobs: bool) -> dict[str, Any]:
        siblings = []
        for entry in self.hub.tree():
            sibling = {"rfilename": entry["path"]}
            if with_blobs:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if lfs := entry.get("lfs"):
                    sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            siblings.append(sibling)
        return {"id": self.hub.repository, "sha": self.hub.commit, "siblings": siblings}

    def _send_file(self, name: str) -> None:
        if name in self.hub.status:
            self._send_error(self.hub.status.pop(name), "Refused")
            return
        if not (self.hub.directory / name).is_file():
            self._send_error(404, "EntryNotFound")
            return
        entry = self.hub.entry(name)
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{entry["oid"]}"'}
        if lfs := entry.get("lfs"):
            headers |= {"X-Linked-Etag": f'"{lfs["oid"]}"', "X-Linked-Size": str(lfs["size"])}
            headers |= {"Location": f"{self.hub.cdn_url}/{quote(name)}"}
            self._send(302, headers, b"")
        else:
            self._send_content(name, headers)

    def _send_content(self, name: str, headers: dict[str, str]) -> None:
        content = bytearray((self.hub.directory / name).read_bytes())
        if name in self.hub.flip:
            content[self.hub.flip[name]] ^= 1
        if name in self.hub.flip_once:
            content[self.hub.flip_once.pop(name)] ^= 1
        if not (self.record.range and self.hub.ranges):
            self._send(200, headers, bytes(content), name)
            return
        first, last = self.record.range.removeprefix("bytes=").split("-")
        part = bytes(content[int(first) : int(last) + 1 if last else None])
        if part:
            headers |= {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}
            self._send(206, headers, part, name)
        else:
            self._send(416, headers | {"Content-Range": f"bytes */{len(content)}"}, b"")

    def _send_json(self, content: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send_error(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, name: str = "") -> None:
        """Send a response; `name` is the file in the body, whose `cut` and `stall` apply."""
        self.record.status = status
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.hub.cut.pop(name, len(body))
        halt = self.hub.stall.pop(name, end)
        with suppress(ConnectionError):  # the client was killed
            self._write(body[:halt])
            if halt < end:
                self.hub.released.wait()
                self._write(body[halt:end])
        self.close_connection = end < len(body)

    def _write(self, content: bytes) -> None:
        self.record.sent += len(content)
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
