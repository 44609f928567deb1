"""Signatures by cosign, with a temporary key and a registry on this machine."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import get_model
from images.compose import compose_image
from images.oci.manifest import encode_json
from images.oci.reference import parse_reference
from images.oci.referrers import get_artifact
from images.sbom import RUNTIME_SBOM, SBOM_TYPE, WEIGHTS_SBOM
from images.weights.directory_source import DirectorySource
from images.weights.lock import lock_model
from images.weights.push import push_weights
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import push_runtime, tar_archive
from tools.harness.registry import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = get_model("mini-4k")
METADATA = b"Name: flask\nVersion: 3.1.2\nLicense-Expression: BSD-3-Clause\n"


class Signer:
    """cosign with a temporary key, and an image to sign."""

    def __init__(self, directory: Path, image: str) -> None:
        self.image, self._directory = image, directory
        subprocess.run([ROOT / "scripts/tools", "cosign"], check=True)
        self._environment = os.environ | {"COSIGN_PASSWORD": "", "HOME": str(directory)}
        self._environment["PATH"] = f"{ROOT / '.tools/bin'}:{os.environ['PATH']}"
        self.run("cosign", "generate-key-pair")
        # Without this configuration cosign records the signature in a public transparency log.
        (directory / "offline.json").write_bytes(
            encode_json({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {}})
        )

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a command, which must exit with `code`, and return its output."""
        done = subprocess.run(
            command, cwd=self._directory, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + (done.stderr if code else "")

    def sign(self) -> None:
        """Run scripts/sign."""
        flags = ("--key", "cosign.key", "--signing-config", "offline.json", "--allow-http-registry")
        self.run(ROOT / "scripts/sign", self.image, *flags)

    def verify(self, verb: str, *flags: str, code: int = 0) -> str:
        """Run a verb of cosign with the public key only."""
        common = ("--key", "cosign.pub", "--insecure-ignore-tlog", "--allow-http-registry", *flags)
        return self.run("cosign", verb, *common, self.image, code=code)


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[Signer]:
    with registry(tmp_path / "registry") as host:
        source = DirectorySource(write_repository(tmp_path / "repository", SHARDS))
        entry = lock_model(MODEL, source, 2)
        target, base = (parse_reference(f"{host}/{name}:1") for name in ("signed", "signed-runtime"))
        push_weights(entry, source, target.store)
        push_runtime(
            base.store, layers=[tar_archive({"opt/flask.dist-info/METADATA": METADATA}), tar_archive({"srv/app": b""})]
        )
        digest = compose_image(entry, base, target).digest
        yield Signer(tmp_path, f"{host}/signed@{digest}")


def test_image_and_its_sboms_are_signed_with_the_given_key(signer: Signer) -> None:
    signer.verify("verify", code=10)
    signer.sign()
    assert signer.image.split("@")[1] in signer.verify("verify")
    lines = signer.verify("verify-attestation", "--type", "cyclonedx").splitlines()
    envelopes = [json.loads(line) for line in lines if line.startswith("{")]
    statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
    image = parse_reference(signer.image)
    documents = [get_artifact(image.store, image.tag, SBOM_TYPE, title) for title in (RUNTIME_SBOM, WEIGHTS_SBOM)]
    for document in documents:
        assert document
        assert json.loads(document) in [statement["predicate"] for statement in statements]
    # Another key has not signed the image.
    signer.run("rm", "cosign.key", "cosign.pub")
    signer.run("cosign", "generate-key-pair")
    signer.verify("verify", code=1)
