"""The catalogue, the only list of models."""

import re
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE, MODEL_NAMES, CatalogueModel, get_model, read_catalogue
from checkpoints.errors import ModelError


def test_names_are_those_of_the_contract() -> None:
    assert MODEL_NAMES == ("demo", "mini-4k", "mini-128k", "medium-4k", "medium-128k")


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_name_repository_and_context_agree(model: CatalogueModel) -> None:
    assert CATALOGUE[model.name] is model
    assert get_model(model.name) is model
    assert model.repository == f"microsoft/Phi-3-{model.name}-instruct"
    assert model.image == f"phi-3-{model.name}-instruct"
    assert model.context == {"4k": 4096, "128k": 131072}[model.name.split("-")[1]]
    assert model.licence == "MIT"


def test_every_model_is_pinned_to_a_commit_of_its_own() -> None:
    revisions = {model.revision for model in CATALOGUE.values()}
    assert len(revisions) == len(CATALOGUE)
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions)


def test_demo_model_is_on_no_hub() -> None:
    assert (get_model("demo").repository, get_model("demo").revision) == ("", "")


def test_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        ModelError, match="there is no model 'phi-4': choose demo, mini-4k, mini-128k, medium-4k, medium"
    ):
        get_model("phi-4")


@pytest.mark.parametrize("text", ["", "models: {a: {}}", "models: [", "models: {a: {repository: r, revision: main}}"])
def test_malformed_catalogue_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalogue.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"catalogue\.yaml cannot be read"):
        read_catalogue(tmp_path / "catalogue.yaml")


def test_branch_is_not_accepted_as_a_revision(tmp_path: Path) -> None:
    (tmp_path / "catalogue.yaml").write_text(
        "models: {a: {repository: r, revision: main, licence: MIT, image: i, context: 1}}"
    )
    with pytest.raises(ModelError, match="40 hexadecimal digits"):
        read_catalogue(tmp_path / "catalogue.yaml")
