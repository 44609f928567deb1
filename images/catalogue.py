"""The models that images are made of, read from catalogue.yaml."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from images.errors import ImageError

PATH = Path(__file__).with_name("catalogue.yaml")
DEMO = "demo"
"""The model that comes from a folder on this machine, not from a hub."""


@dataclass(frozen=True)
class Model:
    """A model: `repository` and `revision` (40 hexadecimal digits) on the hub, `licence` an SPDX identifier.

    `image` is the last part of the name of its image.
    """

    name: str
    repository: str
    revision: str
    licence: str
    image: str
    context: int


def read(path: Path = PATH) -> dict[str, Model]:
    """Return the models of a catalogue by name; raises ImageError where it has none, or not what one needs."""
    try:
        entries = yaml.safe_load(path.read_text())["models"]
        fields = ("repository", "revision", "licence", "image", "context")
        models = {name: Model(name, **{field: entry[field] for field in fields}) for name, entry in entries.items()}
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise ImageError(f"{path} cannot be read as a catalogue of models: {error!r}") from error
    for model in models.values():
        if not re.fullmatch("[0-9a-f]{40}", model.revision):
            raise ImageError(f"{path}: the revision of {model.name} should be a commit, 40 hexadecimal digits")
    return models


def find(name: str) -> Model:
    """Return a model by name; raises ImageError, which lists the names, where there is none of that name."""
    models = read()
    if name == DEMO:
        return Model(DEMO, "", "", "Apache-2.0", "phi-3-demo", 8192)
    if name not in models:
        raise ImageError(f"there is no model {name!r}: choose {', '.join([DEMO, *models])}")
    return models[name]
