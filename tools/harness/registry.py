"""A real registry, Debian's docker-registry, on this machine, and a proxy in front of it that misbehaves on request."""

import http.client
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).parents[2]
START_SECONDS = 30


@contextmanager
def registry(folder: Path, **settings: str) -> Iterator[str]:
    """Run a registry that keeps its files in `folder`; yields its host ("127.0.0.1:PORT"). `settings` are its own."""
    subprocess.run([ROOT / "scripts/packages", "docker-registry"], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'files'}}}, delete: {{enabled: true}}}}\n"
        'http: {addr: "127.0.0.1:0"}\n'
    )
    environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"} | settings
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["docker-registry", "serve", config], env=environment, stderr=output, stdout=output
        ) as process,
    ):
        try:
            end = time.monotonic() + START_SECONDS
            while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.02)
            yield found[1]
        finally:
            process.kill()


@dataclass
class Call:
    """A request: `received` is how many bytes of its body came in, `status` what was answered."""

    method: str
    path: str
    authorization: str | None
    received: int = 0
    status: int = 0


@dataclass
class Fault:
    """What happens to the next `times` requests of a method whose path matches a pattern.

    They are answered with `status` and `headers` in place of the registry; with `after`, once so many bytes of the
    body came in. Status 0 cuts the connection. With `forwarded` the registry gets the request all the same.
    """

    method: str
    path: str
    status: int
    times: int = 1
    after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    forwarded: bool = False


@dataclass
class Proxy:
    """Stands before the registry at `upstream` inside a `with` block, and keeps what it was asked in `calls`.

    With `token` it wants a bearer token, which expires after `uses` requests. It gives them out at /token: to the user
    name and password `token`, to anybody where that is (), or for the identity token where it is a string.
    """

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    token: tuple[str, ...] | str | None = None
    uses: int = 1_000_000
    valid: dict[str, int] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def bytes_of_blobs(self) -> int:
        """How many bytes of blobs came in."""
        return sum(call.received for call in self.calls if call.method in ("PUT", "PATCH") and "/blobs/" in call.path)

    def fault(self, method: str, path: str) -> Fault | None:
        """Return the fault that a request meets, and count it."""
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that a client, or a fault, has cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go out in two pieces

    def __init__(self, proxy: Proxy, *arguments: object) -> None:
        self.proxy = proxy
        super().__init__(*arguments)  # type: ignore[arg-type]

    def _handle(self) -> None:
        self.call = Call(self.command, self.path, self.headers["Authorization"])
        self.proxy.calls.append(self.call)
        if self.path.startswith("/token"):
            self._give_token()
            return
        fault = self.proxy.fault(self.command, self.path)
        if fault and fault.after is not None:
            self._read(min(fault.after, int(self.headers.get("Content-Length", 0))))
        if not self._admitted():
            challenge = f'Bearer realm="http://{self.proxy.host}/token",service="test"'
            name = re.sub(r"/(blobs|manifests)/.*", "", urlsplit(self.path).path.removeprefix("/v2/"))
            actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            self._answer(401, {"WWW-Authenticate": f'{challenge},scope="repository:{name}:{actions}"'})
        elif fault and not fault.forwarded:
            if fault.status:
                self._answer(fault.status, fault.headers)
            self.close_connection = True
        else:
            self._forward(fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _admitted(self) -> bool:
        if self.proxy.token is None:
            return True
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        left = self.proxy.valid.get(token, 0)
        self.proxy.valid[token] = left - 1
        return left > 0

    def _give_token(self) -> None:
        wanted, query = self.proxy.token, parse_qs(urlsplit(self.path).query)
        if isinstance(wanted, str):
            form = parse_qs(self._read(int(self.headers["Content-Length"])).decode())
            admitted = form["refresh_token"] == [wanted]
            self.proxy.scopes += form["scope"]
        else:
            import base64

            pair = base64.b64encode(":".join(wanted or ()).encode()).decode()
            admitted = not wanted or self.headers["Authorization"] == f"Basic {pair}"
            self.proxy.scopes += query.get("scope", [])
        if not admitted:
            self._answer(401, {})
            return
        token = secrets.token_hex(8)
        self.proxy.valid[token] = self.proxy.uses
        self._answer(200, {"Content-Type": "application/json"}, f'{{"token": "{token}"}}'.encode())

    def _read(self, count: int) -> bytes:
        content = self.rfile.read(count)
        self.call.received += len(content)
        return content

    def _forward(self, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("authorization", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders()
        left = int(self.headers.get("Content-Length", 0))
        while left and (piece := self._read(min(left, 1 << 16))):
            with suppress(ConnectionError):  # from a registry that answers first
                upstream.send(piece)
            left -= len(piece)
        if left:
            upstream.close()
            self.close_connection = True
            return
        response = upstream.getresponse()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in ("date", "connection")}
        status = fault.status if fault else response.status
        self._answer(status, headers | (fault.headers if fault else {}), response.read())
        upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.call.status = status
        with suppress(ConnectionError):
            self.send_response(status)
            length = headers.get("Content-Length", "") if self.command == "HEAD" else ""
            for name, value in (headers | {"Content-Length": length or str(len(body))}).items():
                if name.lower() != "transfer-encoding":
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        # What is left of the request's body cannot be told from a next request.
        if self.call.received < int(self.headers.get("Content-Length", 0)):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
