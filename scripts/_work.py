"""What the scripts that install and build share: one at a time, and no long silence."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - python3 may be older than what the project asks for
    for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
        newer = shutil.which(name)
        # Tried, since a version manager's stand-in exists even where the version behind it does not.
        if newer and subprocess.run([newer, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            os.execv(newer, [newer, *sys.argv])  # noqa: S606 - no shell is wanted
    sys.exit(f"Python 3.11 or newer is needed, and python3 is {sys.version.split()[0]}; install one")

ROOT = Path(__file__).resolve().parent.parent


def say(line: str) -> None:
    """Print a line of progress, with the name of the script."""
    print(f"scripts/{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Keep others that do the same out of a folder, after waiting for one that is there; yields the lock.

    The lock lasts as long as a process holds it: hand it to `run`, so that what outlives a killed script is waited for.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another one is at work here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def run(
    command: Sequence[str | Path], lock: int | None, note: Callable[[], str], environment: dict[str, str] | None = None
) -> int:
    """Run a command with `environment` added to this one, its output on stderr, and return its exit code.

    Every ten seconds the time spent is printed with what `note` has to say; nothing is printed where it returns "".
    """
    begin = time.monotonic()
    variables = os.environ | (environment or {})
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[lock] if lock else [], env=variables
    ) as process:
        try:
            while True:
                try:
                    return process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    text = note()
                    if text:
                        say(f"{time.monotonic() - begin:.0f} s, {text}")
        except BaseException:
            process.kill()
            raise
