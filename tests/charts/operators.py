"""Custom resource definitions of the operators whose kinds the chart renders."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

# By kind: the module of tests/charts/crds/go.mod that contains the definition, and the file there.
OPERATOR_KINDS = {
    "HTTPRoute": ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    "ScaledObject": ("github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
} | {
    kind: (
        "github.com/prometheus-operator/prometheus-operator",
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind.lower()}s.yaml",
    )
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
}


@functools.cache
def _module_directory(path: str) -> Path:
    command = ["go", "mod", "download", "-json", path]
    done = subprocess.run(command, cwd=Path(__file__).parent / "crds", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])


def custom_resource_definition(kind: str) -> dict[str, Any]:
    """Return the definition of an operator's kind; the first use downloads its pinned Go module."""
    path, file = OPERATOR_KINDS[kind]
    definition: dict[str, Any] = yaml.load((_module_directory(path) / file).read_text(), yaml.CSafeLoader)
    return definition
