"""Copies by other tools: which of them keep the digest, and which copy the attached SBOMs."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import get_model
from images.compose import compose_image
from images.oci.reference import Reference, parse_reference
from images.oci.referrers import get_artifact
from images.sbom import RUNTIME_SBOM, SBOM_TYPE, WEIGHTS_SBOM
from images.verify import verify_image
from images.weights.directory_source import DirectorySource
from images.weights.lock import lock_model, write_entry
from images.weights.push import push_weights
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import push_runtime
from tools.harness.registry import ROOT, registry

pytestmark = pytest.mark.slow


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Reference]:
    """An image in a registry, referenced by its digest."""
    with registry(tmp_path / "registry") as host:
        source = DirectorySource(write_repository(tmp_path / "repository", SHARDS))
        entry = lock_model(get_model("demo"), source, 2)
        write_entry(tmp_path / "lock.json", entry)
        target, base = (parse_reference(f"{host}/{name}:1") for name in ("original", "original-runtime"))
        push_weights(entry, source, target.store)
        push_runtime(base.store)
        yield parse_reference(f"{target.name}@{compose_image(entry, base, target).digest}")


def run(*command: str | Path) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def titles(image: Reference, digest: str) -> set[str]:
    """Return the titles of the attached SBOMs."""
    found = {title: get_artifact(image.store, digest, SBOM_TYPE, title) for title in (RUNTIME_SBOM, WEIGHTS_SBOM)}
    return {title for title, document in found.items() if document}


def test_oras_copies_an_image_with_its_sboms(image: Reference, tmp_path: Path) -> None:
    run(ROOT / "scripts/tools", "oras")
    oras, mirror = ROOT / ".tools/bin/oras", parse_reference(f"{image.name}-mirror:1")
    flags = ("--from-plain-http", "--to-plain-http", "--no-tty")
    run(oras, "cp", "--recursive", *flags, str(image), str(mirror))
    assert verify_image(mirror, tmp_path / "lock.json")[1].digest == image.tag
    assert titles(mirror, image.tag) == {RUNTIME_SBOM, WEIGHTS_SBOM}
    shown = json.loads(
        run(oras, "discover", "--plain-http", "--format", "json", str(mirror).replace(":1", f"@{image.tag}"))
    )
    listed = {one["annotations"]["org.opencontainers.image.title"] for one in shown["manifests"]}
    assert listed == {RUNTIME_SBOM, WEIGHTS_SBOM}


def test_skopeo_keeps_the_digest_only_on_request(image: Reference, tmp_path: Path) -> None:
    run(ROOT / "scripts/packages", "skopeo")
    kept, changed = (parse_reference(f"{image.name}-{name}:1") for name in ("kept", "changed"))
    copy = ("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false")
    # In this order: skopeo would mount uncompressed layers that it knows to be in the registry.
    run(*copy, f"docker://{image}", f"docker://{changed}")
    manifest = changed.store.get_manifest("1")
    assert manifest
    assert manifest.digest != image.tag
    run(*copy, "--preserve-digests", f"docker://{image}", f"docker://{kept}")
    assert verify_image(kept, tmp_path / "lock.json")[1].digest == image.tag
    assert titles(kept, image.tag) == set()
