"""Which packages an image has installed."""

import pytest

from images.errors import ImageError
from images.oci.store import LAYER
from images.runtime.inventory import Inventory, Package, inventory
from images.runtime.layer_reader import Contents, examine
from tools.harness.images import archive

STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.0.17-1~deb12u3

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u1
Description: a library
 of several lines
"""
SYSTEM = b'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n'
PACKAGES = "opt/phi3/lib/python3.11/site-packages"


def read(files: dict[str, bytes]) -> Contents:
    content = archive(files)
    return examine(iter([content]), LAYER, "sha256:test")


def metadata(name: str, *lines: str) -> dict[str, bytes]:
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, "", "A long text."])
    return {f"{PACKAGES}/{name}-1.0.dist-info/METADATA": text.encode()}


def found(*layers: dict[str, bytes], environment: tuple[str, ...] = ()) -> Inventory:
    return inventory([read(layer) for layer in layers], environment)


def test_debian_s_packages_are_those_that_are_installed() -> None:
    one = found({"./var/lib/dpkg/status": STATUS.encode(), "usr/lib/os-release": SYSTEM})
    assert one == Inventory(
        (
            Package("deb", "libc6", "2.36-9+deb12u1", "amd64", "glibc@2.36-9"),
            Package("deb", "libssl3", "3.0.17-1~deb12u3", "amd64", "openssl@3.0.17-1~deb12u3"),
        ),
        "debian",
        "12",
    )


def test_a_base_without_dpkg_lists_its_packages_one_by_one() -> None:
    one = found({"var/lib/dpkg/status.d/tzdata": b"Package: tzdata\nVersion: 1\n", "etc/os-release": SYSTEM})
    assert one.packages == (Package("deb", "tzdata", "1"),)
    assert one.distribution == "debian"


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        (("License-Expression: Apache-2.0 OR MIT", "License: other"), "Apache-2.0 OR MIT"),
        (("License: BSD",), "BSD"),
        (
            ("License: Copyright" + " and more" * 20, "Classifier: License :: OSI Approved :: MIT License"),
            "MIT License",
        ),
        (("Classifier: Topic :: Text",), ""),
    ],
)
def test_python_s_packages_have_the_licence_that_they_state(lines: tuple[str, ...], licence: str) -> None:
    assert found(metadata("flask", *lines)).packages == (Package("pypi", "flask", "1.0", licence=licence),)


@pytest.mark.parametrize(
    "above",
    [
        {f"{PACKAGES}/.wh.pip-1.0.dist-info": b""},
        {f"{PACKAGES}/.wh..wh..opq": b""},
        {"opt/.wh.phi3": b""},
        {".wh..wh..opq": b""},
    ],
)
def test_what_a_layer_above_removes_is_not_there(above: dict[str, bytes]) -> None:
    assert found(metadata("pip"), above | {"srv/app.py": b""}).packages == ()
    # A name that only begins alike is another one.
    assert len(found(metadata("pip"), {f"{PACKAGES}/.wh.pip-1.0": b""}).packages) == 1


def test_a_layer_above_has_the_last_word() -> None:
    older = {"var/lib/dpkg/status": STATUS.encode()}
    newer = {"var/lib/dpkg/status": STATUS.replace("2.36-9+deb12u1", "2.36-9+deb12u2").encode()}
    assert found(older, newer).packages[0].version == "2.36-9+deb12u2"


def test_a_python_that_no_package_manager_knows_is_in_the_environment() -> None:
    one = found({}, environment=("PATH=/bin", "PYTHON_VERSION=3.11.13"))
    assert one.packages == (Package("generic", "python", "3.11.13", licence="PSF-2.0"),)


def test_a_list_that_is_no_text_is_named() -> None:
    with pytest.raises(ImageError, match="/var/lib/dpkg/status of the runtime is no text"):
        found({"var/lib/dpkg/status": b"\xff"})
