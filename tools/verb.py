"""What the verbs of scripts/ that are written in Python share: messages, locks, child processes and exit codes.

They run before .venv exists, so this module and the modules that import it use the standard library only. Importing
this module starts the program again under Python 3.11 or newer if python3 is older. Until then Python reads these files
with its old grammar: no syntax that is newer than Python 3.6 in this module or in the module that is run.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

if sys.version_info < (3, 11):  # noqa: UP036 - python3 may be older than the version that the project requires
    for candidate in ("python3.14", "python3.13", "python3.12", "python3.11"):
        newer = shutil.which(candidate)
        # A version manager's shim can exist without the version behind it, so run it once.
        if newer and subprocess.run([newer, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            module = sys.modules["__main__"].__spec__.name
            os.execv(newer, [newer, "-m", module, *sys.argv[1:]])  # noqa: S606 - needs no shell
    sys.exit(f"Python 3.11 or newer is required, but python3 is {sys.version.split()[0]}: install a newer version")

ROOT = Path(__file__).resolve().parents[1]
STATUS_SECONDS = 10


class Verb:
    """A command of scripts/; its name starts each message."""

    def __init__(self, name: str) -> None:
        self.name = name

    def log(self, message: str) -> None:
        """Print a progress message to stderr."""
        print(f"{self.name}: {message}", file=sys.stderr, flush=True)

    def fail(self, message: str) -> NoReturn:
        """Exit with status 1 and an error message."""
        sys.exit(f"{self.name}: {message}")

    @contextmanager
    def exclusive(self, directory: Path) -> Iterator[int]:
        """Lock a directory, after waiting for the process that holds its lock; yields the lock's file descriptor.

        The lock lasts as long as a process has it open. Pass it to `run`, so that the next verb also waits for a child
        process that outlives a killed one.
        """
        lock = os.open(directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.log("waiting for another process that is working in this directory")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def run(
        self,
        command: Sequence[str | Path],
        status: Callable[[], str],
        lock: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> int:
        """Run a command and return its exit code. Its output goes to stderr.

        Every STATUS_SECONDS, log the elapsed time and the text that `status` returns; log nothing if that is "".
        `environment` adds to the variables of this process.
        """
        begin = time.monotonic()
        variables = os.environ | (environment or {})
        inherited = [lock] if lock else []
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=inherited, env=variables
        ) as process:
            try:
                while True:
                    try:
                        return process.wait(timeout=STATUS_SECONDS)
                    except subprocess.TimeoutExpired:
                        text = status()
                        if text:
                            self.log(f"{time.monotonic() - begin:.0f} s, {text}")
            except BaseException:
                process.kill()
                raise

    def main(self, function: Callable[[], None]) -> None:
        """Run the program, and exit with 130 on Ctrl-C, 143 on SIGTERM and 1 with a message on an OSError."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            function()
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as error:
            self.fail(str(error))
