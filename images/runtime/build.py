"""The runtime image: the server and what it imports, built from the Dockerfile by buildah, which needs no daemon."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from images import ROOT, VERSION
from images import sbom as bom
from images.errors import ImageError
from images.io.progress import Progress
from images.oci.copy import transfer
from images.oci.layout import Layout
from images.oci.reference import Reference
from images.oci.referrers import attach
from images.oci.store import MANIFEST, Manifest, get, require
from images.runtime.inspect import describe

EPOCH = "315532800"
"""1 January 1980, the time of all files: a constant, so that a layer that has not changed keeps its digest."""
INPUTS = ("images/runtime/Dockerfile", "images/runtime/split_layers.py", "requirements/serve.txt", ".dockerignore")


def key(base: str | None) -> str:
    """Return a hash of all that a build takes."""
    files = [ROOT / name for name in INPUTS]
    files += sorted(path for path in (ROOT / "app").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    below = base or ""
    if base and Path(base).is_file():
        with Path(base).open("rb") as archive:
            below = hashlib.file_digest(archive, "sha256").hexdigest()
    return hashlib.sha256("\n".join([VERSION, _epoch(), below, *lines]).encode()).hexdigest()


def build(target: Reference, base: str | None = None) -> None:
    """Build the runtime image, and put it where `target` says, unless one of the same inputs is there.

    Its bill of materials is attached to it. `base` is the name of an image, or a file with the archive of a root file
    system, in place of the Dockerfile's. What PIP_CERT names is trusted while packages are fetched. Takes about 15 GB
    under TMPDIR, which are freed at the end.

    Raises ImageError where buildah is missing or fails.
    """
    inputs = key(base)
    if _inputs(target) == inputs:
        Progress.say(f"{target} is built of the same inputs already")
        _attach(target, describe(target))
        return
    old = target.store.manifest(target.tag)
    if not shutil.which("buildah"):
        raise ImageError("buildah is needed to build the runtime: install it (`scripts/packages buildah`)")
    with _Buildah() as buildah, tempfile.TemporaryDirectory(prefix="phi3-runtime-") as folder:
        arguments = ["--build-arg", f"VERSION={VERSION}", "--build-arg", f"INPUTS={inputs}"]
        if base:
            arguments += ["--build-arg", f"BASE_IMAGE={buildah.imported(Path(base)) if Path(base).is_file() else base}"]
        if certificates := os.environ.get("PIP_CERT"):
            arguments += ["--secret", f"id=ca,src={certificates}"]
        buildah.run(
            *("build", "--isolation", "chroot", "--layers", "--timestamp", _epoch(), *arguments),
            *("--file", ROOT / "images/runtime/Dockerfile", "--tag", "runtime", ROOT),
        )
        # To a layout buildah compresses, also where it is told not to.
        buildah.run("push", "--quiet", "--disable-compression", "runtime", f"dir:{folder}/dir")
        built = _as_layout(Path(folder) / "dir", Path(folder) / "layout")
        document = describe(built)
        copy(built, target)
        _attach(target, document)
        if old and isinstance(target.store, Layout) and old != built.store.manifest(built.tag):
            target.store.discard(old)


def _attach(target: Reference, document: bytes) -> None:
    attach(target.store, require(target.store, target.tag), bom.MEDIA_TYPE, bom.RUNTIME, document)


def _epoch() -> str:
    return os.environ.get("SOURCE_DATE_EPOCH", EPOCH)


def _inputs(target: Reference) -> str:
    """Return the hash of what an image was built of, or "" where there is none."""
    if target.store.manifest(target.tag) is None:
        return ""
    config = get(target.store, require(target.store, target.tag).content["config"]["digest"])
    return str(config.get("config", {}).get("Labels", {}).get("phi3.inputs", ""))


def _as_layout(folder: Path, layout: Path) -> Reference:
    """Turn what buildah calls a dir into an OCI layout."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    for path in folder.iterdir():
        if re.fullmatch("[0-9a-f]{64}", path.name):
            path.rename(blobs / path.name)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    store = Layout(layout)
    store.tag("runtime", Manifest((folder / "manifest.json").read_bytes(), MANIFEST))
    return Reference(store, f"oci:{layout}", "runtime")


def copy(source: Reference, target: Reference) -> None:
    """Copy an image, its layers where they are missing."""
    manifest = require(source.store, source.tag)
    blobs = [manifest.content["config"], *manifest.content["layers"]]
    transfer(blobs, source.store, target.store, Progress("runtime", "copied"))
    target.store.tag(target.tag, manifest)


class _Buildah:
    """buildah with a storage of its own, which is gone at the end."""

    def __enter__(self) -> "_Buildah":
        self._folder = Path(tempfile.mkdtemp(prefix="phi3-buildah-"))
        storage: list[str | Path] = ["--root", self._folder / "root", "--runroot", self._folder / "run"]
        self._command: list[str | Path] = ["buildah", *storage]
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._command, "rm", "--all"], capture_output=True, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *arguments: str | Path) -> None:
        """Run a command, its output on stderr."""
        self._check(arguments[0], subprocess.run([*self._command, *arguments], stdout=sys.stderr, check=False))

    def imported(self, archive: Path) -> str:
        """Make an image of a root file system, and return its name."""
        started = subprocess.run([*self._command, "from", "scratch"], stdout=subprocess.PIPE, text=True, check=False)
        self._check("from", started)
        container = started.stdout.strip()
        self.run("add", "--quiet", container, archive.resolve(), "/")
        self.run("commit", "--quiet", "--timestamp", EPOCH, "--rm", container, "localhost/base:imported")
        return "localhost/base:imported"

    def _check(self, verb: str | Path, ended: "subprocess.CompletedProcess[Any]") -> None:
        if ended.returncode != 0:
            free = shutil.disk_usage(self._folder).free / 1e9
            raise ImageError(
                f"`buildah {verb}` failed with exit code {ended.returncode}; its message is above. {free:.0f} GB are "
                f"free in {self._folder.parent}, and a build takes 15: set TMPDIR to use another disk"
            )
