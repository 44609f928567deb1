"""Pin the packages that requirements/*.in ask for, with hashes, in requirements/*.txt.

develop.txt is resolved first; the other files take their versions from it. A pinned version stays as long as it
satisfies the .in files. Other flags go to `uv pip compile`.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tools.verb import ROOT, Verb

DIRECTORY = ROOT / "requirements"
UV = ROOT / ".venv/bin/uv"
COMPILE = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--universal", "--python-version", "3.11"]
COMPILE += ["--generate-hashes"]
FLAGS_BY_USE: dict[str, list[str]] = {
    "develop": [],
    "serve": ["--constraint", "develop.txt"],
    "images": ["--constraint", "develop.txt"],
    "demo": ["--constraint", "develop.txt", "--no-deps"],
    "bench": ["--constraint", "develop.txt"],
}
WITH_OWN_PACKAGES = {"demo", "bench"}  # pin packages that develop.txt lacks

verb = Verb("scripts/requirements")


def header() -> str:
    """Return the first line of every .txt file, which holds the digest of the .in files."""
    content = b"".join(file.name.encode() + file.read_bytes() for file in sorted(DIRECTORY.glob("*.in")))
    return f"# By scripts/requirements, from .in files with the SHA-256 {hashlib.sha256(content).hexdigest()}\n"


def compile_pins(use: str, flags: list[str]) -> None:
    """Write the pins of one use."""
    file = DIRECTORY / f"{use}.txt"
    verb.log(f"pinning {use}")
    command: list[str | Path] = [UV, *COMPILE, *FLAGS_BY_USE[use], *flags, "--output-file", file, f"{use}.in"]
    if subprocess.run(command, cwd=DIRECTORY).returncode != 0:
        verb.fail("uv failed: see its message above")
    file.write_text(header() + file.read_text())


def problems() -> list[str]:
    """Return what is wrong with the .txt files, one line for each problem."""
    found = []
    develop = read_pins("develop")
    packages = {pin.split("==")[0] for pin in develop}
    for use in FLAGS_BY_USE:
        if not (DIRECTORY / f"{use}.txt").read_text().startswith(header()):
            found.append(f"requirements/{use}.txt is older than the .in files: run scripts/requirements")
        other = {
            pin for pin in read_pins(use) - develop if use not in WITH_OWN_PACKAGES or pin.split("==")[0] in packages
        }
        if other:
            found.append(f"requirements/{use}.txt pins {other}, which develop.txt does not")
    return found


def read_pins(use: str) -> set[str]:
    """Return each NAME==VERSION that a use pins."""
    return set(re.findall(r"^\S+==\S+", (DIRECTORY / f"{use}.txt").read_text(), re.MULTILINE))


def main() -> None:
    """Write the pins, or check them if the only argument is --check."""
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join(problems()) or 0)
    if not UV.exists():
        verb.fail("uv is not installed: run `scripts/setup develop` first")
    for use in FLAGS_BY_USE:
        compile_pins(use, sys.argv[1:])


if __name__ == "__main__":
    verb.main(main)
