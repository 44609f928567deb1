"""Directories created by processes that complete, fail or are killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoints.atomic import atomic_directory

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from checkpoints.atomic import atomic_directory

with atomic_directory(Path(sys.argv[1]), keep_partial=sys.argv[2] == "keep") as partial:
    if partial is None:
        sys.exit("exists already")
    (partial / "first").write_text(f"with {len(list(partial.iterdir()))} others")
    print("half created", flush=True)
    sys.stdin.readline()
    (partial / "second").touch()
"""


@contextmanager
def process(directory: Path, mode: str = "clear") -> Iterator[subprocess.Popen[str]]:
    """Run a process that half creates `directory`, reports that on stdout, and completes when its stdin is closed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, directory, mode], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_directory_gets_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    directory = tmp_path / "models/new"
    with atomic_directory(directory) as partial:
        assert partial
        (partial / "inner").mkdir()
        (partial / "inner/file").write_text("content")
        assert not directory.exists()
    assert (directory / "inner/file").read_text() == "content"
    assert not partial.exists()


def test_existing_directory_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with atomic_directory(tmp_path / "there") as partial:
        assert partial is None
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("keep_partial", [False, True])
def test_failure_leaves_the_name_free(tmp_path: Path, keep_partial: bool) -> None:
    directory = tmp_path / "new"

    def fail() -> None:
        with atomic_directory(directory, keep_partial=keep_partial) as partial:
            assert partial
            (partial / "half").touch()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert not directory.exists()
    with atomic_directory(directory, keep_partial=keep_partial) as partial:
        assert partial
        assert (partial / "half").exists() == keep_partial
    assert directory.exists()


def test_killed_process_leaves_the_name_free_and_no_lock(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with process(directory) as killed:
        assert killed.stdout
        assert killed.stdout.readline() == "half created\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not directory.exists()
    with process(directory) as next_one:
        assert next_one.communicate("\n") == ("half created\n", "")
    assert (directory / "first").read_text() == "with 0 others"
    assert (directory / "second").exists()


def test_killed_process_leaves_files_with_which_the_next_one_resumes(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with process(directory, "keep") as killed:
        assert killed.stdout
        killed.stdout.readline()
        killed.kill()
        killed.wait()
    with atomic_directory(directory, keep_partial=True) as partial:
        assert partial
        assert [path.name for path in partial.iterdir()] == ["first"]


def test_second_process_waits_and_reports_it(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with process(directory) as first:
        assert first.stdout
        first.stdout.readline()
        with process(directory) as second:
            assert second.stderr
            assert second.stderr.readline() == f"Another process is creating {directory}; waiting for it\n"
            first.communicate("\n")
            assert second.communicate() == ("", "exists already\n")
    assert first.returncode == 0
    assert (directory / "first").read_text() == "with 0 others"
