"""Image references."""

import pytest

from images import VERSION
from images.errors import ImageError
from images.oci.reference import parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "name", "tag"),
    [
        ("oci:dist/demo", "oci:dist/demo", VERSION),
        ("oci:dist/demo:1", "oci:dist/demo", "1"),
        (f"oci:/a/b@{DIGEST}", "oci:/a/b", DIGEST),
        (f"oci:/a/b:1@{DIGEST}", "oci:/a/b", DIGEST),
        ("localhost:5000/phi3", "localhost:5000/phi3", VERSION),
        ("localhost/phi3:x", "localhost/phi3", "x"),
        ("ghcr.io/somebody/phi-3-mini-4k-instruct:1.0", "ghcr.io/somebody/phi-3-mini-4k-instruct", "1.0"),
        (f"registry:5000/a/b_c/d:1@{DIGEST}", "registry:5000/a/b_c/d", DIGEST),
        ("[::1]:5000/a", "[::1]:5000/a", VERSION),
    ],
)
def test_reference_is_a_store_and_a_tag_or_digest(text: str, name: str, tag: str) -> None:
    found = parse_reference(text)
    assert (found.name, found.tag) == (name, tag)
    assert parse_reference(str(found)).tag == tag


@pytest.mark.parametrize(
    "text", ["", "oci:", "phi3", "phi3:1", "somebody/phi3", "ghcr.io/A/b", "ghcr.io/a:", "https://x.io/a"]
)
def test_invalid_reference_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(ImageError, match=r"write oci:DIR\[:TAG\], or REGISTRY/REPOSITORY"):
        parse_reference(text)
