"""Build the pinned Go tools of tools/go into .tools/bin.

A tool is a directory tools/go/NAME. The `tool` lines of its go.mod name the packages to build; go.mod and go.sum pin
every dependency. An optional file `flags` adds flags for `go build`, one per line, in which {version} stands for the
tool's version. A single package is built as NAME, several are built under their own names. A program on PATH is linked
instead of built if its embedded Go build information names the same package and version.
"""

import argparse
import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.verb import ROOT, Verb

MODULES = ROOT / "tools/go"
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"
DEFAULT = ["helm", "ct", "kubeconform"]

verb = Verb("scripts/tools")


def programs(tool: str) -> dict[str, str]:
    """Return the packages that a tool's go.mod names, keyed by the program that each is built as."""
    text = (MODULES / tool / "go.mod").read_text()
    packages = re.findall(r"^(?:tool |\t)([^\s()]+/[^\s()]+)$", text, re.MULTILINE)
    if len(packages) == 1:
        return {tool: packages[0]}
    return {Path(re.sub(r"/v\d+$", "", package)).name: package for package in packages}


def module_of(tool: str, package: str) -> tuple[str, str]:
    """Return the path and version of the module that contains a package of a tool."""
    required = re.findall(r"^(?:require |\t)(\S+) (v\S+)", (MODULES / tool / "go.mod").read_text(), re.MULTILINE)
    path, version = max((pair for pair in required if f"{package}/".startswith(f"{pair[0]}/")), key=lambda p: len(p[0]))
    return path, version


def find_on_path(tool: str, program: str, package: str) -> Path | None:
    """Return the program on PATH if it was built from exactly the pinned version."""
    path, version = module_of(tool, package)
    directories = [entry for entry in os.get_exec_path() if Path(entry).resolve() != BIN.resolve()]
    found = shutil.which(program, path=os.pathsep.join(directories))
    if not found:
        return None
    # The format is that of BuildInfo.String in runtime/debug of Go's standard library.
    pinned = re.compile(re.escape(f"path\t{package}\nmod\t{path}\t{version}".encode()) + rb"[\t\n]")
    return Path(found) if pinned.search(Path(found).read_bytes()) else None


@functools.cache
def go_version() -> str:
    """Return the version of Go, or "" if Go is not installed."""
    go = shutil.which("go")
    return subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True).stdout if go else ""


def build_key(tool: str) -> str:
    """Return a digest of everything that a build of a tool depends on."""
    content = [(MODULES / tool / part).read_bytes() for part in ("go.mod", "go.sum")]
    return hashlib.sha256(
        b"".join([*content, *map(str.encode, build_flags(tool, "")), go_version().encode()])
    ).hexdigest()


def build_flags(tool: str, version: str) -> list[str]:
    """Return a tool's own flags for `go build`."""
    file = MODULES / tool / "flags"
    return file.read_text().format(version=version).splitlines() if file.exists() else []


def is_current(tool: str, program: str, package: str) -> bool:
    """Return whether .tools/bin has a program at the version that is pinned now."""
    target, stamp = BIN / program, TOOLS / f"{program}.stamp"
    found = find_on_path(tool, program, package)
    if found:
        return target.is_symlink() and target.readlink() == found
    return target.is_file() and stamp.exists() and stamp.read_text() == build_key(tool)


def provide(tool: str, program: str, package: str, lock: int) -> None:
    """Link or build a program, and put it into .tools/bin atomically."""
    _, version = module_of(tool, package)
    part, stamp = TOOLS / f"{program}.part", TOOLS / f"{program}.stamp"
    part.unlink(missing_ok=True)
    stamp.unlink(missing_ok=True)
    found = find_on_path(tool, program, package)
    if found:
        verb.log(f"{program} {version} is {found}")
        part.symlink_to(found)
    elif not go_version():
        verb.fail(f"building {program} needs Go: install Go, or put {program} {version} on PATH")
    else:
        verb.log(f"building {program} {version}; the first build can take minutes")
        build: list[str | Path] = ["go", "build", "-C", MODULES / tool, "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
        build += [*build_flags(tool, version), "-o", part, package]
        code = verb.run(build, lambda: f"building {program}", lock, {"CGO_ENABLED": "0", "GOWORK": "off"})
        if code != 0:
            verb.fail(f"go build failed for {program}: see its message above")
    part.replace(BIN / program)
    if not found:
        stamp.write_text(build_key(tool))


def main() -> None:
    """Provide the tools named on the command line."""
    known = sorted(file.parent.name for file in MODULES.glob("*/go.mod"))
    parser = argparse.ArgumentParser(prog=verb.name, description=__doc__)
    parser.add_argument("name", nargs="*", help=f"{', '.join(known)} (default: {', '.join(DEFAULT)})")
    names = parser.parse_args().name or DEFAULT
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"unknown tool {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    wanted = [(name, program, package) for name in names for program, package in programs(name).items()]
    if all(is_current(*one) for one in wanted):
        return
    BIN.mkdir(parents=True, exist_ok=True)
    with verb.exclusive(TOOLS) as lock:
        for one in wanted:
            if not is_current(*one):
                provide(*one, lock)


if __name__ == "__main__":
    verb.main(main)
