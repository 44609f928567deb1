"""Bakes images: streams weights from the Hugging Face Hub into a registry, and puts the server's runtime on top."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
"""The version of server, images and chart, and the default tag of an image."""
