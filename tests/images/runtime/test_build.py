"""The parts of the runtime build that do not run buildah; test_buildah.py runs it."""

import re
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.digest import digest_of
from images.oci.reference import parse_reference
from images.runtime.build import build_runtime
from images.runtime.buildah import convert_dir_to_layout
from images.runtime.inputs import hash_inputs
from tools.harness.images import push_runtime

ROOT = Path(__file__).parents[3]


def test_key_depends_on_every_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hash_inputs(None)
    assert hash_inputs(None) == first
    base = tmp_path / "base.tar"
    base.write_text("one")
    keys = {first, hash_inputs("debian"), hash_inputs(str(base))}
    base.write_text("two")
    keys.add(hash_inputs(str(base)))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    keys.add(hash_inputs(None))
    assert len(keys) == 5


def test_missing_buildah_is_reported_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="scripts/packages buildah"):
        build_runtime(parse_reference(f"oci:{tmp_path}/runtime"))


def test_image_from_other_inputs_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_reference(f"oci:{tmp_path}/runtime:1")
    push_runtime(target.store)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="needs buildah"):
        build_runtime(target)


def test_dir_of_buildah_becomes_a_layout(tmp_path: Path) -> None:
    source = parse_reference(f"oci:{tmp_path}/source:1")
    manifest = push_runtime(source.store)
    directory = tmp_path / "dir"
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(manifest.body)
    for blob in [manifest.content["config"], *manifest.content["layers"]]:
        path = directory / blob["digest"].removeprefix("sha256:")
        path.write_bytes(b"".join(source.store.pull_blob(blob["digest"])))
    found = convert_dir_to_layout(directory, tmp_path / "layout")
    assert found.store.get_manifest("runtime") == manifest
    assert digest_of(b"".join(found.store.pull_blob(manifest.content["config"]["digest"])))


def test_dockerfile_pins_the_base_and_sets_a_numeric_user() -> None:
    dockerfile = (ROOT / "images/runtime/Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=docker\.io/\S+@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    assert "--require-hashes" in dockerfile
    assert re.search(r"^USER 65532:65532$", dockerfile, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["', dockerfile, re.MULTILINE)
