"""Makes the layers of the runtime image from an environment with all packages: runs inside the build, on any Python 3.

Usage: split_layers.py ENVIRONMENT LAYERS. What serving never loads is left out, and the saving printed; the rest is moved
to LAYERS/cuda, LAYERS/torch and LAYERS/packages, from rarely to often changed. The bytecode does not depend on times.
"""

import compileall
import re
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

WHOLE = {
    "build tools": ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"),
    "triton, which needs a C compiler": ("triton",),
}
"""By kind, the packages that are left out."""
UNUSED = {
    "static libraries": r".*\.a",
    "headers": r"(torch|nvidia)/(.*/)?include/.*",
    "programs": r"torch/(bin/(?!torch_shm_manager$)|share/).*|nvidia/(.*/)?(bin|share|src|nvvm/bin)/.*",
    "tests": r"(.*/)?tests/.*\.py",
    "types": r".*\.pyi",
}
"""By kind, what inference never loads of the others, as a pattern for paths below site-packages."""
LOADED = (
    "torch.export",
    "torch.utils.checkpoint",
    "transformers.generation.continuous_batching",
    "transformers.models.phi3.modeling_phi3",
    "accelerate",
    "flask_openapi3",
    "gunicorn.workers.gthread",
)
"""What serving loads, which has to load without what is left out."""
LAYERS = {
    "cuda": r"(nvidia|cuda)([-_.].*)?",
    "torch": r"(torch|functorch|torchgen)([-.].*)?",
}
"""By layer, which entries of site-packages it gets; `packages` gets the others."""


def trim(packages: Path) -> dict[str, int]:
    """Remove what is not needed, and return the bytes saved by kind."""
    saved = dict.fromkeys([*WHOLE, *UNUSED], 0)
    for kind, names in WHOLE.items():
        for entry in list(packages.iterdir()):
            if re.sub(r"-[^-]*\.dist-info$", "", entry.name) in names:
                saved[kind] += size(entry)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for file in [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]:
        name = file.relative_to(packages).as_posix()
        unused = next((kind for kind, pattern in UNUSED.items() if re.fullmatch(pattern, name)), None)
        if unused:
            saved[unused] += file.stat().st_size
            file.unlink()
    return saved


def split(environment: Path, layers: Path) -> None:
    """Move the environment's files to the layers."""
    packages = next(environment.glob("lib/python3*/site-packages"))
    for layer, pattern in LAYERS.items():
        target = layers / layer / packages.relative_to(environment)
        target.mkdir(parents=True)
        for entry in sorted(packages.iterdir()):
            if re.fullmatch(pattern, entry.name):
                entry.rename(target / entry.name)
    environment.rename(layers / "packages")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main(environment: Path, layers: Path) -> None:
    """Trim, compile and split."""
    packages = next(environment.glob("lib/python3*/site-packages"))
    before = size(packages)
    for kind, count in trim(packages).items():
        print(f"without {kind}: {count / 1e6:,.0f} MB less")
    print(f"packages: {size(packages) / 1e6:,.0f} MB, of {before / 1e6:,.0f} MB installed", flush=True)
    # Some packages carry code for other versions of Python, which does not compile.
    compileall.compile_dir(packages, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    # What was left out too much shows here, not on a GPU in the night.
    subprocess.run([environment / "bin/python", "-B", "-c", f"import {', '.join(LOADED)}"], check=True)
    for script in (environment / "bin").iterdir():
        if not script.is_symlink():
            script.unlink()
    split(environment, layers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
