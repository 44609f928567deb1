"""Images in a folder, as an OCI image layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md.

A blob or the index has its name only when it is whole, so that a process killed at any moment leaves nothing wrong.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from images.errors import ImageError
from images.oci.store import INDEX, Manifest, Store, descriptor
from images.weights.layer import digested

BLOCK = 1 << 20
TAG = "org.opencontainers.image.ref.name"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Layout:
    """A layout in a folder, which is made on the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = f"oci:{folder}"
        self.sent = 0

    def size(self, digest: str) -> int | None:
        """Return the size of a blob."""
        path = self._path(digest)
        return path.stat().st_size if path.is_file() else None

    def write(self, digest: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Store a blob; it was synced to the disk before it has its name."""
        with self._explained():
            part = self._path(digest).with_name(f".{digest.removeprefix('sha256:')}.{uuid.uuid4().hex}")
            with self._alone():
                self._prepare(size)
                output = part.open("xb")
                # Held while it is written, so that others can tell what a killed process left behind.
                fcntl.flock(output, fcntl.LOCK_EX)
            try:
                with output:
                    for piece in digested(content(), digest, digest):
                        output.write(piece)
                    output.flush()
                    os.fsync(output.fileno())
                    written = output.tell()
                    if written != size:
                        raise ImageError(f"{digest} has {written:,} bytes, and should have {size:,}")
                    part.rename(self._path(digest))
            finally:
                part.unlink(missing_ok=True)
        self.sent += size

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield a blob's pieces."""
        with self._explained():
            yield from digested(self._pieces(digest), digest, f"{digest} in {self.place}")

    def borrow(self, digest: str, size: int, source: Store) -> bool:
        """Link a blob of another layout on the same disk."""
        if not isinstance(source, Layout):
            return False
        with self._explained():
            with self._alone():
                self._prepare(0)
            try:
                os.link(source._path(digest), self._path(digest))
            except FileExistsError:
                pass
            except OSError:  # another disk, or one without links
                return False
        return self.size(digest) == size

    def manifest(self, reference: str) -> Manifest | None:
        """Return what a tag or digest stands for."""
        if DIGEST.fullmatch(reference):
            found = [{"digest": reference, "mediaType": ""}] if self.size(reference) is not None else []
        else:
            found = [one for one in self._index() if one.get("annotations", {}).get(TAG) == reference]
        if not found:
            return None
        body = b"".join(self.read(found[0]["digest"]))
        return Manifest(body, found[0]["mediaType"] or json.loads(body).get("mediaType", ""))

    def tag(self, reference: str, manifest: Manifest) -> None:
        """Store a manifest, and name it in the index."""
        if self.size(manifest.digest) is None:
            self.write(manifest.digest, len(manifest.body), lambda: iter([manifest.body]))
        entry = descriptor(manifest)
        if not DIGEST.fullmatch(reference):
            entry["annotations"] = {TAG: reference}
        with self._explained(), self._alone():
            others = [one for one in self._index() if one.get("annotations", {}).get(TAG) != reference]
            self._write_index([*(one for one in others if one != entry), entry])

    def attach(self, manifest: Manifest) -> None:
        """Store a manifest, and list it in the index without a name."""
        self.tag(manifest.digest, manifest)

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Look for the subjects of all that the index lists."""
        found = []
        for one in self._index():
            manifest = self.manifest(one["digest"])
            if manifest and manifest.content.get("subject", {}).get("digest") == digest:
                found.append(one)
        return found

    def discard(self, manifest: Manifest) -> None:
        """Remove an image that has lost its tag, and what is attached to it, but for what others hold too."""
        with self._explained(), self._alone():
            entries = self._index()
            gone = {manifest.digest, *(one["digest"] for one in self.referrers(manifest.digest))}
            if any(one["digest"] in gone and TAG in one.get("annotations", {}) for one in entries):
                return
            rest = [one for one in entries if one["digest"] not in gone]
            unused = self._below(gone) - self._below(one["digest"] for one in rest)
            self._write_index(rest)
            for digest in unused:
                self._path(digest).unlink(missing_ok=True)

    def _below(self, digests: Iterable[str]) -> set[str]:
        """Return manifests, and all that they lead to."""
        found: set[str] = set()
        for digest in digests:
            manifest = self.manifest(digest)
            content = manifest.content if manifest else {}
            blobs = [*content.get("layers", []), *([content["config"]] if "config" in content else [])]
            found |= {digest, *(blob["digest"] for blob in blobs)}
            found |= self._below(one["digest"] for one in content.get("manifests", []))
        return found

    def _path(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise ImageError(f"{digest!r} is not a digest that {self.place} can hold: sha256 alone is known")
        return self._folder / "blobs/sha256" / digest.removeprefix("sha256:")

    def _pieces(self, digest: str) -> Iterator[bytes]:
        try:
            with self._path(digest).open("rb") as content:
                while piece := content.read(BLOCK):
                    yield piece
        except FileNotFoundError as error:
            raise ImageError(f"{self.place} lacks the blob {digest}: make the image again") from error

    def _index(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads((self._folder / "index.json").read_text())["manifests"]
            return found
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError) as error:
            raise ImageError(f"{self._folder}/index.json is not that of an OCI layout: use another folder") from error

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        _write(self._folder / "index.json", json.dumps(index, indent=2))

    def _prepare(self, size: int) -> None:
        """Make what a layout has, remove what killed processes left, and refuse a disk that is too small."""
        blobs = self._folder / "blobs/sha256"
        others = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        if others and not (self._folder / "oci-layout").exists():
            raise ImageError(f"{self._folder} holds something else than an OCI layout: name a new or empty folder")
        if not (self._folder / "oci-layout").exists():
            _write(self._folder / "oci-layout", '{"imageLayoutVersion": "1.0.0"}')
        blobs.mkdir(parents=True, exist_ok=True)
        for part in blobs.glob(".*"):
            with contextlib.suppress(OSError), part.open("rb") as content:
                fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
        free = shutil.disk_usage(self._folder).free
        if free < size:
            raise ImageError(f"{self.place} has {free / 1e9:.1f} GB free of {size / 1e9:.1f} GB needed: make room")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImageError(f"{self.place}: {error.strerror}: {error.filename or ''}") from error


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_text(f"{text}\n")
    part.replace(path)
