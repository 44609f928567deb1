"""The packages installed in an image."""

import pytest

from images.errors import ImageError
from images.oci.manifest import LAYER
from images.runtime.inventory import Inventory, Package, list_packages
from images.runtime.layer_reader import LayerContents, scan_layer
from tools.harness.images import tar_archive

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


def read(files: dict[str, bytes]) -> LayerContents:
    content = tar_archive(files)
    return scan_layer(iter([content]), LAYER, "sha256:test")


def metadata(name: str, *lines: str) -> dict[str, bytes]:
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, "", "A long text."])
    return {f"{PACKAGES}/{name}-1.0.dist-info/METADATA": text.encode()}


def found(*layers: dict[str, bytes], environment: tuple[str, ...] = ()) -> Inventory:
    return list_packages([read(layer) for layer in layers], environment)


def test_debian_packages_are_listed_if_they_are_installed() -> None:
    one = found({"./var/lib/dpkg/status": STATUS.encode(), "usr/lib/os-release": SYSTEM})
    assert one == Inventory(
        (
            Package("deb", "libc6", "2.36-9+deb12u1", "amd64", "glibc@2.36-9"),
            Package("deb", "libssl3", "3.0.17-1~deb12u3", "amd64", "openssl@3.0.17-1~deb12u3"),
        ),
        "debian",
        "12",
    )


def test_base_without_dpkg_has_a_status_file_for_each_package() -> None:
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
def test_python_packages_have_their_declared_licence(lines: tuple[str, ...], licence: str) -> None:
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
def test_packages_removed_by_a_higher_layer_are_not_listed(above: dict[str, bytes]) -> None:
    assert found(metadata("pip"), above | {"srv/app.py": b""}).packages == ()
    # A whiteout does not match a name that it only prefixes.
    assert len(found(metadata("pip"), {f"{PACKAGES}/.wh.pip-1.0": b""}).packages) == 1


def test_higher_layer_overrides_lower_ones() -> None:
    older = {"var/lib/dpkg/status": STATUS.encode()}
    newer = {"var/lib/dpkg/status": STATUS.replace("2.36-9+deb12u1", "2.36-9+deb12u2").encode()}
    assert found(older, newer).packages[0].version == "2.36-9+deb12u2"


def test_python_outside_any_package_manager_is_found_in_the_environment() -> None:
    one = found({}, environment=("PATH=/bin", "PYTHON_VERSION=3.11.13"))
    assert one.packages == (Package("generic", "python", "3.11.13", licence="PSF-2.0"),)


def test_package_list_that_is_not_text_is_named() -> None:
    with pytest.raises(ImageError, match="/var/lib/dpkg/status of the runtime is not text"):
        found({"var/lib/dpkg/status": b"\xff"})
