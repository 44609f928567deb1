"""Splits a virtual environment into the layers of the runtime image. Runs inside the build, on any Python 3.

Usage: split_layers.py ENVIRONMENT LAYERS. It deletes files that serving never loads, prints the space saved, and moves
the rest to LAYERS/cuda, LAYERS/torch and LAYERS/packages, from rarely to often changed. The bytecode does not depend on
modification times.
"""

import compileall
import re
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

UNUSED_PACKAGES = {
    "build tools": ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"),
    "triton, which needs a C compiler": ("triton",),
}
"""Packages that are deleted, by kind."""
UNUSED_FILES = {
    "static libraries": r".*\.a",
    "headers": r"(torch|nvidia)/(.*/)?include/.*",
    "programs": r"torch/(bin/(?!torch_shm_manager$)|share/).*|nvidia/(.*/)?(bin|share|src|nvvm/bin)/.*",
    "tests": r"(.*/)?tests/.*\.py",
    "types": r".*\.pyi",
}
"""Files of the other packages that are deleted, by kind, as patterns for paths below site-packages."""
REQUIRED_IMPORTS = (
    "torch.export",
    "torch.utils.checkpoint",
    "transformers.generation.continuous_batching",
    "transformers.models.phi3.modeling_phi3",
    "accelerate",
    "flask_openapi3",
    "gunicorn.workers.gthread",
)
"""Modules that serving imports; the build fails if one of them needs a deleted file."""
LAYERS = {
    "cuda": r"(nvidia|cuda)([-_.].*)?",
    "torch": r"(torch|functorch|torchgen)([-.].*)?",
}
"""The entries of site-packages that each layer gets; the layer `packages` gets the others."""


def trim_packages(packages: Path) -> dict[str, int]:
    """Delete unused files, and return the bytes saved by kind."""
    saved = dict.fromkeys([*UNUSED_PACKAGES, *UNUSED_FILES], 0)
    for kind, names in UNUSED_PACKAGES.items():
        for entry in list(packages.iterdir()):
            if re.sub(r"-[^-]*\.dist-info$", "", entry.name) in names:
                saved[kind] += size_of(entry)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for file in [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]:
        name = file.relative_to(packages).as_posix()
        unused = next((kind for kind, pattern in UNUSED_FILES.items() if re.fullmatch(pattern, name)), None)
        if unused:
            saved[unused] += file.stat().st_size
            file.unlink()
    return saved


def split_environment(environment: Path, layers: Path) -> None:
    """Move the files of the environment to the layers."""
    packages = next(environment.glob("lib/python3*/site-packages"))
    for layer, pattern in LAYERS.items():
        target = layers / layer / packages.relative_to(environment)
        target.mkdir(parents=True)
        for entry in sorted(packages.iterdir()):
            if re.fullmatch(pattern, entry.name):
                entry.rename(target / entry.name)
    environment.rename(layers / "packages")


def size_of(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a directory."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main(environment: Path, layers: Path) -> None:
    """Trim, compile, verify and split the environment."""
    packages = next(environment.glob("lib/python3*/site-packages"))
    before = size_of(packages)
    for kind, count in trim_packages(packages).items():
        print(f"removed {kind}: {count / 1e6:,.0f} MB")
    print(f"packages: {size_of(packages) / 1e6:,.0f} MB of {before / 1e6:,.0f} MB installed", flush=True)
    # quiet, because some packages carry code for other versions of Python, which does not compile.
    compileall.compile_dir(packages, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    # Fail here rather than on a GPU node if a deleted file is needed.
    subprocess.run([environment / "bin/python", "-B", "-c", f"import {', '.join(REQUIRED_IMPORTS)}"], check=True)
    for script in (environment / "bin").iterdir():
        if not script.is_symlink():
            script.unlink()
    split_environment(environment, layers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
