"""Real Helm: the objects that the chart renders for given values, cached."""

import copy
import functools
import json
import os
import subprocess
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/phi3"
Values = Mapping[str, Any]
Manifest = dict[str, Any]


class StrictLoader(yaml.CSafeLoader):
    """YAML loader that rejects duplicate keys, as an API server does."""


def _map(loader: StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"duplicate key among {keys}{node.start_mark}"
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _map)


@functools.cache
def program(name: str) -> Path:
    """Return the path of a pinned tool of tools/go; the first use builds it."""
    subprocess.run([ROOT / "scripts/tools", name], check=True)
    return ROOT / ".tools/bin" / name


def helm(*arguments: str | Path, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm without a cluster."""
    more = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [program("helm"), *arguments, *more],
        input=json.dumps(values),
        # Without garbage collection, the short-lived process runs faster.
        env=os.environ | {"KUBECONFIG": os.devnull, "GOGC": "off"},
        capture_output=True,
        text=True,
    )


@functools.cache
def _template(values: str, release: str, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return helm("template", release, CHART, "--namespace", "models", *flags, values=json.loads(values))


def template(values: Values, *flags: str, release: str = "phi3") -> subprocess.CompletedProcess[str]:
    """Run `helm template`, or return the cached result of an equal call."""
    return _template(json.dumps(values), release, flags)


def text(values: Values, *flags: str, release: str = "phi3") -> str:
    """Return the manifests that the chart renders, as text."""
    done = template(values, *flags, release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values: Values, *flags: str, release: str = "phi3") -> list[Manifest]:
    """Return the objects that the chart renders."""
    return copy.deepcopy(_parsed(text(values, *flags, release=release)))


@functools.cache
def _parsed(rendered: str) -> list[Manifest]:
    return [document for document in yaml.load_all(rendered, StrictLoader) if document]


def failure(values: Values, *flags: str, release: str = "phi3") -> str:
    """Return the error message for values that the chart rejects."""
    done = template(values, *flags, release=release)
    assert done.returncode != 0, "the chart accepted the values"
    return done.stderr


def one(kind: str, values: Values, *flags: str, release: str = "phi3") -> Manifest:
    """Return the only object of a kind that the chart renders."""
    (found,) = (manifest for manifest in render(values, *flags, release=release) if manifest["kind"] == kind)
    return found


def pod(values: Values, *flags: str) -> dict[str, Any]:
    """Return the spec of the server's pods."""
    spec: dict[str, Any] = one("Deployment", values, *flags)["spec"]["template"]["spec"]
    return spec


def server(values: Values, *flags: str) -> dict[str, Any]:
    """Return the server's container."""
    (container,) = pod(values, *flags)["containers"]
    assert isinstance(container, dict)
    return container


def environment(values: Values) -> dict[str, Any]:
    """Return the values of the server's environment variables; None for those from a reference."""
    return {variable["name"]: variable.get("value") for variable in server(values)["env"]}


def defaults() -> dict[str, Any]:
    """Return the default values."""
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


MODELS = list(defaults()["models"])
GPU_MODELS = [name for name in MODELS if name != "demo"]
