"""Finds a model, or makes or downloads it where it is not there yet, and prints its folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from checkpoints.catalogue import CATALOGUE, DEMO, MANIFEST, NAMES, ModelError, check, read_object, shards

DIRECTORY = Path(__file__).parents[1] / ".models"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the absolute path of a model's folder, alone on stdout, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m checkpoints", description=__doc__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{', '.join(NAMES)}, or a folder with a transformers checkpoint of a Phi-3 model",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=DIRECTORY,
        help="where models are kept, each in a folder of its name (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        folder = locate(options.model, options.directory)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run this again, and it goes on where it stopped", file=sys.stderr)
        return 130
    print(folder.absolute())
    return 0


def locate(model: str, directory: Path) -> Path:
    """Return the folder of `model`: a name of the catalogue, kept in `directory`, or a path.

    Raises ModelError where there is no such model, or it cannot be had, or loaded.
    """
    folder = directory / model if model in NAMES else Path(model)
    # What makes models is imported only where one has to be made: it takes seconds.
    if model in CATALOGUE:
        wanted = CATALOGUE[model]
        if not folder.exists() or check(folder) != wanted.revision:
            from checkpoints.download import fetch

            fetch(wanted, folder)
    elif model == DEMO and not folder.exists():
        from checkpoints.demo.convert import make

        make(folder)
    elif not folder.is_dir():
        raise ModelError(
            f"there is no model or folder {model!r}: choose {', '.join(NAMES)}, "
            "or give the path of a folder with a transformers checkpoint"
        )
    require_checkpoint(folder)
    return folder


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not a complete transformers checkpoint of a Phi-3 model in safetensors.

    Raises ModelError, which names what is wrong.
    """
    if (folder / MANIFEST).exists():
        check(folder)
    names = {path.name for path in folder.iterdir()}
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    weights = [name for name in names if name.endswith(".safetensors")]
    if pickles and not weights:
        raise ModelError(
            f"{folder} has its weights in {', '.join(pickles)} alone. Loading those can run any code they "
            "hold, so they are refused: convert them to safetensors"
        )
    missing = sorted({"config.json", "tokenizer.json", *shards(folder)} - names)
    if not weights:
        missing.append("*.safetensors")
    if missing:
        raise ModelError(f"{folder} is not a complete transformers checkpoint: it lacks {', '.join(missing)}")
    architecture = read_object(folder / "config.json").get("model_type")
    if architecture != "phi3":
        raise ModelError(f"{folder / 'config.json'} has the model_type {architecture!r}: only 'phi3' can be served")


if __name__ == "__main__":
    sys.exit(main())
