"""A hub with a small Phi-3 on it, and a registry to bring it to."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.catalogue import Model, find
from images.io import retry
from tests.support.hub import Hub
from tools.harness.registry import Proxy, registry

SHARDS = {"model-00001-of-00002.safetensors": 300_000, "model-00002-of-00002.safetensors": 200_001}
SMALL = ("LICENSE", "NOTICE.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
LEFT_OUT = ("README.md", "modeling_phi3.py", "onnx/model.safetensors", "pytorch_model.bin", "training_args.pt")


def safetensors(size: int) -> bytes:
    """A sound file with so many random bytes of weights."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


def repository(folder: Path, shards: dict[str, int]) -> Path:
    """Fill a folder with what a repository of a Phi-3 holds."""
    (folder / "onnx").mkdir(parents=True)
    for name in (*SMALL, *LEFT_OUT):
        (folder / name).write_text(f"{name} of {folder.name}\n")
    for name, size in shards.items():
        (folder / name).write_bytes(safetensors(size))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys("ab", "")}))
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No long waits between tries, and no credentials but those of a test."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model() -> Model:
    return find("mini-4k")


@pytest.fixture
def hub(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(repository(tmp_path / "repository", SHARDS), model.repository, model.revision) as hub:
        # The client reads HF_ENDPOINT once, when it is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
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
