"""A real cluster with kubectl, Helm, and namespaces that admit only restricted pods."""

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
    """A cluster, and the demo image in a registry that its nodes can reach."""

    kubeconfig: Path
    registry: str
    tag: str
    digest: str

    @property
    def image(self) -> str:
        """The reference of the demo image, by tag."""
        return f"{self.registry}/phi-3-demo:{self.tag}"

    def kubectl(self, *arguments: str, stdin: object = None, check: bool = True) -> str:
        """Run kubectl with an object as JSON on standard input, and return its output."""
        done = subprocess.run(
            [program("kubernetes").parent / "kubectl", "--kubeconfig", self.kubeconfig, *arguments],
            input=json.dumps(stdin) if stdin is not None else None,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: Manifest) -> None:
        """Create or update objects."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=object_list(objects))

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
        """Create a namespace that admits only restricted pods, and delete it at the end of the `with` block."""
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

    def kubectl(self, *arguments: str, stdin: object = None, check: bool = True) -> str:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, stdin=stdin, check=check)

    def apply(self, *objects: Manifest) -> None:
        """Create or update objects in this namespace."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=object_list(objects))

    def get(self, *arguments: str) -> list[Manifest]:
        """Return the objects of a kind, or the one with a name; an empty list if there is none."""
        found: Manifest = json.loads(self.kubectl("get", *arguments, "--output=json", "--ignore-not-found") or "{}")
        return list(found.get("items", [found] if found else []))

    def helm(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Run Helm in this namespace."""
        return self.cluster.helm(*arguments, "--namespace", self.name, values=values)

    def install(self, *flags: str | Path, values: Mapping[str, Any] | None = None) -> str:
        """Install or upgrade the chart with the demo image, and wait until it is ready."""
        image = {"registry": self.cluster.registry, "tag": self.cluster.tag, "digest": self.cluster.digest}
        settings = [f"--set-string=image.{key}={value}" for key, value in image.items()]
        wait = ["--wait", f"--timeout={WAIT_SECONDS}s"]
        return self.helm("upgrade", "--install", RELEASE, CHART, *settings, *wait, *flags, values=values)

    def servers(self) -> list[Manifest]:
        """Return the pods of the servers."""
        return self.get("pods", "--selector=app.kubernetes.io/component=server")


def object_list(objects: tuple[Manifest, ...]) -> Manifest:
    """Return a Kubernetes List of objects."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def wait_until(condition: Callable[[], bool], failure: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition is true; fail with a message after `seconds`."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, failure
        time.sleep(0.5)


__all__ = ["CHART", "RELEASE", "ROOT", "Cluster", "Manifest", "Namespace", "object_list", "wait_until"]
