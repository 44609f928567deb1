"""The cluster of the tests: one of scripts/cluster with two real nodes, or that of PHI3_TEST_KUBECONFIG.

With the latter, PHI3_TEST_IMAGE names the demo image, REGISTRY/phi-3-demo:TAG@sha256:..., as its nodes pull it.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, Cluster, Namespace

NODES = 2


@pytest.fixture(scope="session")
def cluster(demo: Path) -> Iterator[Cluster]:
    """A cluster with the demo image in its registry; one that was up before stays up."""
    assert demo.is_dir()
    given = os.environ.get("PHI3_TEST_KUBECONFIG")
    if given:
        yield named(Path(given), os.environ["PHI3_TEST_IMAGE"])
        return
    was_up = subprocess.run([ROOT / "scripts/cluster", "env"], capture_output=True).returncode == 0
    subprocess.run([ROOT / "scripts/cluster", "up", f"--nodes={NODES}"], check=True)
    try:
        shown = subprocess.run([ROOT / "scripts/cluster", "env"], check=True, capture_output=True, text=True).stdout
        variables = dict(re.findall(r"^export (\w+)='?([^'\n]*)", shown, re.MULTILINE))
        bake: list[str | Path] = [ROOT / "scripts/bake", "demo", f"{variables['REGISTRY']}/phi-3-demo", "--plain-http"]
        image = subprocess.run(bake, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        yield named(Path(variables["KUBECONFIG"]), image)
    finally:
        if not was_up:
            subprocess.run([ROOT / "scripts/cluster", "down"], check=True)


def named(kubeconfig: Path, image: str) -> Cluster:
    """Return a cluster whose demo image has a name."""
    found = re.fullmatch(r"(.+)/phi-3-demo:([^@]+)@(sha256:[0-9a-f]{64})", image)
    assert found, f"{image!r} is not REGISTRY/phi-3-demo:TAG@sha256:..."
    return Cluster(kubeconfig, *found.groups())


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace that admits restricted pods alone, named after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:50].strip("-")
    with cluster.namespace(name) as made:
        yield made
