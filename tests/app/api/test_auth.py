"""API keys, CORS and security headers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.api.auth import Keys
from app.exceptions import KeysError
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings

KEY = "correct-horse"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the first team\n{KEY}\n\n  battery-staple  \n")
    return path


def client(keys: Keys | None = None, origins: str = "") -> FlaskClient:
    return create_app(ModelServer(Settings(model=Path(), cors_origins=origins), Metrics("none")), keys).test_client()


@pytest.mark.parametrize("key", [KEY, "battery-staple"])
def test_each_key_in_the_file_is_valid(file: Path, key: str) -> None:
    assert Keys(file).allow(key)


@pytest.mark.parametrize("key", ["", "wrong-wrong", KEY[:-1], KEY + "x", "# of the first team", "é" * 8])
def test_other_strings_are_not_valid_keys(file: Path, key: str) -> None:
    assert not Keys(file).allow(key)


def test_changed_key_file_is_reloaded(file: Path) -> None:
    keys = Keys(file)
    new = file.with_name("new")
    new.write_text("another-key\n")
    new.replace(file)
    assert keys.allow("another-key")
    assert not keys.allow(KEY)


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"short\n", b"\xff\xfe" * 8])
def test_invalid_key_file_is_refused_at_startup_and_ignored_later(file: Path, content: bytes | None) -> None:
    keys = Keys(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
    assert keys.allow(KEY)
    with pytest.raises(KeysError, match=str(file)):
        Keys(file)


def test_server_with_a_missing_key_file_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "--model", str(tmp_path), "--api-keys-file", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m app: ")
    assert str(tmp_path / "none") in done.stderr


@pytest.mark.parametrize("path", ["/chat", "/v1/models", "/v1/chat/completions", "/metrics", "/openapi.json", "/none"])
def test_protected_routes_require_a_key(file: Path, path: str) -> None:
    asking = client(Keys(file))
    for headers in ({}, {"Authorization": "Bearer wrong-wrong"}, {"Authorization": f"Basic {KEY}"}):
        response = asking.get(path, headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer KEY" in response.text
    assert asking.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code != 401
    assert asking.get(path, headers={"Authorization": f"bearer  {KEY} "}).status_code != 401


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/startupz", "/healthz"])
def test_health_routes_require_no_key(file: Path, path: str) -> None:
    assert client(Keys(file)).get(path).status_code != 401


def test_missing_key_on_openai_routes_is_an_openai_error(file: Path) -> None:
    error = client(Keys(file)).get("/v1/models").get_json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_cors_allows_only_configured_origins(file: Path) -> None:
    there = {"Origin": "https://there.example"}
    assert "Access-Control-Allow-Origin" not in client().get("/livez", headers=there).headers
    named = client(Keys(file), "https://here.example, https://there.example")
    response = named.get("/livez", headers=there)
    assert response.headers["Access-Control-Allow-Origin"] == "https://there.example"
    assert "Origin" in response.headers["Vary"]
    assert "Access-Control-Allow-Origin" not in named.get("/livez", headers={"Origin": "https://x.example"}).headers
    assert client(None, "*").get("/livez", headers=there).headers["Access-Control-Allow-Origin"] == there["Origin"]


def test_preflight_request_requires_no_key(file: Path) -> None:
    headers = {
        "Origin": "https://there.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = client(Keys(file), "https://there.example").options("/v1/chat/completions", headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]


def test_responses_have_security_headers() -> None:
    headers = client().get("/livez").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
