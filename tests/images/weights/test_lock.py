"""The lock: what a model's files and layers are."""

import hashlib
import json
from pathlib import Path

import pytest

from images.catalogue import Model, read
from images.errors import ImageError
from images.weights import lock
from images.weights.folder import Folder
from images.weights.hub import Hub as HubSource
from tests.images.conftest import SHARDS
from tests.support.hub import Hub
from tools.harness.images import locked


def test_it_has_the_size_and_the_hashes_of_every_file_and_layer(hub: Hub, model: Model, tmp_path: Path) -> None:
    locked(model, tmp_path / "lock.json")
    content = json.loads((tmp_path / "lock.json").read_text())["mini-4k"]
    assert (content["repository"], content["revision"]) == (model.repository, hub.revision)
    files = {file["name"]: file for layer in content["layers"] for file in layer["files"]}
    for name, file in files.items():
        body = (hub.folder / name).read_bytes()
        assert file["size"] == len(body)
        assert file["sha256"] == hashlib.sha256(body).hexdigest()
        assert ("git_sha1" in file) == (name not in SHARDS)
    assert [len(layer["files"]) for layer in content["layers"]] == [1, 1, 7]


def test_a_lock_of_a_folder_has_the_same_layers_as_one_of_the_hub(hub: Hub, model: Model, tmp_path: Path) -> None:
    entry = locked(model, tmp_path / "lock.json")
    local = lock.make(model, Folder(hub.folder), 1)
    assert [one.digest for one in local.layers] == [one.digest for one in entry.layers]


def test_others_entries_stay(hub: Hub, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text('{"zzz": {"revision": "kept"}}')
    locked(model, path)
    assert list(json.loads(path.read_text())) == ["mini-4k", "zzz"]
    assert hub.requests


def test_an_entry_of_another_revision_is_none(hub: Hub, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    locked(model, path)
    path.write_text(path.read_text().replace(hub.revision, "0" * 40))
    assert lock.find(path, model) is None


def test_the_committed_lock_has_the_pinned_revisions() -> None:
    content = lock.read(lock.PATH)
    assert {name: entry["revision"] for name, entry in content.items()} == {
        name: model.revision for name, model in read().items()
    }


@pytest.mark.parametrize("text", ["[]", "not json", '{"mini-4k": 1}'])
def test_what_is_no_lock_is_named(model: Model, tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(ImageError, match=r"lock\.json"):
        lock.find(tmp_path / "lock.json", model)


def test_a_lock_that_does_not_agree_with_itself_is_named(hub: Hub, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    locked(model, path)
    content = json.loads(path.read_text())
    content["mini-4k"]["layers"][0]["size"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="sizes of the layers of mini-4k do not fit"):
        lock.find(path, model)
    del content["mini-4k"]["layers"][0]["digest"]
    path.write_text(json.dumps(content))
    with pytest.raises(ImageError, match="cannot be read"):
        lock.find(path, model)
    assert hub.requests


def test_differences_from_the_hub_are_listed_without_reading_a_file(hub: Hub, model: Model, tmp_path: Path) -> None:
    entry = locked(model, tmp_path / "lock.json")
    hub.requests.clear()
    assert lock.differences(entry, HubSource(model)) == []
    (hub.folder / "config.json").write_text("another")
    (hub.folder / "NOTICE.md").unlink()
    (hub.folder / "added_tokens.json").write_text("{}")
    found = "; ".join(lock.differences(entry, HubSource(model)))
    assert f"NOTICE.md is missing from {hub.url}" in found
    assert "added_tokens.json is not in the lock" in found
    assert "config.json has the git_sha1" in found
    assert all(request.path.startswith("/api/") for request in hub.requests)


def test_a_file_that_is_not_what_the_hub_says_is_not_locked(hub: Hub, model: Model, tmp_path: Path) -> None:
    hub.flip = {next(iter(SHARDS)): 200_000}
    with pytest.raises(ImageError, match="is damaged"):
        locked(model, tmp_path / "lock.json")
    assert not (tmp_path / "lock.json").exists()
