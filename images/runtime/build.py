"""Builds the runtime image from the Dockerfile, and stores it with its SBOM."""

import os
from pathlib import Path

from images import ROOT, VERSION
from images.io.progress import Progress
from images.oci.copy import copy_image
from images.oci.layout import Layout
from images.oci.reference import Reference
from images.oci.referrers import Artifact, attach_artifact
from images.oci.store import get_image_manifest, get_json_blob
from images.runtime.buildah import Buildah
from images.runtime.inputs import INPUTS_LABEL, hash_inputs, source_date_epoch
from images.runtime.inspect import inspect_runtime


def build_runtime(target: Reference, base: str | None = None, root: Path = ROOT) -> None:
    """Build the runtime image of the repository at `root`, unless `target` has one built from the same inputs.

    The image's SBOM is attached to it. `base` replaces the Dockerfile's base image: it is the name of an image, or a
    file with the archive of a root file system. The build trusts the certificates that PIP_CERT names. It takes about
    15 GB below TMPDIR until it ends.

    Raises ImageError if buildah is missing or fails.
    """
    inputs = hash_inputs(base, root)
    if _read_inputs(target) == inputs:
        Progress.log_line(f"{target} is already built from the same inputs")
        _attach_sbom(target, inspect_runtime(target))
        return
    old = target.store.get_manifest(target.tag)
    with Buildah() as buildah:
        arguments = ["--timestamp", source_date_epoch()]
        arguments += ["--build-arg", f"VERSION={VERSION}", "--build-arg", f"INPUTS={inputs}"]
        if base:
            image = buildah.import_base(Path(base)) if Path(base).is_file() else base
            arguments += ["--build-arg", f"BASE_IMAGE={image}"]
        if certificates := os.environ.get("PIP_CERT"):
            arguments += ["--secret", f"id=ca,src={certificates}"]
        built = buildah.build(root / "images/runtime/Dockerfile", root, *arguments)
        sbom = inspect_runtime(built)
        copy_image(built, target, Progress("runtime", "copied"))
        _attach_sbom(target, sbom)
        if old and isinstance(target.store, Layout) and old != built.store.get_manifest(built.tag):
            target.store.delete_untagged(old)


def _attach_sbom(target: Reference, sbom: Artifact) -> None:
    attach_artifact(target.store, get_image_manifest(target.store, target.tag), sbom)


def _read_inputs(target: Reference) -> str:
    """Return the hash of the inputs from which an image was built, or "" if there is no image."""
    if target.store.get_manifest(target.tag) is None:
        return ""
    manifest = get_image_manifest(target.store, target.tag)
    config = get_json_blob(target.store, manifest.content["config"]["digest"])
    return str(config.get("config", {}).get("Labels", {}).get(INPUTS_LABEL, ""))
