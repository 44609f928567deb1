"""Building the runtime, as far as that can be told without doing it; tests/slow builds it."""

import re
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci import reference
from images.oci.store import digest_of
from images.runtime import build as runtime
from tools.harness.images import runtime as make_runtime

ROOT = Path(__file__).parents[3]


def test_the_key_follows_from_all_that_a_build_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runtime.key(None)
    assert runtime.key(None) == first
    base = tmp_path / "base.tar"
    base.write_text("one")
    keys = {first, runtime.key("debian"), runtime.key(str(base))}
    base.write_text("two")
    keys.add(runtime.key(str(base)))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    keys.add(runtime.key(None))
    assert len(keys) == 5


def test_a_machine_without_buildah_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="scripts/packages buildah"):
        runtime.build(reference.parse(f"oci:{tmp_path}/runtime"))


def test_an_image_of_other_inputs_is_none_of_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = reference.parse(f"oci:{tmp_path}/runtime:1")
    make_runtime(target.store)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="buildah is needed"):
        runtime.build(target)


def test_what_buildah_writes_becomes_a_layout(tmp_path: Path) -> None:
    source = reference.parse(f"oci:{tmp_path}/source:1")
    manifest = make_runtime(source.store)
    folder = tmp_path / "dir"
    folder.mkdir()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_bytes(manifest.body)
    for blob in [manifest.content["config"], *manifest.content["layers"]]:
        (folder / blob["digest"].removeprefix("sha256:")).write_bytes(b"".join(source.store.read(blob["digest"])))
    found = runtime._as_layout(folder, tmp_path / "layout")
    assert found.store.manifest("runtime") == manifest
    assert digest_of(b"".join(found.store.read(manifest.content["config"]["digest"])))


def test_the_base_is_pinned_and_the_user_is_a_number() -> None:
    dockerfile = (ROOT / "images/runtime/Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=docker\.io/\S+@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    assert "--require-hashes" in dockerfile
    assert re.search(r"^USER 65532:65532$", dockerfile, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["', dockerfile, re.MULTILINE)
