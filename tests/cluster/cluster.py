"""A real cluster, and what tests do with it: kubectl, Helm, and namespaces that admit restricted pods alone."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.charts.helm import CHART, ROOT, program

Manifest = dict[str, Any]
RESTRICTED = "pod-security.kubernetes.io/enforce"
RELEASE = "phi3"
WAIT_SECONDS = 300


@dataclass(frozen=True)
class Cluster:
    """A cluster that `kubeconfig` leads to, and the demo image in a registry that its nodes reach."""

    kubeconfig: Path
    registry: str
    tag: str
    digest: str

    @property
    def image(self) -> str:
        """The demo image by its tag."""
        return f"{self.registry}/phi-3-demo:{self.tag}"

    def kubectl(self, *arguments: str, given: object = None, check: bool = True) -> str:
        """Run kubectl with objects on its standard input, and return its output."""
        done = subprocess.run(
            [program("kubernetes").parent / "kubectl", "--kubeconfig", self.kubeconfig, *arguments],
            input=json.dumps(given) if given is not None else None,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: Manifest) -> None:
        """Create objects, or change them."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=listed(objects))

    def helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run Helm, and return its output."""
        done = subprocess.run(
            [program("helm"), *arguments, "--kubeconfig", self.kubeconfig, *(["--values=-"] if values else [])],
            input=yaml.safe_dump(dict(values)) if values else None,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def namespace(self, name: str) -> Iterator["Namespace"]:
        """Make a namespace that admits restricted pods alone, for the time of a `with` block."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=true")
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {RESTRICTED: "restricted"}}}
        )
        try:
            yield Namespace(self, name)
        finally:
            self.kubectl("delete", "namespace", name, "--wait=true", check=False)


@dataclass(frozen=True)
class Namespace:
    """A namespace of a cluster."""

    cluster: Cluster
    name: str

    def kubectl(self, *arguments: str, given: object = None, check: bool = True) -> str:
        """Run kubectl here."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, given=given, check=check)

    def apply(self, *objects: Manifest) -> None:
        """Create objects here, or change them."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=listed(objects))

    def get(self, *arguments: str) -> list[Manifest]:
        """Return objects by kind, or by kind and name."""
        found: Manifest = json.loads(self.kubectl("get", *arguments, "--output=json", "--ignore-not-found") or "{}")
        return list(found.get("items", [found] if found else []))

    def helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run Helm here."""
        return self.cluster.helm(*arguments, "--namespace", self.name, values=values)

    def install(self, *flags: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Install the chart with the demo image, or upgrade it, and wait until it is ready."""
        image = {"registry": self.cluster.registry, "tag": self.cluster.tag, "digest": self.cluster.digest}
        own = [f"--set-string=image.{key}={value}" for key, value in image.items()]
        wait = ["--wait", f"--timeout={WAIT_SECONDS}s"]
        return self.helm("upgrade", "--install", RELEASE, CHART, *own, *wait, *flags, values=values)

    def servers(self) -> list[Manifest]:
        """Return the server's pods."""
        return self.get("pods", "--selector=app.kubernetes.io/component=server")


def listed(objects: tuple[Manifest, ...]) -> Manifest:
    """Return a list of objects, as one."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def wait(done: Callable[[], bool], otherwise: str, seconds: float = WAIT_SECONDS) -> float:
    """Wait for something to be true, and return the seconds that it took."""
    begin = time.monotonic()
    while not done():
        assert time.monotonic() - begin < seconds, otherwise
        time.sleep(0.5)
    return time.monotonic() - begin


__all__ = ["CHART", "RELEASE", "ROOT", "Cluster", "Manifest", "Namespace", "listed", "wait"]
