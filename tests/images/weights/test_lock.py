"""The lock file: the files and layers of each model."""

import hashlib
import json
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE, CatalogueModel
from images.errors import ImageError
from images.weights.directory_source import DirectorySource
from images.weights.hub_source import HubSource
from images.weights.lock import LOCK_PATH, compare_with_source, lock_model, read_entry, read_lock
from tests.support.hub import Hub
from tests.support.repository import SHARDS
from tools.harness.images import lock_from_hub


def test_entry_has_the_size_and_hashes_of_every_file_and_layer(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    lock_from_hub(model, tmp_path / "lock.json")
    content = json.loads((tmp_path / "lock.json").read_text())["mini-4k"]
    assert (content["repository"], content["revision"]) == (model.repository, hub.revision)
    files = {file["name"]: file for layer in content["layers"] for file in layer["files"]}
    for name, file in files.items():
        body = (hub.directory / name).read_bytes()
        assert file["size"] == len(body)
        assert file["sha256"] == hashlib.sha256(body).hexdigest()
        assert ("git_sha1" in file) == (name not in SHARDS)
    assert [len(layer["files"]) for layer in content["layers"]] == [1, 1, 7]


def test_directory_and_hub_lead_to_the_same_layers(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    entry = lock_from_hub(model, tmp_path / "lock.json")
    local = lock_model(model, DirectorySource(hub.directory), 1)
    assert [one.digest for one in local.layers] == [one.digest for one in entry.layers]


def test_entries_of_other_models_stay(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text('{"zzz": {"revision": "kept"}}')
    lock_from_hub(model, path)
    assert list(json.loads(path.read_text())) == ["mini-4k", "zzz"]
    assert hub.requests


def test_entry_of_another_revision_is_ignored(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock_from_hub(model, path)
    path.write_text(path.read_text().replace(hub.revision, "0" * 40))
    assert read_entry(path, model) is None


def test_committed_lock_file_has_the_pinned_revisions() -> None:
    content = read_lock(LOCK_PATH)
    assert {name: entry["revision"] for name, entry in content.items()} == {
        name: model.revision for name, model in CATALOGUE.items()
    }


@pytest.mark.parametrize("text", ["[]", "not json", '{"mini-4k": 1}'])
def test_malformed_lock_file_is_named(model: CatalogueModel, tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(ImageError, match=r"lock\.json"):
        read_entry(tmp_path / "lock.json", model)


def test_contradictory_entry_is_named(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock_from_hub(model, path)
    content = json.loads(path.read_text())
    content["mini-4k"]["layers"][0]["size"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="sizes of the layers of mini-4k do not match"):
        read_entry(path, model)
    del content["mini-4k"]["layers"][0]["digest"]
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="cannot be read"):
        read_entry(path, model)
    assert hub.requests


def test_differences_from_the_hub_are_listed_without_reading_a_file(
    hub: Hub, model: CatalogueModel, tmp_path: Path
) -> None:
    entry = lock_from_hub(model, tmp_path / "lock.json")
    hub.requests.clear()
    assert compare_with_source(entry, HubSource(model)) == []
    (hub.directory / "config.json").write_text("another")
    (hub.directory / "NOTICE.md").unlink()
    (hub.directory / "added_tokens.json").write_text("{}")
    found = "; ".join(compare_with_source(entry, HubSource(model)))
    assert f"NOTICE.md is missing from {hub.url}" in found
    assert "added_tokens.json is not in the lock file" in found
    assert "config.json has the git_sha1" in found
    assert all(request.path.startswith("/api/") for request in hub.requests)


def test_file_that_contradicts_the_hub_is_not_locked(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    hub.flip = {next(iter(SHARDS)): 200_000}
    with pytest.raises(ImageError, match="is damaged"):
        lock_from_hub(model, tmp_path / "lock.json")
    assert not (tmp_path / "lock.json").exists()
