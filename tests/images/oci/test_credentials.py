"""Whom the pipeline says it is to a registry."""

import json
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.credentials import Credentials, find

HOST = "registry.example:5000"
AUTH = "bWU6c2VjcmV0OndpdGg6Y29sb25z"  # me:secret:with:colons


def config(folder: Path, content: object) -> dict[str, str]:
    """Return an environment with a Docker configuration."""
    (folder / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(folder)}


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"{HOST}/v2/"])
def test_the_configuration_of_docker_is_read(tmp_path: Path, key: str) -> None:
    environment = config(tmp_path, {"auths": {key: {"auth": AUTH}, "other": {"auth": "eDp5"}}})
    assert find(HOST, environment) == Credentials("me", "secret:with:colons")
    assert find("third", environment) is None


def test_docker_hub_goes_by_its_old_name(tmp_path: Path) -> None:
    environment = config(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}})
    assert find("registry-1.docker.io", environment)


def test_the_environment_comes_first_and_can_be_for_one_registry(tmp_path: Path) -> None:
    environment = config(tmp_path, {"auths": {HOST: {"auth": AUTH}}})
    environment |= {"REGISTRY_USERNAME": "ci", "REGISTRY_PASSWORD": "token"}
    assert find(HOST, environment) == Credentials("ci", "token")
    environment["REGISTRY_HOST"] = "other.example"
    assert find(HOST, environment) == Credentials("me", "secret:with:colons")


def test_the_files_of_podman_are_read(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/auth.json").write_text(json.dumps({"auths": {HOST: {"auth": AUTH}}}))
    assert find(HOST, {"DOCKER_CONFIG": "/nowhere", "XDG_RUNTIME_DIR": str(tmp_path)})
    assert find(HOST, {"DOCKER_CONFIG": "/nowhere", "REGISTRY_AUTH_FILE": str(tmp_path / "containers/auth.json")})


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper, named test."""
    path = tmp_path / "docker-credential-test"
    path.write_text('#!/bin/sh\nread -r host\n[ "$1" = get ] && cat "$(dirname "$0")/$host"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("how", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}}])
def test_a_helper_is_asked(tmp_path: Path, helper: Path, how: dict[str, object]) -> None:
    (helper / HOST).write_text(json.dumps({"Username": "me", "Secret": "kept"}))
    assert find(HOST, config(tmp_path, how)) == Credentials("me", "kept")
    (helper / HOST).write_text(json.dumps({"Username": "<token>", "Secret": "kept"}))
    assert find(HOST, config(tmp_path, how)) == Credentials(identity_token="kept")  # noqa: S106 - of a test


def test_a_helper_that_fails_or_is_not_there_is_named(tmp_path: Path, helper: Path) -> None:
    with pytest.raises(ImageError, match=f"docker-credential-test failed for {HOST}"):
        find(HOST, config(tmp_path, {"credsStore": "test"}))
    (helper / HOST).write_text("what?")
    with pytest.raises(ImageError, match="no credential"):
        find(HOST, config(tmp_path, {"credsStore": "test"}))
    with pytest.raises(ImageError, match="docker-credential-none, which the configuration names"):
        find(HOST, config(tmp_path, {"credsStore": "none"}))


def test_a_helper_that_has_none_leaves_us_anonymous(tmp_path: Path, helper: Path) -> None:
    (helper / "docker-credential-test").write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    assert find(HOST, config(tmp_path, {"credsStore": "test"})) is None


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ImageError, match=r"config\.json cannot be read"):
        find(HOST, {"DOCKER_CONFIG": str(tmp_path)})


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(Credentials("me", "hidden", "hidden"))
