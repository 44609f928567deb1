"""What `helm test` runs, against a real server."""

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


def ask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program of the test's container, as the container does."""
    container = one("Pod", {})["spec"]["containers"][0]
    program, flag, source, _ = container["command"]
    assert (program, flag, source) == ("python3", "-c", (CHART / "files/ask.py").read_text())
    return subprocess.run([sys.executable, "-I", flag, source, *arguments], capture_output=True, text=True)


def test_it_asks_the_service() -> None:
    assert one("Pod", {})["spec"]["containers"][0]["command"][3:] == ["http://phi3:80"]
    assert one("Pod", FEATURES["a load balancer"])["spec"]["containers"][0]["command"][3:] == ["http://phi3:8080"]


@pytest.mark.parametrize("feature", ["keys from a Secret", "a generated key"])
def test_it_has_the_keys(feature: str) -> None:
    spec = one("Pod", FEATURES[feature])["spec"]
    assert spec["containers"][0]["command"][4:] == ["/run/secrets/phi3/api-keys"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    (volume,) = spec["volumes"]
    assert (mount["mountPath"], volume["name"]) == ("/run/secrets/phi3", mount["name"])


def test_it_is_a_test_that_runs_where_the_image_is_and_leaves_nothing() -> None:
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


def test_a_server_with_keys_passes(demo: Path, keys: Path) -> None:
    with running(demo, "--api-keys-file", str(keys)) as server:
        done = ask(server.url, keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    for passed in (
        "POST /chat answers",
        "POST /v1/chat/completions streams",
        "GET /metrics answers",
        "POST /chat without a key is refused",
        "POST /chat with a wrong key is refused",
    ):
        assert f"passed: {passed}" in done.stdout


class Played(BaseHTTPRequestHandler):
    """A server that answers what a test wants of it, and asks for the key "right-key" where `guarded`."""

    answers: ClassVar[dict[str, str]]
    guarded: ClassVar[bool]

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self) -> None:
        known = self.headers.get("Authorization") == "Bearer right-key"
        self.send_response(200 if known or not self.guarded else 401)
        self.end_headers()
        self.wfile.write(self.answers[self.path].encode())

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
def played(guarded: bool = True, **changed: str) -> Iterator[str]:
    """The URL of a server that plays one with keys and streaming."""
    answers = OPENAI | {f"/{name.replace('__', '/')}": text for name, text in changed.items()}
    handler = type("Handler", (Played,), {"answers": answers, "guarded": guarded})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"guarded": False}, "POST /chat without a key is refused"),
        ({"chat": '{"Result": ""}'}, "POST /chat answers"),
        ({"metrics": ""}, "GET /metrics answers"),
        ({"v1__chat__completions": '{"choices": []}'}, "POST /v1/chat/completions streams"),
    ],
)
def test_what_is_wrong_fails(changed: dict[str, Any], failed: str, keys: Path) -> None:
    with played(**changed) as url:
        done = ask(url, keys)
    assert done.returncode == 1
    assert f"FAILED: {failed}" in done.stdout
