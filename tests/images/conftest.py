"""Fixtures: a hub with a small Phi-3 model, and a registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import retry
from checkpoints.catalogue import CatalogueModel, get_model
from tests.support.hub import Hub
from tests.support.repository import SHARDS, write_repository
from tools.harness.registry import Proxy, registry


@pytest.fixture(autouse=True)
def _isolation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shorten the waits between attempts, and hide the credentials of this machine."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model() -> CatalogueModel:
    return get_model("mini-4k")


@pytest.fixture
def hub(tmp_path: Path, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(write_repository(tmp_path / "repository", SHARDS), model.repository, model.revision) as hub:
        hub.use_in_this_process(monkeypatch)
        yield hub


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host of a real registry."""
    with registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def proxy(upstream: str) -> Iterator[Proxy]:
    with Proxy(upstream) as proxy:
        yield proxy
