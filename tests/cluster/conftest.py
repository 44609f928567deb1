"""The cluster under test: that of PHI3_TEST_KUBECONFIG, or one of scripts/cluster with two real nodes.

With PHI3_TEST_KUBECONFIG, PHI3_TEST_IMAGE is the demo image, REGISTRY/phi-3-demo:TAG@sha256:..., as the nodes pull it.
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
    """Yield a cluster with the demo image in its registry; a cluster that ran before keeps running."""
    assert demo.is_dir()
    given = os.environ.get("PHI3_TEST_KUBECONFIG")
    if given:
        yield cluster_with_image(Path(given), os.environ["PHI3_TEST_IMAGE"])
        return
    was_up = subprocess.run([ROOT / "scripts/cluster", "env"], capture_output=True).returncode == 0
    subprocess.run([ROOT / "scripts/cluster", "up", f"--nodes={NODES}"], check=True)
    try:
        shown = subprocess.run([ROOT / "scripts/cluster", "env"], check=True, capture_output=True, text=True).stdout
        variables = dict(re.findall(r"^export (\w+)='?([^'\n]*)", shown, re.MULTILINE))
        bake: list[str | Path] = [ROOT / "scripts/bake", "demo", f"{variables['REGISTRY']}/phi-3-demo", "--plain-http"]
        image = subprocess.run(bake, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        yield cluster_with_image(Path(variables["KUBECONFIG"]), image)
    finally:
        if not was_up:
            subprocess.run([ROOT / "scripts/cluster", "down"], check=True)


def cluster_with_image(kubeconfig: Path, image: str) -> Cluster:
    """Return a cluster whose demo image has a reference."""
    found = re.fullmatch(r"(.+)/phi-3-demo:([^@]+)@(sha256:[0-9a-f]{64})", image)
    assert found, f"{image!r} does not have the form REGISTRY/phi-3-demo:TAG@sha256:..."
    return Cluster(kubeconfig, *found.groups())


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Yield a namespace that is named after the test and admits only restricted pods."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:50].strip("-")
    with cluster.namespace(name) as created:
        yield created
