"""Registry credentials from the environment, configuration files and helpers."""

import json
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.credentials import Credentials, find_credentials

HOST = "registry.example:5000"
AUTH = "bWU6c2VjcmV0OndpdGg6Y29sb25z"  # me:secret:with:colons


def config(directory: Path, content: object) -> dict[str, str]:
    """Write a Docker configuration, and return the environment that points to it."""
    (directory / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(directory)}


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"{HOST}/v2/"])
def test_docker_configuration_is_read(tmp_path: Path, key: str) -> None:
    environment = config(tmp_path, {"auths": {key: {"auth": AUTH}, "other": {"auth": "eDp5"}}})
    assert find_credentials(HOST, environment) == Credentials("me", "secret:with:colons")
    assert find_credentials("third", environment) is None


def test_docker_hub_credentials_are_found_under_its_old_name(tmp_path: Path) -> None:
    environment = config(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}})
    assert find_credentials("registry-1.docker.io", environment)


def test_environment_takes_precedence_and_can_be_limited_to_one_registry(tmp_path: Path) -> None:
    environment = config(tmp_path, {"auths": {HOST: {"auth": AUTH}}})
    environment |= {"REGISTRY_USERNAME": "ci", "REGISTRY_PASSWORD": "token"}
    assert find_credentials(HOST, environment) == Credentials("ci", "token")
    environment["REGISTRY_HOST"] = "other.example"
    assert find_credentials(HOST, environment) == Credentials("me", "secret:with:colons")


def test_podman_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/auth.json").write_text(json.dumps({"auths": {HOST: {"auth": AUTH}}}))
    assert find_credentials(HOST, {"DOCKER_CONFIG": "/nowhere", "XDG_RUNTIME_DIR": str(tmp_path)})
    assert find_credentials(
        HOST, {"DOCKER_CONFIG": "/nowhere", "REGISTRY_AUTH_FILE": str(tmp_path / "containers/auth.json")}
    )


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper, named test."""
    path = tmp_path / "docker-credential-test"
    path.write_text('#!/bin/sh\nread -r host\n[ "$1" = get ] && cat "$(dirname "$0")/$host"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("how", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}}])
def test_credential_helper_is_run(tmp_path: Path, helper: Path, how: dict[str, object]) -> None:
    (helper / HOST).write_text(json.dumps({"Username": "me", "Secret": "kept"}))
    assert find_credentials(HOST, config(tmp_path, how)) == Credentials("me", "kept")
    (helper / HOST).write_text(json.dumps({"Username": "<token>", "Secret": "kept"}))
    assert find_credentials(HOST, config(tmp_path, how)) == Credentials(identity_token="kept")  # noqa: S106 - of a test


def test_failing_or_missing_helper_is_named(tmp_path: Path, helper: Path) -> None:
    with pytest.raises(ImageError, match=f"docker-credential-test failed for {HOST}"):
        find_credentials(HOST, config(tmp_path, {"credsStore": "test"}))
    (helper / HOST).write_text("what?")
    with pytest.raises(ImageError, match="returned no valid credentials"):
        find_credentials(HOST, config(tmp_path, {"credsStore": "test"}))
    with pytest.raises(ImageError, match="docker-credential-none, which the configuration names"):
        find_credentials(HOST, config(tmp_path, {"credsStore": "none"}))


def test_helper_without_credentials_leads_to_anonymous_access(tmp_path: Path, helper: Path) -> None:
    (helper / "docker-credential-test").write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    assert find_credentials(HOST, config(tmp_path, {"credsStore": "test"})) is None


def test_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ImageError, match=r"config\.json cannot be read"):
        find_credentials(HOST, {"DOCKER_CONFIG": str(tmp_path)})


def test_secrets_are_hidden_in_repr() -> None:
    assert "hidden" not in repr(Credentials("me", "hidden", "hidden"))
