"""Layers of weights: their bytes depend on the files only, and a damaged file never completes one."""

import hashlib
import io
import itertools
import json
import struct
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.files import ModelFile
from images.errors import ImageError
from images.weights.layer import DamagedFileError, Layer, plan_layers, verify_file
from tests.support.repository import random_safetensors

WEIGHTS = random_safetensors(5_000)


def describe_file(name: str, content: bytes) -> ModelFile:
    return ModelFile(name, len(content), sha256=hashlib.sha256(content).hexdigest())


def split_blocks(content: bytes, size: int = 1_000) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def test_layer_is_an_archive_with_the_files_in_the_models_directory() -> None:
    content = {"LICENSE": b"MIT", "config.json": b"{}" * 400, "empty": b""}
    layer = Layer("mini-4k", tuple(describe_file(name, body) for name, body in content.items()))
    archived = b"".join(layer.stream(lambda one: split_blocks(content[one.name]), "here"))
    assert len(archived) == layer.size
    with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        entries = archive.getmembers()
        found = {entry.name: archive.extractfile(entry).read() for entry in entries if entry.isfile()}  # type: ignore[union-attr]
    assert found == {f"models/mini-4k/{name}": body for name, body in content.items()}
    assert [(entry.name, oct(entry.mode)) for entry in entries if entry.isdir()] == [
        ("models", "0o755"),
        ("models/mini-4k", "0o755"),
    ]
    assert {(entry.uid, entry.gid, entry.mtime, entry.uname) for entry in entries} == {(0, 0, 0, "")}


@given(st.binary(max_size=2_000), st.integers(min_value=1, max_value=700))
def test_layer_does_not_depend_on_the_size_of_blocks(content: bytes, size: int) -> None:
    layer = Layer("demo", (describe_file("config.json", content),))
    archived = b"".join(layer.stream(lambda _: split_blocks(content, size), "here"))
    assert archived == b"".join(layer.stream(lambda _: iter([content]), "here"))
    assert len(archived) == layer.size
    assert len(archived) % 512 == 0


def test_layer_of_a_known_file_has_a_known_digest() -> None:
    layer = Layer("demo", (describe_file("LICENSE", b"MIT\n"),))
    digest = hashlib.sha256(b"".join(layer.stream(lambda _: iter([b"MIT\n"]), "here"))).hexdigest()
    assert digest == "2dce53379f168b3e91e6e9e3d711a1c9339aa9241ef25f8b0a183a20f9f7fc83"


def test_header_holds_sizes_above_8_gib() -> None:
    layer = Layer("demo", (ModelFile("model.safetensors", 9 << 30),))
    _, header = itertools.islice(layer.stream(lambda _: iter([]), "here"), 2)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30


def test_each_shard_gets_a_layer_and_all_small_files_share_the_last() -> None:
    names = ["LICENSE", "a.safetensors", "b.safetensors", "config.json"]
    layers = plan_layers("demo", [ModelFile(name, 1) for name in names])
    assert [[one.name for one in layer.files] for layer in layers] == [
        ["a.safetensors"],
        ["b.safetensors"],
        ["LICENSE", "config.json"],
    ]
    assert [layer.name for layer in layers] == ["a.safetensors", "b.safetensors", "2 small files"]


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (WEIGHTS[:-1], f"sent {len(WEIGHTS) - 1:,} of the {len(WEIGHTS):,} bytes"),
        (WEIGHTS + b"!", f"sent more than the {len(WEIGHTS):,} bytes"),
        (WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]), "is damaged: its SHA-256 is"),
        (b"", f"sent 0 of the {len(WEIGHTS):,} bytes"),
        (WEIGHTS[:5], f"sent 5 of the {len(WEIGHTS):,} bytes"),
    ],
)
def test_damaged_file_is_named(sent: bytes, problem: str) -> None:
    with pytest.raises(DamagedFileError, match=problem):
        list(verify_file(describe_file("m.safetensors", WEIGHTS), split_blocks(sent), "somewhere"))


def test_small_file_is_verified_by_its_git_hash() -> None:
    content = b"hello\n"
    git_sha1 = "ce013625030ba8dba906f756967f9e9ca394464a"  # the output of `git hash-object`
    file = ModelFile("config.json", 6, git_sha1=git_sha1)
    assert b"".join(verify_file(file, split_blocks(content), "here")) == content
    with pytest.raises(DamagedFileError, match="git SHA-1"):
        list(verify_file(file, split_blocks(b"hellO\n"), "here"))


def build_shard(header: bytes | dict[str, object], size: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (build_shard(b"not json", 8), "its header cannot be read"),
        (build_shard({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, 5), "its header describes"),
        (
            build_shard({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 4]}}, 4),
            "the offsets of a do not match",
        ),
        (build_shard({"a": {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]}}, 5), "the offsets of a do not match"),
        (build_shard({"a": {"dtype": "OBJECT", "shape": [4], "data_offsets": [0, 4]}}, 4), "its header cannot be read"),
        (struct.pack("<Q", 1 << 40) + bytes(8), "its header claims 1,099,511,627,776 bytes"),
        (b"PK\x03\x04" + bytes(400_000), "its header"),
    ],
)
def test_invalid_safetensors_header_is_refused_before_any_byte_is_yielded(content: bytes, problem: str) -> None:
    got: list[bytes] = []
    with pytest.raises(ImageError, match=f"m.safetensors from somewhere is not a valid safetensors file: {problem}"):
        got.extend(verify_file(describe_file("m.safetensors", content), split_blocks(content), "somewhere"))
    assert got == []


def test_header_with_metadata_and_several_dtypes_is_valid() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [4, 12]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "c": {"dtype": "I64", "shape": [0], "data_offsets": [12, 12]},
    }
    content = build_shard(header, 12)
    assert b"".join(verify_file(describe_file("m.safetensors", content), split_blocks(content, 3), "here")) == content
