"""Folders that have their name only when they are complete, whatever ends the process that fills them."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def building(folder: Path, *, keep_partial: bool = False) -> Iterator[Path | None]:
    """Yield the folder to fill, which takes the name `folder` once the block ends without an exception.

    Yields None where `folder` is there already, which includes: another process made it while this one
    waited. One process builds at a time; the others wait for it, and say so on stderr.

    The folder to fill is `.NAME.partial` beside `folder`. A block that fails, or a process that is killed,
    leaves it there. The next run starts with it empty, or, with `keep_partial`, with what it holds.

    Raises OSError where the disk is full or the parent folder cannot be written to.
    """
    if folder.exists():
        yield None
        return
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is making {folder}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield None
            return
        if partial.exists() and not keep_partial:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        partial.rename(folder)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
