"""Building a small runtime with the real buildah: what is attached to it, and what an older one leaves behind."""

import json
import subprocess
from pathlib import Path

import pytest

from images import sbom as bom
from images.errors import ImageError
from images.oci import reference
from images.oci.referrers import attached
from images.oci.store import require
from images.runtime import build as runtime
from tools.harness.images import archive
from tools.harness.registry import ROOT, registry

pytestmark = pytest.mark.slow

DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY app/ /srv/app/
ARG VERSION
ARG INPUTS
LABEL org.opencontainers.image.version="${VERSION}" phi3.inputs="${INPUTS}"
"""
METADATA = b"Name: flask\nVersion: 3.1.2\nLicense-Expression: BSD-3-Clause\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose Dockerfile takes seconds."""
    subprocess.run([ROOT / "scripts/packages", "buildah"], check=True)
    folder = tmp_path / "source"
    for name in runtime.INPUTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "images/runtime/Dockerfile").write_text(DOCKERFILE)
    (folder / "app").mkdir()
    (folder / "app/server.py").write_text("1")
    files = {"etc/os-release": b'ID=debian\nVERSION_ID="12"\n', "opt/flask.dist-info/METADATA": METADATA}
    (tmp_path / "base.tar").write_bytes(archive(files))
    monkeypatch.setattr(runtime, "ROOT", folder)
    return folder


def names(image: reference.Reference) -> list[str]:
    """The components in an image's bill of materials."""
    manifest = require(image.store, image.tag)
    document = attached(image.store, manifest.digest, bom.MEDIA_TYPE, bom.RUNTIME)
    assert document
    return sorted(component["name"] for component in json.loads(document)["components"])


def test_a_folder_keeps_the_newest_runtime_with_what_is_in_it(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = reference.parse(f"oci:{tmp_path}/layout:1")
    runtime.build(image, str(tmp_path / "base.tar"))
    first = require(image.store, "1")
    assert names(image) == ["debian", "flask"]
    blobs = len(list((tmp_path / "layout/blobs/sha256").iterdir()))
    runtime.build(image, str(tmp_path / "base.tar"))
    assert "is built of the same inputs already" in capfd.readouterr().err
    (source / "app/server.py").write_text("2")
    runtime.build(image, str(tmp_path / "base.tar"))
    assert require(image.store, "1") != first
    assert names(image) == ["debian", "flask"]
    assert image.store.manifest(first.digest) is None
    assert len(list((tmp_path / "layout/blobs/sha256").iterdir())) == blobs


def test_two_builds_are_the_same_and_a_registry_lists_what_is_in_them(source: Path, tmp_path: Path) -> None:
    assert source.is_dir()
    with registry(tmp_path / "registry") as host:
        image, other = reference.parse(f"{host}/runtime:1"), reference.parse(f"oci:{tmp_path}/layout:1")
        for one in (image, other):
            runtime.build(one, str(tmp_path / "base.tar"))
        assert require(image.store, "1") == require(other.store, "1")
        assert names(image) == names(other)


def test_a_runtime_that_would_hide_weights_is_never_stored(source: Path, tmp_path: Path) -> None:
    dockerfile = source / "images/runtime/Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "COPY app/ /models/\n")
    image = reference.parse(f"oci:{tmp_path}/layout:1")
    with pytest.raises(ImageError, match="build the runtime without /models"):
        runtime.build(image, str(tmp_path / "base.tar"))
    assert image.store.manifest("1") is None
