"""Prints the directory of a model, and downloads or creates the model first if needed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from checkpoints.catalogue import CATALOGUE, DEMO, MODEL_NAMES
from checkpoints.directory import verify_checkpoint, verify_sizes
from checkpoints.errors import ModelError

MODELS_DIRECTORY = Path(__file__).parents[1] / ".models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the absolute path of a model's directory, alone on stdout, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m checkpoints", description=__doc__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{', '.join(MODEL_NAMES)}, or a directory with a transformers checkpoint of a Phi-3 model",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=MODELS_DIRECTORY,
        help="parent directory of the models, each in a directory of its name (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        directory = locate_model(options.model, options.directory)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run this again to resume", file=sys.stderr)
        return 130
    print(directory.absolute())
    return 0


def locate_model(model: str, models: Path) -> Path:
    """Return the directory of `model`, which is a catalogue name, kept below `models`, or a path.

    Raises ModelError if there is no such model, or if it cannot be obtained or loaded.
    """
    directory = models / model if model in MODEL_NAMES else Path(model)
    # Imported on demand: both modules take seconds to load.
    if model in CATALOGUE:
        wanted = CATALOGUE[model]
        if not directory.exists() or verify_sizes(directory) != wanted.revision:
            from checkpoints.download import download_model

            download_model(wanted, directory)
    elif model == DEMO and not directory.exists():
        from checkpoints.demo.convert import make_demo

        make_demo(directory)
    elif not directory.is_dir():
        raise ModelError(
            f"there is no model or directory {model!r}: choose {', '.join(MODEL_NAMES)}, "
            "or give the path of a directory with a transformers checkpoint"
        )
    verify_checkpoint(directory)
    return directory


if __name__ == "__main__":
    sys.exit(main())
