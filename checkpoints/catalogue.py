"""The models known by name, each pinned to a commit of the Hugging Face hub, and how to tell a whole one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO = "demo"
"""The model made on this machine from a package; no hub is asked for it."""

INDEX = "model.safetensors.index.json"
"""As transformers names it: which of several files holds which weight."""

MANIFEST = "hashes.json"
"""In the folder of a model with a name: its repository, its revision, and the size and SHA-256 of each file."""


class ModelError(Exception):
    """A model cannot be had; the message says why, and what to do."""


@dataclass(frozen=True)
class CatalogueModel:
    """A model on the hub.

    `repository` is its owner and name, `revision` a commit (40 hexadecimal digits), `context` the most tokens
    that prompt and answer may have together, `licence` an SPDX identifier.
    """

    name: str
    repository: str
    revision: str
    context: int
    licence: str


CATALOGUE = {
    model.name: model
    for model in (
        CatalogueModel(
            name="mini-4k",
            repository="microsoft/Phi-3-mini-4k-instruct",
            revision="0a67737cc96d2554230f90338b163bc6380a2a85",
            context=4096,
            licence="MIT",
        ),
        CatalogueModel(
            name="mini-128k",
            repository="microsoft/Phi-3-mini-128k-instruct",
            revision="a90b62ae09941edff87a90ced39ba5807e6b2ade",
            context=131072,
            licence="MIT",
        ),
        CatalogueModel(
            name="medium-4k",
            repository="microsoft/Phi-3-medium-4k-instruct",
            revision="ae004ae82eb6eddc32906dfacb1d6dfea8f91996",
            context=4096,
            licence="MIT",
        ),
        CatalogueModel(
            name="medium-128k",
            repository="microsoft/Phi-3-medium-128k-instruct",
            revision="fa7d2aa4f5ea69b2e36b20d050cdae79c9bfbb3f",
            context=131072,
            licence="MIT",
        ),
    )
}
"""By name. Source of the revisions: presets/workspace/models/supported_models.yaml of KAITO at its commit
391b39858 of 25 November 2024, which its images are built from."""

NAMES = (DEMO, *CATALOGUE)
"""Every name that stands for a model."""


def check(folder: Path) -> str:
    """Hold a model's folder against its hashes.json by names and sizes, and return its revision.

    The weights are not read: their hashes were checked before the folder got its name.

    Raises ModelError where a file is missing or has another size, or where hashes.json cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        revision, files = str(manifest["revision"]), manifest["files"]
        sizes = {str(name): int(file["size"]) for name, file in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(
            f"{folder} has no readable {MANIFEST}, so what it should hold is not known: "
            "move it away, and run this again to get the model anew"
        ) from None
    for name, size in sizes.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else 0
        if actual != size:
            raise ModelError(
                f"{path} has {actual:,} bytes and should have {size:,}: the folder is cut or half copied. "
                f"Remove {folder}, and run this again to get the model anew"
            )
    return revision


def shards(folder: Path) -> set[str]:
    """Return the files that the index of the weights names: none where there is no index.

    Raises ModelError where the index cannot be read.
    """
    path = folder / INDEX
    return set(read_object(path).get("weight_map", {}).values()) if path.exists() else set()


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises ModelError where it does not."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}): it should hold an object") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__} where an object is needed")
    return content
