"""Folders made in processes that end in every way a process can."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoints.atomic import building

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from checkpoints.atomic import building

with building(Path(sys.argv[1]), keep_partial=sys.argv[2] == "keep") as partial:
    if partial is None:
        sys.exit("there already")
    (partial / "first").write_text(f"with {len(list(partial.iterdir()))} others")
    print("half made", flush=True)
    sys.stdin.readline()
    (partial / "second").touch()
"""


@contextmanager
def process(folder: Path, mode: str = "anew") -> Iterator[subprocess.Popen[str]]:
    """A process that makes `folder` halfway, says so on stdout, and goes on once its stdin is closed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, mode], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_folder_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "models/new"
    with building(folder) as partial:
        assert partial
        (partial / "inner").mkdir()
        (partial / "inner/file").write_text("content")
        assert not folder.exists()
    assert (folder / "inner/file").read_text() == "content"
    assert not partial.exists()


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with building(tmp_path / "there") as partial:
        assert partial is None
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("keep_partial", [False, True])
def test_a_failure_leaves_the_name_free(tmp_path: Path, keep_partial: bool) -> None:
    folder = tmp_path / "new"

    def fail() -> None:
        with building(folder, keep_partial=keep_partial) as partial:
            assert partial
            (partial / "half").touch()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert not folder.exists()
    with building(folder, keep_partial=keep_partial) as partial:
        assert partial
        assert (partial / "half").exists() == keep_partial
    assert folder.exists()


def test_a_killed_process_leaves_the_name_free_and_nothing_locked(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with process(folder) as killed:
        assert killed.stdout
        assert killed.stdout.readline() == "half made\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not folder.exists()
    with process(folder) as next_one:
        assert next_one.communicate("\n") == ("half made\n", "")
    assert (folder / "first").read_text() == "with 0 others"
    assert (folder / "second").exists()


def test_a_killed_process_leaves_what_the_next_one_can_go_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with process(folder, "keep") as killed:
        assert killed.stdout
        killed.stdout.readline()
        killed.kill()
        killed.wait()
    with building(folder, keep_partial=True) as partial:
        assert partial
        assert [path.name for path in partial.iterdir()] == ["first"]


def test_a_second_process_waits_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with process(folder) as first:
        assert first.stdout
        first.stdout.readline()
        with process(folder) as second:
            assert second.stderr
            assert second.stderr.readline() == f"Another process is making {folder}: waiting for it\n"
            first.communicate("\n")
            assert second.communicate() == ("", "there already\n")
    assert first.returncode == 0
    assert (folder / "first").read_text() == "with 0 others"
