"""The models known by name, read from catalogue.yaml."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from checkpoints.errors import ModelError

CATALOGUE_PATH = Path(__file__).with_name("catalogue.yaml")
DEMO = "demo"
"""The model that this machine makes from a Python package, without a hub."""


@dataclass(frozen=True)
class CatalogueModel:
    """A model.

    `repository` is the owner and name on the hub, `revision` a commit (40 hexadecimal digits), and `licence` an SPDX
    identifier. `image` is the last component of the image's name. `context` is the largest number of tokens that
    prompt and completion may have together.
    """

    name: str
    repository: str
    revision: str
    licence: str
    image: str
    context: int


DEMO_MODEL = CatalogueModel(
    name=DEMO, repository="", revision="", licence="Apache-2.0", image="phi-3-demo", context=8192
)


def read_catalogue(path: Path = CATALOGUE_PATH) -> dict[str, CatalogueModel]:
    """Return the models of a catalogue file by name.

    Raises ModelError if the file is missing or malformed, or if a revision is not a commit.
    """
    fields = ("repository", "revision", "licence", "image", "context")
    try:
        entries = yaml.safe_load(path.read_text())["models"]
        models = {
            name: CatalogueModel(name, **{field: entry[field] for field in fields}) for name, entry in entries.items()
        }
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read as a catalogue ({error!r}): each model needs {', '.join(fields)}"
        ) from error
    for model in models.values():
        if not re.fullmatch("[0-9a-f]{40}", model.revision):
            raise ModelError(
                f"{path}: the revision of {model.name} is {model.revision!r}; "
                "set it to a commit of 40 hexadecimal digits"
            )
    return models


CATALOGUE = read_catalogue()
MODEL_NAMES = (DEMO, *CATALOGUE)


def get_model(name: str) -> CatalogueModel:
    """Return the model with this name; raises ModelError, which lists the names, if there is none."""
    if name == DEMO:
        return DEMO_MODEL
    if name not in CATALOGUE:
        raise ModelError(f"there is no model {name!r}: choose {', '.join(MODEL_NAMES)}")
    return CATALOGUE[name]
