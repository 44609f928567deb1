"""The pod of `helm test`, run against a real server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, one
from tools.harness.server import running


def smoke_test(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command of the test container on this machine."""
    container = one("Pod", {})["spec"]["containers"][0]
    program, flag, source, _ = container["command"]
    assert (program, flag, source) == ("python3", "-c", (CHART / "files/smoke_test.py").read_text())
    return subprocess.run([sys.executable, "-I", flag, source, *arguments], capture_output=True, text=True)


def test_hook_sends_requests_to_the_service() -> None:
    assert one("Pod", {})["spec"]["containers"][0]["command"][3:] == ["http://phi3:80"]
    assert one("Pod", FEATURES["a load balancer"])["spec"]["containers"][0]["command"][3:] == ["http://phi3:8080"]


@pytest.mark.parametrize("feature", ["API keys from a Secret", "a generated API key"])
def test_hook_mounts_the_api_keys(feature: str) -> None:
    spec = one("Pod", FEATURES[feature])["spec"]
    assert spec["containers"][0]["command"][4:] == ["/run/secrets/phi3/api-keys"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    (volume,) = spec["volumes"]
    assert (mount["mountPath"], volume["name"]) == ("/run/secrets/phi3", mount["name"])


def test_hook_runs_on_nodes_with_the_image_and_is_deleted_afterwards() -> None:
    pod = one("Pod", {})
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "hook-succeeded" in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"]["limits"]
    server = one("Deployment", {})["spec"]["template"]["spec"]
    assert pod["spec"]["affinity"] == server["affinity"]
    assert pod["spec"]["containers"][0]["image"] == server["containers"][0]["image"]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "api-keys"
    file.write_text("right-key\nother-key\n")
    return file


def test_smoke_test_passes_on_a_server_with_keys(demo: Path, keys: Path) -> None:
    with running(demo, "--api-keys-file", str(keys)) as server:
        done = smoke_test(server.url, keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    for passed in (
        "POST /chat returns a completion",
        "POST /v1/chat/completions streams",
        "GET /metrics returns metrics",
        "POST /chat rejects a request without a key",
        "POST /chat rejects a wrong key",
    ):
        assert f"passed: {passed}" in done.stdout


class FakeServer(BaseHTTPRequestHandler):
    """A server with fixed responses; if `guarded`, it requires the key "right-key"."""

    bodies: ClassVar[dict[str, str]]
    guarded: ClassVar[bool]

    def do_GET(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.respond()

    def respond(self) -> None:
        authorized = self.headers.get("Authorization") == "Bearer right-key"
        self.send_response(200 if authorized or not self.guarded else 401)
        self.end_headers()
        self.wfile.write(self.bodies[self.path].encode())

    def log_message(self, *_: Any) -> None:
        pass


OPENAI = {
    "/chat": '{"Result": "Paris."}',
    "/openapi.json": '{"paths": {"/v1/chat/completions": {}}}',
    "/v1/models": '{"data": [{"id": "mini-4k"}]}',
    "/v1/chat/completions": 'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n',
    "/metrics": "vllm:num_requests_running 0\n",
}


@contextmanager
def fake_server(guarded: bool = True, **changed: str) -> Iterator[str]:
    """Yield the URL of a server with fixed responses, `changed` by route with __ for /."""
    bodies = OPENAI | {f"/{name.replace('__', '/')}": text for name, text in changed.items()}
    handler = type("Handler", (FakeServer,), {"bodies": bodies, "guarded": guarded})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"guarded": False}, "POST /chat rejects a request without a key"),
        ({"chat": '{"Result": ""}'}, "POST /chat returns a completion"),
        ({"metrics": ""}, "GET /metrics returns metrics"),
        ({"v1__chat__completions": '{"choices": []}'}, "POST /v1/chat/completions streams"),
    ],
)
def test_smoke_test_fails_on_a_wrong_response(changed: dict[str, Any], failed: str, keys: Path) -> None:
    with fake_server(**changed) as url:
        done = smoke_test(url, keys)
    assert done.returncode == 1
    assert f"FAILED: {failed}" in done.stdout
