"""Signing for real: cosign, with a key that the test makes, and a registry on this machine."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import sbom as bom
from images.catalogue import find
from images.compose import compose
from images.oci import reference
from images.oci.referrers import attached
from images.oci.store import dump
from images.weights import lock
from images.weights import push as weights
from images.weights.folder import Folder
from tests.images.conftest import SHARDS, repository
from tools.harness.images import archive, runtime
from tools.harness.registry import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = find("mini-4k")
METADATA = b"Name: flask\nVersion: 3.1.2\nLicense-Expression: BSD-3-Clause\n"


class Signer:
    """cosign with a key of its own, and an image to sign."""

    def __init__(self, folder: Path, image: str) -> None:
        self.image, self._folder = image, folder
        subprocess.run([ROOT / "scripts/tools", "cosign"], check=True)
        self._environment = os.environ | {"COSIGN_PASSWORD": "", "HOME": str(folder)}
        self._environment["PATH"] = f"{ROOT / '.tools/bin'}:{os.environ['PATH']}"
        self.run("cosign", "generate-key-pair")
        # What cosign would tell a public log; a test does not.
        (folder / "offline.json").write_bytes(
            dump({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogConfig": {}})
        )

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a command, which has to end with `code`, and return what it prints."""
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + (done.stderr if code else "")

    def sign(self) -> None:
        """Run the script."""
        flags = ("--key", "cosign.key", "--signing-config", "offline.json", "--allow-http-registry")
        self.run(ROOT / "scripts/sign", self.image, *flags)

    def verify(self, verb: str, *flags: str, code: int = 0) -> str:
        """Verify with the public key alone."""
        common = ("--key", "cosign.pub", "--insecure-ignore-tlog", "--allow-http-registry", *flags)
        return self.run("cosign", verb, *common, self.image, code=code)


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[Signer]:
    with registry(tmp_path / "registry") as host:
        source = Folder(repository(tmp_path / "repository", SHARDS))
        entry = lock.make(MODEL, source, 2)
        target, base = (reference.parse(f"{host}/{name}:1") for name in ("signed", "signed-runtime"))
        weights.push(entry, source, target.store)
        runtime(base.store, layers=[archive({"opt/flask.dist-info/METADATA": METADATA}), archive({"srv/app": b""})])
        digest = compose(entry, base, target).digest
        yield Signer(tmp_path, f"{host}/signed@{digest}")


def test_an_image_and_its_bills_of_materials_are_signed_and_another_image_is_not(signer: Signer) -> None:
    signer.verify("verify", code=10)
    signer.sign()
    assert signer.image.split("@")[1] in signer.verify("verify")
    lines = signer.verify("verify-attestation", "--type", "cyclonedx").splitlines()
    envelopes = [json.loads(line) for line in lines if line.startswith("{")]
    statements = [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
    image = reference.parse(signer.image)
    documents = [attached(image.store, image.tag, bom.MEDIA_TYPE, title) for title in (bom.RUNTIME, bom.WEIGHTS)]
    for document in documents:
        assert document
        assert json.loads(document) in [statement["predicate"] for statement in statements]
    # Those who hold another key have not signed it.
    signer.run("rm", "cosign.key", "cosign.pub")
    signer.run("cosign", "generate-key-pair")
    signer.verify("verify", code=1)
