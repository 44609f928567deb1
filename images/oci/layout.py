"""Images in a directory: an OCI image layout.

A blob or the index gets its name only when it is complete, so a process killed at any moment leaves a valid layout.

Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from images.errors import ImageError
from images.oci.digest import DIGEST, verify_digest
from images.oci.manifest import INDEX, Manifest
from images.oci.store import Store

BLOCK_BYTES = 1 << 20
TAG_ANNOTATION = "org.opencontainers.image.ref.name"
LAYOUT_FILE = "oci-layout"
LAYOUT_VERSION = '{"imageLayoutVersion": "1.0.0"}'
BLOBS = "blobs/sha256"


class Layout:
    """A layout in a directory, which the first write creates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.location = f"oci:{directory}"
        self.bytes_sent = 0

    def stat_blob(self, digest: str) -> int | None:
        """Return the size of a blob."""
        path = self.blob_path(digest)
        return path.stat().st_size if path.is_file() else None

    def push_blob(self, digest: str, size: int, open_content: Callable[[], Iterator[bytes]]) -> None:
        """Write a blob, and sync it to the disk before it gets its name."""
        with self._translate_errors():
            part = self.blob_path(digest).with_name(f".{digest.removeprefix('sha256:')}.{uuid.uuid4().hex}")
            with self._lock():
                self._prepare(size)
                output = part.open("xb")
                # Locked while it is written: a part without a lock is the remains of a killed process.
                fcntl.flock(output, fcntl.LOCK_EX)
            try:
                with output:
                    for block in verify_digest(open_content(), digest, digest):
                        output.write(block)
                    output.flush()
                    os.fsync(output.fileno())
                    written = output.tell()
                    if written != size:
                        raise ImageError(f"{digest} has {written:,} bytes instead of {size:,}: the blob is discarded")
                    part.rename(self.blob_path(digest))
            finally:
                part.unlink(missing_ok=True)
        self.bytes_sent += size

    def pull_blob(self, digest: str) -> Iterator[bytes]:
        """Yield the blocks of a blob."""
        with self._translate_errors():
            yield from verify_digest(self._read_blocks(digest), digest, f"{digest} in {self.location}")

    def mount_blob(self, digest: str, size: int, source: Store) -> bool:
        """Hard-link a blob of another layout on the same disk."""
        if not isinstance(source, Layout):
            return False
        with self._translate_errors():
            with self._lock():
                self._prepare(0)
            try:
                os.link(source.blob_path(digest), self.blob_path(digest))
            except FileExistsError:
                pass
            except OSError:  # another disk, or a file system without links
                return False
        return self.stat_blob(digest) == size

    def get_manifest(self, reference: str) -> Manifest | None:
        """Return the manifest with this tag or digest."""
        if DIGEST.fullmatch(reference):
            found = [{"digest": reference, "mediaType": ""}] if self.stat_blob(reference) is not None else []
        else:
            found = [entry for entry in self._read_index() if _tag(entry) == reference]
        if not found:
            return None
        body = b"".join(self.pull_blob(found[0]["digest"]))
        return Manifest(body, found[0]["mediaType"] or json.loads(body).get("mediaType", ""))

    def put_manifest(self, reference: str, manifest: Manifest) -> None:
        """Store a manifest, and list it in the index."""
        if self.stat_blob(manifest.digest) is None:
            self.push_blob(manifest.digest, len(manifest.body), lambda: iter([manifest.body]))
        entry = manifest.descriptor
        if not DIGEST.fullmatch(reference):
            entry["annotations"] = {TAG_ANNOTATION: reference}
        with self._translate_errors(), self._lock():
            others = [other for other in self._read_index() if _tag(other) != reference]
            self._write_index([*(other for other in others if other != entry), entry])

    def put_referrer(self, manifest: Manifest) -> None:
        """Store a manifest, and list it in the index without a tag."""
        self.put_manifest(manifest.digest, manifest)

    def list_referrers(self, digest: str) -> list[dict[str, Any]]:
        """Search the manifests of the index for those with this subject."""
        found = []
        for entry in self._read_index():
            manifest = self.get_manifest(entry["digest"])
            if manifest and manifest.content.get("subject", {}).get("digest") == digest:
                found.append(entry)
        return found

    def delete_untagged(self, manifest: Manifest) -> None:
        """Delete an image that has lost its tag, with its referrers and the blobs that no other image uses."""
        with self._translate_errors(), self._lock():
            entries = self._read_index()
            deleted = {manifest.digest, *(entry["digest"] for entry in self.list_referrers(manifest.digest))}
            if any(entry["digest"] in deleted and _tag(entry) for entry in entries):
                return
            kept = [entry for entry in entries if entry["digest"] not in deleted]
            unused = self._reachable(deleted) - self._reachable(entry["digest"] for entry in kept)
            self._write_index(kept)
            for digest in unused:
                self.blob_path(digest).unlink(missing_ok=True)

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob; raises ImageError if `digest` is not a SHA-256."""
        if not DIGEST.fullmatch(digest):
            raise ImageError(f"{digest!r} is not a digest that {self.location} can hold: use sha256")
        return self._directory / BLOBS / digest.removeprefix("sha256:")

    def _reachable(self, digests: Iterable[str]) -> set[str]:
        """Return the digests of manifests and of everything they refer to."""
        found: set[str] = set()
        for digest in digests:
            manifest = self.get_manifest(digest)
            content = manifest.content if manifest else {}
            blobs = [*content.get("layers", []), *([content["config"]] if "config" in content else [])]
            found |= {digest, *(blob["digest"] for blob in blobs)}
            found |= self._reachable(entry["digest"] for entry in content.get("manifests", []))
        return found

    def _read_blocks(self, digest: str) -> Iterator[bytes]:
        try:
            with self.blob_path(digest).open("rb") as content:
                while block := content.read(BLOCK_BYTES):
                    yield block
        except FileNotFoundError as error:
            raise ImageError(f"{self.location} lacks the blob {digest}: create the image again") from error

    def _read_index(self) -> list[dict[str, Any]]:
        path = self._directory / "index.json"
        try:
            found: list[dict[str, Any]] = json.loads(path.read_text())["manifests"]
            return found
        except FileNotFoundError:
            return []
        except (ValueError, LookupError, TypeError) as error:
            raise ImageError(f"{path} is not the index of an OCI layout: use another directory") from error

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        _write_atomically(self._directory / "index.json", json.dumps(index, indent=2))

    def _prepare(self, size: int) -> None:
        """Create the layout, delete the remains of killed processes, and refuse a disk with less than `size` free."""
        blobs, layout_file = self._directory / BLOBS, self._directory / LAYOUT_FILE
        if not layout_file.exists():
            if any(not path.name.startswith(".") for path in self._directory.iterdir()):
                raise ImageError(
                    f"{self._directory} holds other files than an OCI layout: use a new or empty directory"
                )
            _write_atomically(layout_file, LAYOUT_VERSION)
        blobs.mkdir(parents=True, exist_ok=True)
        for part in blobs.glob(".*"):
            with contextlib.suppress(OSError), part.open("rb") as content:
                fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
        free = shutil.disk_usage(self._directory).free
        if free < size:
            raise ImageError(
                f"{self.location} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are needed: free some space"
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclude other processes that change the layout."""
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImageError(f"{self.location}: {error.strerror}: {error.filename or ''}") from error


def _tag(entry: dict[str, Any]) -> str:
    """Return the tag of an entry of the index, or ""."""
    return str(entry.get("annotations", {}).get(TAG_ANNOTATION, ""))


def _write_atomically(path: Path, text: str) -> None:
    """Write a complete file, or none."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_text(f"{text}\n")
    part.replace(path)
