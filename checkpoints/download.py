"""Downloads catalogue models from the Hugging Face Hub, and verifies every file before anything can load it."""

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from checkpoints.atomic import atomic_directory
from checkpoints.catalogue import CatalogueModel
from checkpoints.directory import MANIFEST, indexed_shards, read_json_object, verify_sizes
from checkpoints.errors import HubError, ModelError, TransientHubError
from checkpoints.files import ModelFile, is_weights
from checkpoints.hub import HubClient

CONNECTIONS = 3
LOG_INTERVAL = 5
"""Seconds between two lines of progress if stderr is not a terminal."""


def download_model(model: CatalogueModel, directory: Path) -> None:
    """Download `model` into `directory`, unless it is there already.

    `directory` appears once every file has the hash that the hub publishes: SHA-256 for files in LFS, git's blob SHA-1
    for the others. Until then the files stay beside it, and the next call resumes, even after kill -9. If `directory`
    holds another revision, the new one replaces it when it is complete. If several processes call this at once, one
    downloads and the others wait.

    Progress goes to stderr, as a bar on a terminal and as lines elsewhere.

    Raises ModelError, or OSError if a file cannot be written.
    """
    if directory.exists() and verify_sizes(directory) == model.revision:
        return
    with _move_aside(directory), atomic_directory(directory, keep_partial=True) as partial:
        if partial:
            try:
                _download_files(model, partial)
            except TransientHubError as error:
                raise ModelError(f"{error}. Run this again to resume") from error
    if verify_sizes(directory) != model.revision:
        raise ModelError(f"another process put another revision of {model.name} into {directory}: run this again")


@contextmanager
def _move_aside(directory: Path) -> Iterator[None]:
    """Move a directory away during the block, and back if the block creates no successor."""
    previous = directory.with_name(f".{directory.name}.previous")
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        directory.rename(previous)
    try:
        yield
    finally:
        if directory.exists():
            shutil.rmtree(previous, ignore_errors=True)
        elif previous.exists():
            previous.rename(directory)


def _download_files(model: CatalogueModel, directory: Path) -> None:
    """Fill `directory`, which may hold files of an earlier, interrupted call."""
    cancelled = threading.Event()
    hub = HubClient(model, lambda line: _log_line(f"{model.name}: {line}"), cancelled)
    listing = hub.list_files()
    if listing.skipped:
        _log_line(f"{model.name}: skipping {', '.join(listing.skipped)}")
    files = listing.files
    _clear_other_revision(directory, model)
    total = sum(file.size for file in files)
    present = sum(min(_size(directory / file.name), file.size) for file in files)
    free = shutil.disk_usage(directory).free
    if free < total - present:
        raise ModelError(
            f"{model.name} needs {_format_bytes(total - present)} more in {directory.parent}, which has "
            f"{_format_bytes(free)} free: free some space, or choose another disk with --directory"
        )
    _log_line(f"{model.name}: downloading {len(files)} files, {_format_bytes(total)}, from {hub.endpoint}")
    with _Progress(model.name, total, present) as progress:
        transfer = _Transfer(hub, directory, progress, cancelled)
        hashes = transfer.run(file for file in files if not is_weights(file.name))
        # Before gigabytes of weights follow.
        missing = indexed_shards(directory) - {file.name for file in files}
        if missing:
            raise HubError(hub.missing_files_message(missing))
        hashes |= transfer.run(file for file in files if is_weights(file.name))
    _write_manifest(directory, model, {file.name: {"size": file.size, "sha256": hashes[file.name]} for file in files})


def _clear_other_revision(directory: Path, model: CatalogueModel) -> None:
    """Delete the unfinished download of another revision, so that no file mixes bytes of both."""
    try:
        revision = read_json_object(directory / MANIFEST).get("revision")
    except ModelError:
        revision = None
    if revision != model.revision:
        for path in directory.iterdir():
            path.unlink()
        _write_manifest(directory, model, {})


def _write_manifest(directory: Path, model: CatalogueModel, files: dict[str, dict[str, Any]]) -> None:
    content = {"repository": model.repository, "revision": model.revision, "files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


class _Transfer:
    """Downloads files of one model into one directory, several at a time."""

    def __init__(self, hub: HubClient, directory: Path, progress: "_Progress", cancelled: threading.Event) -> None:
        self._hub = hub
        self._directory = directory
        self._progress = progress
        self._cancelled = cancelled

    def run(self, files: Iterable[ModelFile]) -> dict[str, str]:
        """Download and verify files, and return the SHA-256 of each by name. The first failure cancels the others."""
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            futures = {executor.submit(self._download, file): file.name for file in files}
            try:
                return {futures[future]: future.result() for future in as_completed(futures)}
            except BaseException:
                self._cancelled.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _download(self, file: ModelFile) -> str:
        """Complete and verify one file, and return its SHA-256."""
        path = self._directory / file.name
        self._receive(file, path)
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        expected = file.sha256 or file.git_sha1
        kind, actual = ("SHA-256", sha256) if file.sha256 else ("git SHA-1", _git_sha1(path))
        if actual != expected:
            path.unlink()
            raise ModelError(
                f"{file.name} of {self._hub.model.name} arrived damaged: its {kind} is {actual} instead of {expected}. "
                "The file was deleted: run this again to download a new copy. If the error persists, "
                f"{self._hub.endpoint} or a proxy alters the file"
            )
        self._progress.log_line(f"{file.name} verified")
        return sha256

    def _receive(self, file: ModelFile, path: Path) -> None:
        """Append the bytes to `path` that it lacks."""
        path.touch()
        with path.open("r+b") as output:
            position = output.seek(0, os.SEEK_END)
            for block in self._hub.stream(file, position):
                if block.offset != position:  # the hub does not support ranges and sends the file again
                    output.truncate(block.offset)
                    output.seek(block.offset)
                    self._progress.add(block.offset - position)
                output.write(block.content)
                output.flush()
                position = block.offset + len(block.content)
                self._progress.add(len(block.content))


class _Progress:
    """The bytes received so far, on stderr: a bar on a terminal, periodic lines elsewhere."""

    def __init__(self, name: str, total: int, present: int) -> None:
        self._name = name
        self._total = total
        self._missing = total - present
        self._received = 0
        self._started = self._logged = time.monotonic()
        self._lock = threading.Lock()
        self._bar = tqdm(
            desc=name,
            total=total,
            initial=present,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """Count received bytes; a negative number if bytes must be received again."""
        with self._lock:
            self._received += count
            self._bar.update(count)
            now = time.monotonic()
            if self._bar.disable and now - self._logged >= LOG_INTERVAL:
                self._logged = now
                _log_line(f"{self._name}: {self._summary(now - self._started)}")

    def log_line(self, text: str) -> None:
        """Write a line without breaking the bar."""
        with self._lock:
            _log_line(f"{self._name}: {text}")

    def _summary(self, seconds: float) -> str:
        rate = max(self._received, 1) / seconds
        left = self._missing - self._received
        return (
            f"{_format_bytes(self._total - left)} of {_format_bytes(self._total)}, {_format_bytes(rate)}/s, "
            f"{tqdm.format_interval(left / rate)} left"
        )


def _log_line(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _format_bytes(count: float) -> str:
    return tqdm.format_sizeof(count, "B")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _git_sha1(path: Path) -> str:
    """Hash a file as git hashes a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
