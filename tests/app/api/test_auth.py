"""API keys, the pages of other sites, and headers for browsers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.api.auth import Keys, KeysError
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import Runtime
from app.settings import Settings

KEY = "correct-horse"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the first team\n{KEY}\n\n  battery-staple  \n")
    return path


def client(keys: Keys | None = None, origins: str = "") -> FlaskClient:
    return create_app(Runtime(Settings(model=Path(), cors_origins=origins), Metrics("none")), keys).test_client()


@pytest.mark.parametrize("key", [KEY, "battery-staple"])
def test_each_key_of_the_file_is_one(file: Path, key: str) -> None:
    assert Keys(file).allow(key)


@pytest.mark.parametrize("key", ["", "wrong-wrong", KEY[:-1], KEY + "x", "# of the first team", "é" * 8])
def test_nothing_else_is_a_key(file: Path, key: str) -> None:
    assert not Keys(file).allow(key)


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    keys = Keys(file)
    new = file.with_name("new")
    new.write_text("another-key\n")
    new.replace(file)
    assert keys.allow("another-key")
    assert not keys.allow(KEY)


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"short\n", b"\xff\xfe" * 8])
def test_a_file_that_cannot_be_used_is_refused_at_the_start_and_changes_nothing_later(
    file: Path, content: bytes | None
) -> None:
    keys = Keys(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
    assert keys.allow(KEY)
    with pytest.raises(KeysError, match=str(file)):
        Keys(file)


def test_a_server_without_its_keys_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "--model", str(tmp_path), "--api-keys-file", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m app: ")
    assert str(tmp_path / "none") in done.stderr


@pytest.mark.parametrize("path", ["/chat", "/v1/models", "/v1/chat/completions", "/metrics", "/openapi.json", "/none"])
def test_a_key_is_asked_for(file: Path, path: str) -> None:
    asking = client(Keys(file))
    for headers in ({}, {"Authorization": "Bearer wrong-wrong"}, {"Authorization": f"Basic {KEY}"}):
        response = asking.get(path, headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer KEY" in response.text
    assert asking.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code != 401
    assert asking.get(path, headers={"Authorization": f"bearer  {KEY} "}).status_code != 401


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/startupz", "/healthz"])
def test_health_needs_no_key(file: Path, path: str) -> None:
    assert client(Keys(file)).get(path).status_code != 401


def test_openais_clients_know_the_error(file: Path) -> None:
    error = client(Keys(file)).get("/v1/models").get_json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_pages_of_other_sites_may_not_ask_unless_they_are_named(file: Path) -> None:
    there = {"Origin": "https://there.example"}
    assert "Access-Control-Allow-Origin" not in client().get("/livez", headers=there).headers
    named = client(Keys(file), "https://here.example, https://there.example")
    response = named.get("/livez", headers=there)
    assert response.headers["Access-Control-Allow-Origin"] == "https://there.example"
    assert "Origin" in response.headers["Vary"]
    assert "Access-Control-Allow-Origin" not in named.get("/livez", headers={"Origin": "https://x.example"}).headers
    assert client(None, "*").get("/livez", headers=there).headers["Access-Control-Allow-Origin"] == there["Origin"]


def test_a_browser_may_ask_whether_it_may_ask(file: Path) -> None:
    headers = {
        "Origin": "https://there.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = client(Keys(file), "https://there.example").options("/v1/chat/completions", headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]


def test_browsers_are_told_to_leave_answers_alone() -> None:
    headers = client().get("/livez").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
