"""The inputs of a runtime build, and the key that tells whether an image was built from the same ones."""

import hashlib
import os
from pathlib import Path

from images import ROOT, VERSION

EPOCH = "315532800"
"""1 January 1980, the modification time of all files: with a constant time an unchanged layer keeps its digest."""
INPUTS = ("images/runtime/Dockerfile", "images/runtime/split_layers.py", "requirements/serve.txt", ".dockerignore")
"""The files that a build reads, in addition to app/."""
INPUTS_LABEL = "phi3.inputs"


def source_date_epoch() -> str:
    """Return the modification time of all files: https://reproducible-builds.org/specs/source-date-epoch/."""
    return os.environ.get("SOURCE_DATE_EPOCH", EPOCH)


def hash_inputs(base: str | None, root: Path = ROOT) -> str:
    """Return the hash of everything that a build from the repository at `root` on the base `base` depends on."""
    files = [root / name for name in INPUTS]
    files += sorted(path for path in (root / "app").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    base_key = base or ""
    if base and Path(base).is_file():
        with Path(base).open("rb") as archive:
            base_key = hashlib.file_digest(archive, "sha256").hexdigest()
    return hashlib.sha256("\n".join([VERSION, source_date_epoch(), base_key, *lines]).encode()).hexdigest()
