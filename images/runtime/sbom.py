"""The SBOM of a runtime image: its distribution, and the packages of Debian and Python."""

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from images.oci.referrers import Artifact
from images.runtime.inventory import Inventory, Package
from images.sbom import RUNTIME_SBOM, SBOM_TYPE, build_document, encode_document


def runtime_sbom(digest: str, version: str, inventory: Inventory) -> Artifact:
    """Return the SBOM of the runtime image with this digest."""
    runtime = Component(
        name="phi-3-runtime",
        type=ComponentType.CONTAINER,
        version=version,
        bom_ref=digest,
        purl=PackageURL("oci", name="phi-3-runtime", version=digest),
    )
    components = [_component(package, inventory) for package in inventory.packages]
    if inventory.distribution:
        components.append(
            Component(
                name=inventory.distribution,
                type=ComponentType.OPERATING_SYSTEM,
                version=inventory.release,
                bom_ref=f"{inventory.distribution}-{inventory.release}",
            )
        )
    return Artifact(SBOM_TYPE, RUNTIME_SBOM, encode_document(build_document(runtime, components)))


def _component(package: Package, inventory: Inventory) -> Component:
    kind, qualifiers, namespace = package.kind, dict[str, str](), ""
    if kind == "deb":
        # Vulnerability scanners select the distribution's advisories by these qualifiers.
        qualifiers = {"arch": package.architecture, "distro": f"{inventory.distribution}-{inventory.release}"}
        namespace = inventory.distribution
        if package.origin:
            qualifiers["upstream"] = package.origin
    purl = PackageURL(kind, namespace or None, package.name, package.version, qualifiers)
    is_python = kind == "generic"
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.APPLICATION if is_python else ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        cpe=f"cpe:2.3:a:python:python:{package.version}:*:*:*:*:*:*:*" if is_python else None,
        licenses=[LicenseFactory().make_from_string(package.licence)] if package.licence else [],
    )
