"""buildah, which builds images without a daemon, with a temporary storage of its own."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from images.errors import ImageError
from images.oci.layout import BLOBS, LAYOUT_FILE, LAYOUT_VERSION, Layout
from images.oci.manifest import MANIFEST, Manifest
from images.oci.reference import Reference
from images.runtime.inputs import EPOCH

DISK_GB = 15
"""The disk space that a build takes."""
TAG = "runtime"
BASE_TAG = "localhost/base:imported"


class Buildah:
    """buildah inside a `with` block, which deletes the storage at its end.

    Raises ImageError if buildah is not installed or a command fails.
    """

    def __enter__(self) -> Self:
        if not shutil.which("buildah"):
            raise ImageError("building the runtime needs buildah: install it with `scripts/packages buildah`")
        self._directory = Path(tempfile.mkdtemp(prefix="phi3-buildah-"))
        storage: list[str | Path] = ["--root", self._directory / "root", "--runroot", self._directory / "run"]
        self._command: list[str | Path] = ["buildah", *storage]
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._command, "rm", "--all"], capture_output=True, check=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def build(self, dockerfile: Path, context: Path, *arguments: str) -> Reference:
        """Build a Dockerfile with further `arguments`, and return the image, which lies in the storage."""
        self._run("build", "--isolation", "chroot", "--layers", *arguments, "--file", dockerfile, "--tag", TAG, context)
        # Into an OCI layout buildah compresses the layers even with --disable-compression; into a "dir" it does not.
        exported = self._directory / "dir"
        self._run("push", "--quiet", "--disable-compression", TAG, f"dir:{exported}")
        return convert_dir_to_layout(exported, self._directory / "layout")

    def import_base(self, archive: Path) -> str:
        """Make an image from the archive of a root file system, and return its name."""
        started = subprocess.run([*self._command, "from", "scratch"], stdout=subprocess.PIPE, text=True, check=False)
        self._check("from", started)
        container = started.stdout.strip()
        self._run("add", "--quiet", container, archive.resolve(), "/")
        self._run("commit", "--quiet", "--timestamp", EPOCH, "--rm", container, BASE_TAG)
        return BASE_TAG

    def _run(self, *arguments: str | Path) -> None:
        """Run a command with its output on stderr."""
        self._check(arguments[0], subprocess.run([*self._command, *arguments], stdout=sys.stderr, check=False))

    def _check(self, verb: str | Path, completed: "subprocess.CompletedProcess[Any]") -> None:
        if completed.returncode != 0:
            free = shutil.disk_usage(self._directory).free / 1e9
            raise ImageError(
                f"`buildah {verb}` failed with exit code {completed.returncode}; see its message above. "
                f"{self._directory.parent} has {free:.0f} GB free, and a build takes {DISK_GB}: "
                "set TMPDIR to use another disk"
            )


def convert_dir_to_layout(source: Path, target: Path) -> Reference:
    """Move an image from a directory in the containers/image format "dir" into an OCI layout, and return it.

    Source of the format: https://github.com/containers/image/blob/main/docs/containers-transports.5.md
    """
    blobs = target / BLOBS
    blobs.mkdir(parents=True)
    for path in source.iterdir():
        if re.fullmatch("[0-9a-f]{64}", path.name):
            path.rename(blobs / path.name)
    (target / LAYOUT_FILE).write_text(LAYOUT_VERSION)
    store = Layout(target)
    store.put_manifest(TAG, Manifest((source / "manifest.json").read_bytes(), MANIFEST))
    return Reference(store, f"oci:{target}", TAG)
