"""A small repository of a Phi-3 model, for the hub and for directories."""

import json
import os
import struct
from pathlib import Path

SHARDS = {"model-00001-of-00002.safetensors": 300_000, "model-00002-of-00002.safetensors": 200_001}
"""Bytes of weights by shard."""
SMALL_FILES = (
    "LICENSE",
    "NOTICE.md",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
SKIPPED_FILES = (
    "README.md",
    "modeling_phi3.py",
    "onnx/model.safetensors",
    "pytorch_model.bin",
    "training_args.pt",
)
"""Files that are neither downloaded nor packed."""


def random_safetensors(size: int) -> bytes:
    """Return a valid file with `size` random bytes of weights."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


def write_repository(directory: Path, shards: dict[str, int]) -> Path:
    """Fill a directory with the files of a Phi-3 repository, and return it."""
    (directory / "onnx").mkdir(parents=True)
    for name in (*SMALL_FILES, *SKIPPED_FILES):
        (directory / name).write_text(f"{name} of {directory.name}\n")
    for name, size in shards.items():
        (directory / name).write_bytes(random_safetensors(size))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys("ab", "")}))
    return directory
