"""Bakes images: weights from the Hugging Face hub, streamed into a registry, with the server's runtime on top."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
"""Of the server, the images and the chart alike; the tag of an image where none is given."""
