import json
import re
from pathlib import Path

import pytest
import yaml

from checkpoints.catalogue import CATALOGUE, NAMES, CatalogueModel, ModelError, check, read_object, shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    files = {"config.json": {"size": 2, "sha256": ""}, "model.safetensors": {"size": 1000, "sha256": ""}}
    (tmp_path / "hashes.json").write_text(json.dumps({"revision": "1" * 40, "files": files}))
    return tmp_path


def test_the_names_are_those_of_the_contract() -> None:
    assert NAMES == ("demo", "mini-4k", "mini-128k", "medium-4k", "medium-128k")


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_a_name_a_repository_and_a_context_say_the_same(model: CatalogueModel) -> None:
    assert CATALOGUE[model.name] is model
    assert model.repository == f"microsoft/Phi-3-{model.name}-instruct"
    assert model.context == {"4k": 4096, "128k": 131072}[model.name.split("-")[1]]
    assert model.licence == "MIT"


def test_the_images_are_made_of_the_same_models() -> None:
    models = yaml.safe_load((Path(__file__).parents[2] / "images/catalogue.yaml").read_text())["models"]
    parts = ("repository", "revision", "context", "licence")
    assert {name: {part: model[part] for part in parts} for name, model in models.items()} == {
        name: {part: getattr(model, part) for part in parts} for name, model in CATALOGUE.items()
    }


def test_every_model_is_pinned_to_a_commit_of_its_own() -> None:
    revisions = {model.revision for model in CATALOGUE.values()}
    assert len(revisions) == len(CATALOGUE)
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions)


def test_a_whole_folder_tells_its_revision(folder: Path) -> None:
    assert check(folder) == "1" * 40


def test_a_truncated_file_is_named_with_both_sizes(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(999))
    with pytest.raises(ModelError, match=r"model\.safetensors has 999 bytes and should have 1,000.*Remove"):
        check(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json has 0 bytes"):
        check(folder)


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"revision": "1", "files": {"config.json": {}}}'])
def test_a_folder_that_cannot_be_checked_is_refused(folder: Path, manifest: str | None) -> None:
    (folder / "hashes.json").unlink()
    if manifest is not None:
        (folder / "hashes.json").write_text(manifest)
    with pytest.raises(ModelError, match=r"has no readable hashes\.json"):
        check(folder)


def test_the_index_names_the_shards_once_each(folder: Path) -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shards(folder) == {"1.safetensors", "2.safetensors"}


def test_without_an_index_there_are_no_shards(folder: Path) -> None:
    assert shards(folder) == set()


@pytest.mark.parametrize(("text", "error"), [("{", "cannot be read as JSON"), ("[]", "holds list")])
def test_a_file_that_is_no_json_object_is_named(folder: Path, text: str, error: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=f"config.json {error}"):
        read_object(folder / "config.json")
