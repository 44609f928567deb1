"""Copies by other tools: which keep an image as it is, and which bring along what is attached to it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import sbom as bom
from images.catalogue import find
from images.compose import compose
from images.oci import reference
from images.oci.referrers import attached
from images.verify import verify
from images.weights import lock
from images.weights import push as weights
from images.weights.folder import Folder
from tests.images.conftest import SHARDS, repository
from tools.harness.images import runtime
from tools.harness.registry import ROOT, registry

pytestmark = pytest.mark.slow


@pytest.fixture
def image(tmp_path: Path) -> Iterator[reference.Reference]:
    """An image in a registry, by its digest."""
    with registry(tmp_path / "registry") as host:
        source = Folder(repository(tmp_path / "repository", SHARDS))
        entry = lock.make(find("demo"), source, 2)
        lock.write(tmp_path / "lock.json", entry)
        target, base = (reference.parse(f"{host}/{name}:1") for name in ("original", "original-runtime"))
        weights.push(entry, source, target.store)
        runtime(base.store)
        yield reference.parse(f"{target.name}@{compose(entry, base, target).digest}")


def run(*command: str | Path) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def titles(image: reference.Reference, digest: str) -> set[str]:
    """The bills of materials that are attached."""
    found = {title: attached(image.store, digest, bom.MEDIA_TYPE, title) for title in (bom.RUNTIME, bom.WEIGHTS)}
    return {title for title, document in found.items() if document}


def test_oras_copies_an_image_with_what_is_attached(image: reference.Reference, tmp_path: Path) -> None:
    run(ROOT / "scripts/tools", "oras")
    oras, mirror = ROOT / ".tools/bin/oras", reference.parse(f"{image.name}-mirror:1")
    flags = ("--from-plain-http", "--to-plain-http", "--no-tty")
    run(oras, "cp", "--recursive", *flags, str(image), str(mirror))
    assert verify(mirror, tmp_path / "lock.json")[1].digest == image.tag
    assert titles(mirror, image.tag) == {bom.RUNTIME, bom.WEIGHTS}
    shown = json.loads(
        run(oras, "discover", "--plain-http", "--format", "json", str(mirror).replace(":1", f"@{image.tag}"))
    )
    listed = {one["annotations"]["org.opencontainers.image.title"] for one in shown["manifests"]}
    assert listed == {bom.RUNTIME, bom.WEIGHTS}


def test_skopeo_copies_an_image_as_it_is_on_request_alone(image: reference.Reference, tmp_path: Path) -> None:
    run(ROOT / "scripts/packages", "skopeo")
    kept, changed = (reference.parse(f"{image.name}-{name}:1") for name in ("kept", "changed"))
    copy = ("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false")
    # In this order, since it would mount what it knows to be in the registry uncompressed.
    run(*copy, f"docker://{image}", f"docker://{changed}")
    manifest = changed.store.manifest("1")
    assert manifest
    assert manifest.digest != image.tag
    run(*copy, "--preserve-digests", f"docker://{image}", f"docker://{kept}")
    assert verify(kept, tmp_path / "lock.json")[1].digest == image.tag
    assert titles(kept, image.tag) == set()
