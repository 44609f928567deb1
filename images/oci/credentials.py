"""Registry credentials from the environment, a credential helper, or the configuration of Docker or Podman.

REGISTRY_USERNAME and REGISTRY_PASSWORD apply to the registry that REGISTRY_HOST names, or to any if it is not set.
Sources of the formats: https://docs.docker.com/reference/cli/docker/login/ and containers-auth.json(5).
"""

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.errors import ImageError

DOCKER_HUB = ("docker.io", "registry-1.docker.io", "index.docker.io")
HELPER_TIMEOUT = 30
"""Seconds."""


@dataclass(frozen=True)
class Credentials:
    """A user name and a password, or an identity token, which is exchanged for access tokens."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credentials(host: str, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """Return the credentials for a registry, or None if there are none.

    Raises ImageError if a file or a helper cannot be read.
    """
    username, password = environment.get("REGISTRY_USERNAME"), environment.get("REGISTRY_PASSWORD")
    if username and password and environment.get("REGISTRY_HOST", host) == host:
        return Credentials(username, password)
    keys = [f"{alias}{path}" for alias in _aliases(host) for path in ("", "/v1/", "/v2/")]
    keys += [f"https://{key}" for key in keys]
    for path in _configuration_files(environment):
        found = _from_file(path, host, keys)
        if found:
            return found
    return None


def _aliases(host: str) -> tuple[str, ...]:
    return DOCKER_HUB if host in DOCKER_HUB else (host,)


def _configuration_files(environment: Mapping[str, str]) -> list[Path]:
    docker = environment.get("DOCKER_CONFIG")
    podman = environment.get("REGISTRY_AUTH_FILE")
    files = [Path(podman)] if podman else []
    files.append(Path(docker) / "config.json" if docker else Path("~/.docker/config.json").expanduser())
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        files.append(Path(runtime) / "containers/auth.json")
    return [file for file in files if file.is_file()]


def _from_file(path: Path, host: str, keys: list[str]) -> Credentials | None:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        helpers: dict[str, str] = config.get("credHelpers", {})
        auths: dict[str, dict[str, str]] = config.get("auths", {})
        helper = next((helpers[key] for key in keys if key in helpers), config.get("credsStore"))
        entry = next((auths[key] for key in keys if key in auths), {})
        if entry.get("identitytoken"):
            return Credentials(identity_token=entry["identitytoken"])
        if entry.get("auth"):
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return Credentials(username, password)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImageError(f"{path} cannot be read ({error}): log in to {host} again, or remove the file") from error
    if entry.get("username") and entry.get("password"):
        return Credentials(entry["username"], entry["password"])
    return _from_helper(helper, host) if helper else None


def _from_helper(helper: str, host: str) -> Credentials | None:
    """Run docker-credential-NAME: https://github.com/docker/docker-credential-helpers."""
    server = "https://index.docker.io/v1/" if host in DOCKER_HUB else host
    program = f"docker-credential-{helper}"
    try:
        result = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=HELPER_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{program}, which the configuration names for {host}, does not run: {error}") from error
    if result.returncode != 0:
        if "not found" in result.stdout.lower():
            return None
        raise ImageError(f"{program} failed for {host}: {result.stdout.strip() or result.stderr.strip()}")
    try:
        found = json.loads(result.stdout)
        if found["Username"] == "<token>":
            return Credentials(identity_token=found["Secret"])
        return Credentials(found["Username"], found["Secret"])
    except (ValueError, LookupError, TypeError) as error:
        raise ImageError(f"{program} returned no valid credentials for {host}: log in again") from error
