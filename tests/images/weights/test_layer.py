"""Layers of weights: their bytes follow from the files alone, and nothing wrong gets to their end."""

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

from images.errors import ImageError
from images.weights.layer import DamagedError, Layer, checked, digested, plan
from images.weights.source import File
from tests.images.conftest import safetensors

WEIGHTS = safetensors(5_000)


def file(name: str, content: bytes) -> File:
    return File(name, len(content), sha256=hashlib.sha256(content).hexdigest())


def pieces(content: bytes, size: int = 1_000) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def test_a_layer_is_an_archive_with_the_files_in_the_models_folder() -> None:
    content = {"LICENSE": b"MIT", "config.json": b"{}" * 400, "empty": b""}
    layer = Layer("mini-4k", tuple(file(name, body) for name, body in content.items()))
    whole = b"".join(layer.stream(lambda one: pieces(content[one.name]), "here"))
    assert len(whole) == layer.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        entries = archive.getmembers()
        found = {entry.name: archive.extractfile(entry).read() for entry in entries if entry.isfile()}  # type: ignore[union-attr]
    assert found == {f"models/mini-4k/{name}": body for name, body in content.items()}
    assert [(entry.name, oct(entry.mode)) for entry in entries if entry.isdir()] == [
        ("models", "0o755"),
        ("models/mini-4k", "0o755"),
    ]
    assert {(entry.uid, entry.gid, entry.mtime, entry.uname) for entry in entries} == {(0, 0, 0, "")}


@given(st.binary(max_size=2_000), st.integers(min_value=1, max_value=700))
def test_a_layer_does_not_depend_on_how_its_bytes_arrive(content: bytes, size: int) -> None:
    layer = Layer("demo", (file("config.json", content),))
    whole = b"".join(layer.stream(lambda _: pieces(content, size), "here"))
    assert whole == b"".join(layer.stream(lambda _: iter([content]), "here"))
    assert len(whole) == layer.size
    assert len(whole) % 512 == 0


def test_a_layer_of_a_known_file_has_a_known_digest() -> None:
    layer = Layer("demo", (file("LICENSE", b"MIT\n"),))
    digest = hashlib.sha256(b"".join(layer.stream(lambda _: iter([b"MIT\n"]), "here"))).hexdigest()
    assert digest == "2dce53379f168b3e91e6e9e3d711a1c9339aa9241ef25f8b0a183a20f9f7fc83"


def test_a_file_of_more_than_8_gib_has_a_header_that_says_so() -> None:
    layer = Layer("demo", (File("model.safetensors", 9 << 30),))
    _, header = itertools.islice(layer.stream(lambda _: iter([]), "here"), 2)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30


def test_shards_get_a_layer_each_and_all_else_the_last() -> None:
    names = ["LICENSE", "a.safetensors", "b.safetensors", "config.json"]
    layers = plan("demo", [File(name, 1) for name in names])
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
def test_a_file_that_is_not_what_it_should_be_is_named(sent: bytes, problem: str) -> None:
    with pytest.raises(DamagedError, match=problem):
        list(checked(file("m.safetensors", WEIGHTS), pieces(sent), "somewhere"))


def test_a_small_file_is_held_against_the_hash_that_git_has() -> None:
    content = b"hello\n"
    right = File("config.json", 6, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a")  # as `git hash-object` says
    assert b"".join(checked(right, pieces(content), "here")) == content
    with pytest.raises(DamagedError, match="git SHA-1"):
        list(checked(right, pieces(b"hellO\n"), "here"))


def test_a_blob_keeps_its_last_piece_until_its_digest_is_right() -> None:
    content = b"abc" * 100
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert b"".join(digested(pieces(content, 7), digest, "it")) == content
    got: list[bytes] = []
    with pytest.raises(ImageError, match="the digest of it is"):
        got.extend(digested(pieces(content, 7), "sha256:" + "0" * 64, "it"))
    assert len(b"".join(got)) == 294


def shard(header: bytes | dict[str, object], size: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (shard(b"not json", 8), "its header cannot be read"),
        (shard({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, 5), "its header describes"),
        (shard({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 4]}}, 4), "the place of a in it does not fit"),
        (shard({"a": {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]}}, 5), "the place of a in it does not fit"),
        (shard({"a": {"dtype": "OBJECT", "shape": [4], "data_offsets": [0, 4]}}, 4), "its header cannot be read"),
        (struct.pack("<Q", 1 << 40) + bytes(8), "its header should have 1,099,511,627,776 bytes"),
        (b"PK\x03\x04" + bytes(400_000), "its header"),
    ],
)
def test_a_shard_that_is_no_safetensors_is_refused_before_anything_of_it_is_passed_on(
    content: bytes, problem: str
) -> None:
    got: list[bytes] = []
    with pytest.raises(ImageError, match=f"m.safetensors from somewhere is not a sound safetensors file: {problem}"):
        got.extend(checked(file("m.safetensors", content), pieces(content), "somewhere"))
    assert got == []


def test_a_header_with_metadata_and_several_types_is_sound() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [4, 12]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "c": {"dtype": "I64", "shape": [0], "data_offsets": [12, 12]},
    }
    content = shard(header, 12)
    assert b"".join(checked(file("m.safetensors", content), pieces(content, 3), "here")) == content
