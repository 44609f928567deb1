"""Directories that get their name only when they are complete, even if the process that fills them is killed."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_directory(directory: Path, *, keep_partial: bool = False) -> Iterator[Path | None]:
    """Yield a directory to fill, and rename it to `directory` when the block ends without an exception.

    Yields None if `directory` exists already, or if another process creates it during the wait. One process creates it
    at a time; the others wait, and report that on stderr.

    The directory to fill is `.NAME.partial` beside `directory`. It stays there if the block fails or the process is
    killed. The next run starts with it empty, or, with `keep_partial`, with its files.

    Raises OSError if the disk is full or the parent directory is not writable.
    """
    if directory.exists():
        yield None
        return
    partial = directory.with_name(f".{directory.name}.partial")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f".{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is creating {directory}; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            yield None
            return
        if partial.exists() and not keep_partial:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        partial.rename(directory)
        _sync(directory.parent)


def _sync(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
