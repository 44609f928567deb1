"""Model directories: their manifest of hashes, and what makes one servable."""

import json
from pathlib import Path
from typing import Any

from checkpoints.errors import ModelError
from checkpoints.files import INDEX, is_weights

MANIFEST = "hashes.json"
"""In the directory of a catalogue model: its repository and revision, and the size and SHA-256 of each file."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def verify_sizes(directory: Path) -> str:
    """Compare the files of a directory with the names and sizes in its manifest, and return its revision.

    This reads no weights: their hashes were verified before the directory got its name.

    Raises ModelError if a file is missing or has another size, or if the manifest cannot be read.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        revision, files = str(manifest["revision"]), manifest["files"]
        sizes = {str(name): int(file["size"]) for name, file in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(
            f"{directory} has no readable {MANIFEST}, so its files cannot be verified: "
            "move the directory away and run this again to recreate it"
        ) from None
    for name, size in sizes.items():
        path = directory / name
        actual = path.stat().st_size if path.is_file() else 0
        if actual != size:
            raise ModelError(
                f"{path} has {actual:,} bytes instead of {size:,}. Remove {directory} and run this again to recreate it"
            )
    return revision


def verify_checkpoint(directory: Path) -> None:
    """Verify that a directory is a complete transformers checkpoint of a Phi-3 model in safetensors.

    Raises ModelError, which names the problem, if it is not.
    """
    if (directory / MANIFEST).exists():
        verify_sizes(directory)
    names = {path.name for path in directory.iterdir()}
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    has_weights = any(is_weights(name) for name in names)
    if pickles and not has_weights:
        raise ModelError(
            f"{directory} has its weights only in {', '.join(pickles)}. Pickles can run arbitrary code, "
            "so they are never loaded: convert them to safetensors"
        )
    missing = sorted({"config.json", "tokenizer.json", *indexed_shards(directory)} - names)
    if not has_weights:
        missing.append("*.safetensors")
    if missing:
        raise ModelError(f"{directory} is not a complete transformers checkpoint: it lacks {', '.join(missing)}")
    architecture = read_json_object(directory / "config.json").get("model_type")
    if architecture != "phi3":
        raise ModelError(f"{directory / 'config.json'} has the model_type {architecture!r}; only 'phi3' is supported")


def indexed_shards(directory: Path) -> set[str]:
    """Return the shards that the index of the weights names, or an empty set if there is no index.

    Raises ModelError if the index cannot be read.
    """
    path = directory / INDEX
    return set(read_json_object(path).get("weight_map", {}).values()) if path.exists() else set()


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises ModelError if it does not."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}): it must hold an object") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, not an object")
    return content
