"""Install the pinned packages of one or more uses into .venv.

The first run installs requirements/USE.txt with pip, which checks every file against its hash. A later run finds
nothing to do and needs no network. If a run is killed, the next one notices and starts over.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.verb import ROOT, Verb

VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
# The Python version, and for each installed use the SHA-256 of its requirements.
STATE = VENV / "setup.json"
# The log of pip. It exists during an installation and after one that failed.
LOG = VENV / "setup.log"
USES = ("serve", "demo", "images", "develop", "bench")

verb = Verb("scripts/setup")


def requirements_digest(use: str) -> str:
    """Return the SHA-256 of a use's pinned packages."""
    return hashlib.sha256((ROOT / f"requirements/{use}.txt").read_bytes()).hexdigest()


def read_state() -> dict[str, str]:
    """Return the content of STATE, or {} if it is missing or .venv's Python is missing or has another version."""
    try:
        state: dict[str, str] = json.loads(STATE.read_bytes())
        version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True).stdout
    except (OSError, ValueError):
        return {}
    return state if version.startswith(f"Python {state['python']}.") else {}


def write_state(state: dict[str, str]) -> None:
    """Replace STATE atomically."""
    part = STATE.with_suffix(".part")
    part.write_text(json.dumps(state, indent=2) + "\n")
    part.replace(STATE)


def missing_uses(uses: list[str]) -> list[str]:
    """Return the uses whose packages are not installed at the versions that are pinned now."""
    state = read_state()
    ready = {use for use in USES if state.get(use) == requirements_digest(use)}
    if "develop" in ready:
        ready |= {"serve", "images"}
    return [use for use in uses if use not in ready]


def changing_venv() -> bool:
    """Return whether pip has begun to change .venv, now or in a run that failed."""
    return LOG.exists() and b"Installing collected packages" in LOG.read_bytes()


def pip_status() -> str:
    """Return the progress of pip if pip does not show it."""
    if changing_venv():
        return f"{len(list(VENV.glob('lib/*/site-packages/*.dist-info')))} packages installed"
    return "" if sys.stderr.isatty() else "downloading packages"  # on a terminal pip draws a progress bar


def make_venv(lock: int) -> None:
    """Make .venv if it is missing, if an installation into it was interrupted or if its Python is gone."""
    if read_state() and not changing_venv():
        return
    if (VENV / "pyvenv.cfg").exists():
        if not (STATE.exists() or LOG.exists()):
            verb.fail(f"scripts/setup did not make {VENV}: move it away, then run this command again")
        verb.log(f"{VENV} is incomplete or its Python is missing; making it again")
        # First, so that the rest of an interrupted removal is not mistaken for an environment of the user's.
        (VENV / "pyvenv.cfg").unlink()
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    LOG.touch()
    # In an activated .venv the running interpreter is a link that the lines above removed.
    python = sys.executable if sys.prefix == sys.base_prefix else os.path.realpath(sys.executable)
    if verb.run([python, "-m", "venv", VENV], lambda: "making .venv", lock) != 0:
        verb.fail("Python's venv module failed: install it; Debian and Ubuntu have it in the package python3-venv")
    write_state({"python": f"{sys.version_info.major}.{sys.version_info.minor}"})


def install(use: str, lock: int) -> None:
    """Install the packages of a use."""
    verb.log(f"installing requirements/{use}.txt into {VENV}")
    LOG.write_bytes(b"")
    command: list[str | Path] = [PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--log", LOG]
    # The file lists every package. Resolving dependencies would find newer versions, which have no hash in it.
    command += ["install", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command.append(f"--requirement=requirements/{use}.txt")
    if not sys.stderr.isatty():
        command.append("--progress-bar=off")
    code = verb.run(command, pip_status, lock)
    if code != 0:
        free = shutil.disk_usage(ROOT).free / 1e9
        verb.fail(
            f"pip failed with exit code {code}: see its message above or {LOG}. {free:.1f} GB of disk are free. "
            "Run the same command to try again."
        )


def main() -> None:
    """Install the uses named on the command line."""
    parser = argparse.ArgumentParser(prog=verb.name, description=__doc__)
    parser.add_argument("use", nargs="+", choices=USES)
    uses = parser.parse_args().use
    if not LOG.exists() and not missing_uses(uses):
        return
    os.chdir(ROOT)
    with verb.exclusive(ROOT) as lock:
        make_venv(lock)
        pinned = {use: requirements_digest(use) for use in USES}
        for use in missing_uses(uses):
            install(use, lock)
            # A use whose pins have changed may now have other versions of its packages: forget that it is installed.
            current = {key: value for key, value in read_state().items() if pinned.get(key, value) == value}
            write_state(current | {use: pinned[use]})
            verb.log(f"{use} is installed")
        LOG.unlink(missing_ok=True)


if __name__ == "__main__":
    verb.main(main)
