"""Model directories and their manifests."""

import json
from pathlib import Path

import pytest

from checkpoints.directory import indexed_shards, read_json_object, verify_sizes
from checkpoints.errors import ModelError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    files = {"config.json": {"size": 2, "sha256": ""}, "model.safetensors": {"size": 1000, "sha256": ""}}
    (tmp_path / "hashes.json").write_text(json.dumps({"revision": "1" * 40, "files": files}))
    return tmp_path


def test_complete_directory_has_a_revision(directory: Path) -> None:
    assert verify_sizes(directory) == "1" * 40


def test_truncated_file_is_named_with_both_sizes(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(bytes(999))
    with pytest.raises(ModelError, match=r"model\.safetensors has 999 bytes instead of 1,000.*Remove"):
        verify_sizes(directory)


def test_missing_file_is_named(directory: Path) -> None:
    (directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json has 0 bytes"):
        verify_sizes(directory)


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"revision": "1", "files": {"config.json": {}}}'])
def test_directory_without_a_readable_manifest_is_refused(directory: Path, manifest: str | None) -> None:
    (directory / "hashes.json").unlink()
    if manifest is not None:
        (directory / "hashes.json").write_text(manifest)
    with pytest.raises(ModelError, match=r"has no readable hashes\.json"):
        verify_sizes(directory)


def test_index_names_each_shard_once(directory: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert indexed_shards(directory) == {"1.safetensors", "2.safetensors"}


def test_directory_without_an_index_has_no_indexed_shards(directory: Path) -> None:
    assert indexed_shards(directory) == set()


@pytest.mark.parametrize(("text", "error"), [("{", "cannot be read as JSON"), ("[]", "holds list")])
def test_file_without_a_json_object_is_named(directory: Path, text: str, error: str) -> None:
    (directory / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"config.json {error}"):
        read_json_object(directory / "config.json")
