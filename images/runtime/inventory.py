"""The packages installed in an image, from the files in which package managers list them."""

import email
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message

from images.errors import ImageError
from images.runtime.layer_reader import LayerContents

INSTALLED = "install ok installed"
MAX_LICENCE_LENGTH = 100
"""Characters of a licence's name; some packages put the full text into that field."""


@dataclass(frozen=True)
class Package:
    """An installed package.

    `kind` is "deb", "pypi" or "generic", as in package URLs. `origin` is the source package with its version, if name
    or version differ from the binary package's. `licence` is an SPDX expression or a name, or "" if the package has
    none.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    origin: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Inventory:
    """The packages of an image in order, and its distribution, for example "debian" and "12"."""

    packages: tuple[Package, ...]
    distribution: str
    release: str


def list_packages(layers: Iterable[LayerContents], environment: Iterable[str]) -> Inventory:
    """Return the packages that layers, from the lowest to the highest, have installed.

    `environment` comes from the image's configuration, the only place where Docker's Python images record the version
    of Python. Raises ImageError if a list of packages is not text.
    """
    files = _merge_layers(layers)
    packages: set[Package] = set()
    for path, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ImageError(f"/{path} of the runtime is not text: build the runtime again") from error
        if path.endswith("/METADATA"):
            packages.add(_python_package(email.message_from_string(text)))
        elif path.startswith("var/lib/dpkg/"):
            stanzas = [email.message_from_string(stanza) for stanza in text.split("\n\n")]
            packages |= {
                _debian_package(stanza)
                for stanza in stanzas
                if stanza["Package"] and stanza.get("Status", INSTALLED) == INSTALLED
            }
    for name, _, value in (variable.partition("=") for variable in environment):
        if name == "PYTHON_VERSION":
            packages.add(Package("generic", "python", value, licence="PSF-2.0"))
    release = (files.get("usr/lib/os-release") or files.get("etc/os-release", b"")).decode()
    system = dict(line.partition("=")[::2] for line in release.splitlines() if "=" in line)
    ordered = tuple(sorted(packages, key=lambda package: (package.kind, package.name, package.version)))
    return Inventory(ordered, system.get("ID", "").strip('"'), system.get("VERSION_ID", "").strip('"'))


def _merge_layers(layers: Iterable[LayerContents]) -> dict[str, bytes]:
    """Return the package metadata that remains when each layer is applied to the lower ones."""
    files: dict[str, bytes] = {}
    for layer in layers:
        for removed in layer.removed:
            prefix = f"{removed}/" if removed else ""
            files = {path: content for path, content in files.items() if not f"{path}/".startswith(prefix)}
        files |= layer.package_metadata
    return files


def _python_package(metadata: "Message[str, str]") -> Package:
    """Source: https://packaging.python.org/specifications/core-metadata."""
    licence = metadata["License-Expression"] or metadata["License"] or ""
    if not licence or len(licence) > MAX_LICENCE_LENGTH or "\n" in licence:
        classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License :: ")]
        licence = classifiers[0].rpartition(" :: ")[2] if classifiers else ""
    return Package("pypi", metadata["Name"], metadata["Version"], licence=licence)


def _debian_package(stanza: "Message[str, str]") -> Package:
    """Source: deb-control(5)."""
    name, version = stanza["Package"], stanza["Version"]
    source, _, source_version = stanza.get("Source", name).partition(" ")
    origin = f"{source}@{source_version.strip('()') or version}"
    return Package(
        "deb", name, version, stanza.get("Architecture", ""), "" if origin == f"{name}@{version}" else origin
    )
