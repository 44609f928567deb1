"""A hub with minimal overhead, in a process of its own: sends files from the page cache by sendfile.

Usage: python -m benchmarks.weights_hub DIRECTORY REPOSITORY REVISION; prints its address.
"""

import hashlib
import json
import os
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    directory: Path
    repository: str
    revision: str
    files: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                | {"lfs": {"oid": sha256, "size": size, "pointerSize": 134}}
                for name, (size, sha256) in self.files.items()
            ]
            self._send_body(json.dumps(tree).encode())
            return
        if path.startswith("/api/models/"):
            siblings = [
                {"rfilename": name, "size": size, "blobId": "0" * 40}
                | {"lfs": {"sha256": sha256, "size": size, "pointerSize": 134}}
                for name, (size, sha256) in self.files.items()
            ]
            self._send_body(json.dumps({"id": self.repository, "sha": self.revision, "siblings": siblings}).encode())
            return
        name = path.rpartition("/")[2]
        if name not in self.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size, sha256 = self.files[name]
        headers = {"Content-Length": str(size), "ETag": f'"{sha256}"', "X-Linked-Etag": f'"{sha256}"'}
        self._send_headers(headers | {"X-Linked-Size": str(size), "X-Repo-Commit": self.revision})
        if self.command == "GET":
            with (self.directory / name).open("rb") as content:
                sent = 0
                while sent < size:
                    sent += os.sendfile(self.connection.fileno(), content.fileno(), sent, size - sent)

    do_HEAD = do_GET  # noqa: N815 - the name that its base class calls

    def _send_body(self, body: bytes) -> None:
        self._send_headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_headers(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def main(directory: str, repository: str, revision: str) -> None:
    """Serve until killed."""
    _Handler.directory, _Handler.repository, _Handler.revision = Path(directory), repository, revision
    _Handler.files = {}
    for path in sorted(Path(directory).iterdir()):
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        _Handler.files[path.name] = (path.stat().st_size, sha256)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
