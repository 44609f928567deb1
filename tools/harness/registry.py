"""A real registry (docker-registry from Debian's packages), and a proxy that injects faults in front of it."""

import base64
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
def registry(directory: Path, **settings: str) -> Iterator[str]:
    """Run a registry with its files in `directory`, and yield its host ("127.0.0.1:PORT").

    `settings` are environment variables of the registry.
    """
    subprocess.run([ROOT / "scripts/packages", "docker-registry"], check=True)
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'files'}}}, delete: {{enabled: true}}}}\n"
        'http: {addr: "127.0.0.1:0"}\n'
    )
    environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"} | settings
    log = directory / "log"
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
    """A request: `received` is the number of bytes of its body, and `status` that of the response."""

    method: str
    path: str
    authorization: str | None
    received: int = 0
    status: int = 0


@dataclass
class Fault:
    """A fault for the next `times` requests of a method whose path matches a pattern.

    The proxy responds with `status` and `headers` instead of the registry, after it has read `after` bytes of the body
    if that is set. Status 0 drops the connection. With `forwarded` the registry still gets the request.
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
    """A proxy for the registry at `upstream`, inside a `with` block; it records requests in `calls`.

    If `token` is set, requests need a bearer token, which expires after `uses` requests. The proxy issues tokens at
    /token: to the user name and password `token`, to anyone if it is (), or for the identity token if it is a string.
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
    def blob_bytes(self) -> int:
        """The number of bytes of blobs received."""
        return sum(call.received for call in self.calls if call.method in ("PUT", "PATCH") and "/blobs/" in call.path)

    def fault(self, method: str, path: str) -> Fault | None:
        """Return the fault for a request, and count it."""
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Do not report connections dropped by a client or a fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent separately

    def __init__(self, proxy: Proxy, *arguments: object) -> None:
        self.proxy = proxy
        super().__init__(*arguments)  # type: ignore[arg-type]

    def _handle(self) -> None:
        self.call = Call(self.command, self.path, self.headers["Authorization"])
        self.proxy.calls.append(self.call)
        if self.path.startswith("/token"):
            self._issue_token()
            return
        fault = self.proxy.fault(self.command, self.path)
        if fault and fault.after is not None:
            self._read(min(fault.after, int(self.headers.get("Content-Length", 0))))
        if not self._is_authorized():
            challenge = f'Bearer realm="http://{self.proxy.host}/token",service="test"'
            name = re.sub(r"/(blobs|manifests)/.*", "", urlsplit(self.path).path.removeprefix("/v2/"))
            actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            self._respond(401, {"WWW-Authenticate": f'{challenge},scope="repository:{name}:{actions}"'})
        elif fault and not fault.forwarded:
            if fault.status:
                self._respond(fault.status, fault.headers)
            self.close_connection = True
        else:
            self._forward(fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _is_authorized(self) -> bool:
        if self.proxy.token is None:
            return True
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        left = self.proxy.valid.get(token, 0)
        self.proxy.valid[token] = left - 1
        return left > 0

    def _issue_token(self) -> None:
        expected, query = self.proxy.token, parse_qs(urlsplit(self.path).query)
        if isinstance(expected, str):
            form = parse_qs(self._read(int(self.headers["Content-Length"])).decode())
            authorized = form["refresh_token"] == [expected]
            self.proxy.scopes += form["scope"]
        else:
            pair = base64.b64encode(":".join(expected or ()).encode()).decode()
            authorized = not expected or self.headers["Authorization"] == f"Basic {pair}"
            self.proxy.scopes += query.get("scope", [])
        if not authorized:
            self._respond(401, {})
            return
        token = secrets.token_hex(8)
        self.proxy.valid[token] = self.proxy.uses
        self._respond(200, {"Content-Type": "application/json"}, f'{{"token": "{token}"}}'.encode())

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
        while left and (block := self._read(min(left, 1 << 16))):
            with suppress(ConnectionError):  # the registry responded before the end of the body
                upstream.send(block)
            left -= len(block)
        if left:
            upstream.close()
            self.close_connection = True
            return
        response = upstream.getresponse()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in ("date", "connection")}
        status = fault.status if fault else response.status
        self._respond(status, headers | (fault.headers if fault else {}), response.read())
        upstream.close()

    def _respond(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.call.status = status
        with suppress(ConnectionError):
            self.send_response(status)
            length = headers.get("Content-Length", "") if self.command == "HEAD" else ""
            for name, value in (headers | {"Content-Length": length or str(len(body))}).items():
                if name.lower() != "transfer-encoding":
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        # The rest of the request's body would be parsed as the next request.
        if self.call.received < int(self.headers.get("Content-Length", 0)):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
