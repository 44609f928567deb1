"""The catalogue is the one list of models, and the server's agrees with it."""

from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE
from images.catalogue import find, read
from images.errors import ImageError


def test_the_server_has_the_same_models() -> None:
    ours = {name: (one.repository, one.revision, one.licence, one.context) for name, one in read().items()}
    theirs = {name: (one.repository, one.revision, one.licence, one.context) for name, one in CATALOGUE.items()}
    assert ours == theirs


def test_the_demo_model_has_a_name_and_no_hub() -> None:
    assert (find("demo").repository, find("demo").revision) == ("", "")


@pytest.mark.parametrize("text", ["", "models: {a: {}}", "models: [", "models: {a: {repository: r, revision: main}}"])
def test_what_is_no_catalogue_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalogue.yaml").write_text(text)
    with pytest.raises(ImageError, match=r"catalogue\.yaml cannot be read"):
        read(tmp_path / "catalogue.yaml")


def test_a_branch_is_no_revision(tmp_path: Path) -> None:
    (tmp_path / "catalogue.yaml").write_text(
        "models: {a: {repository: r, revision: main, licence: MIT, image: i, context: 1}}"
    )
    with pytest.raises(ImageError, match="40 hexadecimal digits"):
        read(tmp_path / "catalogue.yaml")
