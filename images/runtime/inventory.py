"""Which packages an image has installed, from the files in which their managers say so."""

import email
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message

from images.errors import ImageError
from images.runtime.layer_reader import Contents

INSTALLED = "install ok installed"
LONGEST_LICENCE = 100
"""Characters of a licence's name; some packages give the whole text there."""


@dataclass(frozen=True)
class Package:
    """An installed package.

    `kind` is "deb", "pypi" or "generic", as in package URLs, `origin` its source package with its version where that
    has another name or version, `licence` an SPDX expression or a name, "" where the package states none.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    origin: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Inventory:
    """The packages of an image in order, and its distribution, as "debian" and "12"."""

    packages: tuple[Package, ...]
    distribution: str
    release: str


def inventory(layers: Iterable[Contents], environment: Iterable[str]) -> Inventory:
    """Return what layers, from the lowest to the highest, have installed.

    `environment` is that of the image's configuration: Docker's Python images tell their Python there alone. Raises
    ImageError where a list of packages cannot be read.
    """
    files: dict[str, bytes] = {}
    for layer in layers:
        for gone in layer.removed:
            below = f"{gone}/" if gone else ""
            files = {path: content for path, content in files.items() if not f"{path}/".startswith(below)}
        files |= layer.kept
    packages: set[Package] = set()
    for path, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ImageError(f"/{path} of the runtime is no text: build the runtime again") from error
        if path.endswith("/METADATA"):
            packages.add(_distribution(email.message_from_string(text)))
        elif path.startswith("var/lib/dpkg/"):
            stanzas = [email.message_from_string(stanza) for stanza in text.split("\n\n")]
            packages |= {
                _debian(one) for one in stanzas if one["Package"] and one.get("Status", INSTALLED) == INSTALLED
            }
    for name, _, value in (variable.partition("=") for variable in environment):
        if name == "PYTHON_VERSION":
            packages.add(Package("generic", "python", value, licence="PSF-2.0"))
    release = (files.get("usr/lib/os-release") or files.get("etc/os-release", b"")).decode()
    system = dict(line.partition("=")[::2] for line in release.splitlines() if "=" in line)
    ordered = tuple(sorted(packages, key=lambda package: (package.kind, package.name, package.version)))
    return Inventory(ordered, system.get("ID", "").strip('"'), system.get("VERSION_ID", "").strip('"'))


def _distribution(metadata: "Message[str, str]") -> Package:
    """Source: https://packaging.python.org/specifications/core-metadata."""
    licence = metadata["License-Expression"] or metadata["License"] or ""
    if not licence or len(licence) > LONGEST_LICENCE or "\n" in licence:
        named = [one for one in metadata.get_all("Classifier", []) if one.startswith("License :: ")]
        licence = named[0].rpartition(" :: ")[2] if named else ""
    return Package("pypi", metadata["Name"], metadata["Version"], licence=licence)


def _debian(stanza: "Message[str, str]") -> Package:
    """Source: deb-control(5)."""
    name, version = stanza["Package"], stanza["Version"]
    source, _, other = stanza.get("Source", name).partition(" ")
    origin = f"{source}@{other.strip('()') or version}"
    return Package(
        "deb", name, version, stanza.get("Architecture", ""), "" if origin == f"{name}@{version}" else origin
    )
