"""Bake an image: the server with a model's weights inside."""

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from phi3.modules import ROOT, run_module

DEMO = "demo"
WORK = ROOT / ".images"
# 1 January 1980, so that a base image made again has the same digest.
EPOCH = "315532800"


def main(arguments: Sequence[str]) -> None:
    """Lock the model if needed, push its weights, add the runtime, and print the image's name and digest."""
    parser = argparse.ArgumentParser(prog="phi3 bake", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="demo, mini-4k, mini-128k, medium-4k or medium-128k")
    parser.add_argument("destination", metavar="DESTINATION", help="oci:DIRECTORY[:TAG] or REGISTRY/REPOSITORY[:TAG]")
    parser.add_argument("--runtime", metavar="IMAGE", help="image of the server; default: build it with buildah")
    parser.add_argument("--plain-http", action="store_true", help="use a registry without TLS; localhost needs no flag")
    options = parser.parse_args(arguments)
    WORK.mkdir(exist_ok=True)
    plain = ["--plain-http"] if options.plain_http else []
    image = [options.model, options.destination]
    lock, source = lock_model(options.model)
    runtime = options.runtime or build_runtime(options.model)
    print(run_module("images", "weights", *image, *lock, *source, *plain), file=sys.stderr)
    print(run_module("images", "compose", *image, *lock, *plain, "--runtime", runtime))


def lock_model(model: str) -> tuple[list[str], list[str]]:
    """Lock the files and layers of a model, and return the flags that name the lock and the source of its weights."""
    if model != DEMO:
        run_module("images", "lock", model, "--missing")
        return [], []
    directory = ROOT / ".models/demo"
    lock, source = ["--lock", str(WORK / "demo.lock.json")], ["--folder", str(directory)]
    if not directory.is_dir():
        run_module("checkpoints", DEMO)
    run_module("images", "lock", DEMO, *lock, *source)
    return lock, source


def build_runtime(model: str) -> str:
    """Build the image of the server into .images/runtime unless it is there, and return its name and digest."""
    base = os.environ.get("BASE_IMAGE") or (str(debian_base()) if model == DEMO else "")
    install_packages("buildah")
    # A second bake waits for the build of the first, and then finds its image.
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return run_module("images", "runtime", f"oci:{WORK / 'runtime'}", *(["--base", base] if base else []))


def debian_base() -> Path:
    """Return the archive of a base file system made from Debian packages, so that the demo needs no registry."""
    base, part = WORK / "base.tar", WORK / "base.part.tar"
    if not base.exists():
        install_packages("mmdebstrap")
        print("phi3 bake: making a base image from Debian packages", file=sys.stderr)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH}
        done = subprocess.run([*command, "bookworm", part], env=environment, stdout=sys.stderr)
        if done.returncode != 0:
            sys.exit(done.returncode)
        part.rename(base)
    return base


def install_packages(*names: str) -> None:
    """Install Debian packages that are missing, or exit with the status of scripts/packages."""
    done = subprocess.run([ROOT / "scripts/packages", *names])
    if done.returncode != 0:
        sys.exit(done.returncode)
