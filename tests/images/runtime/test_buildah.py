"""Builds of a small runtime with the real buildah: the attached SBOM, and the removal of an older image."""

import json
import subprocess
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.reference import Reference, parse_reference
from images.oci.referrers import get_artifact
from images.oci.store import get_image_manifest
from images.runtime.build import build_runtime
from images.runtime.inputs import INPUTS
from images.sbom import RUNTIME_SBOM, SBOM_TYPE
from tools.harness.images import tar_archive
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
def source(tmp_path: Path) -> Path:
    """A repository whose Dockerfile builds in seconds."""
    subprocess.run([ROOT / "scripts/packages", "buildah"], check=True)
    directory = tmp_path / "source"
    for name in INPUTS:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("")
    (directory / "images/runtime/Dockerfile").write_text(DOCKERFILE)
    (directory / "app").mkdir()
    (directory / "app/server.py").write_text("1")
    files = {"etc/os-release": b'ID=debian\nVERSION_ID="12"\n', "opt/flask.dist-info/METADATA": METADATA}
    (tmp_path / "base.tar").write_bytes(tar_archive(files))
    return directory


def names(image: Reference) -> list[str]:
    """Return the components in an image's SBOM."""
    manifest = get_image_manifest(image.store, image.tag)
    document = get_artifact(image.store, manifest.digest, SBOM_TYPE, RUNTIME_SBOM)
    assert document
    return sorted(component["name"] for component in json.loads(document)["components"])


def test_layout_keeps_only_the_newest_runtime_and_its_sbom(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = parse_reference(f"oci:{tmp_path}/layout:1")
    build_runtime(image, str(tmp_path / "base.tar"), source)
    first = get_image_manifest(image.store, "1")
    assert names(image) == ["debian", "flask"]
    blobs = len(list((tmp_path / "layout/blobs/sha256").iterdir()))
    build_runtime(image, str(tmp_path / "base.tar"), source)
    assert "is already built from the same inputs" in capfd.readouterr().err
    (source / "app/server.py").write_text("2")
    build_runtime(image, str(tmp_path / "base.tar"), source)
    assert get_image_manifest(image.store, "1") != first
    assert names(image) == ["debian", "flask"]
    assert image.store.get_manifest(first.digest) is None
    assert len(list((tmp_path / "layout/blobs/sha256").iterdir())) == blobs


def test_two_builds_are_identical_and_both_have_an_sbom(source: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as host:
        image, other = parse_reference(f"{host}/runtime:1"), parse_reference(f"oci:{tmp_path}/layout:1")
        for one in (image, other):
            build_runtime(one, str(tmp_path / "base.tar"), source)
        assert get_image_manifest(image.store, "1") == get_image_manifest(other.store, "1")
        assert names(image) == names(other)


def test_runtime_that_would_hide_weights_is_never_stored(source: Path, tmp_path: Path) -> None:
    dockerfile = source / "images/runtime/Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "COPY app/ /models/\n")
    image = parse_reference(f"oci:{tmp_path}/layout:1")
    with pytest.raises(ImageError, match="build the runtime without /models"):
        build_runtime(image, str(tmp_path / "base.tar"), source)
    assert image.store.get_manifest("1") is None
