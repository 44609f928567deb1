"""Placement of each model on GPU nodes, for its full context and for a smaller one."""

import functools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.charts.catalogue import CATALOGUE, min_gpu_memory_mib
from tests.cluster.cluster import CHART, Cluster, Manifest, Namespace, wait_until

# Each model with its full context and with a smaller one.
CELLS = [
    (model, context) for model, entry in CATALOGUE.items() for context in (entry["context"], entry["context"] // 8)
]
SIMULATED = "type=kwok"
GPUS = "32"
"""GPUs that each node reports during the test, so that no release takes the GPU of another one."""


@pytest.fixture(scope="module")
def gpus(cluster: Cluster) -> Iterator[dict[str, int]]:
    """Yield the GPU memory of each simulated node in MiB, in ascending order."""
    found: list[Manifest] = json.loads(cluster.kubectl("get", "nodes", f"--selector={SIMULATED}", "--output=json"))[
        "items"
    ]
    assert found, f"this test requires nodes that kwok simulates, with the label {SIMULATED}"
    gpus = {node["metadata"]["name"]: int(node["metadata"]["labels"]["nvidia.com/gpu.memory"]) for node in found}

    def set_gpu_count(count: str) -> None:
        resources = {"status": {key: {"nvidia.com/gpu": count} for key in ("capacity", "allocatable")}}
        for node in gpus:
            cluster.kubectl(
                "patch", "node", node, "--subresource=status", "--type=merge", f"-p={json.dumps(resources)}"
            )

    set_gpu_count(GPUS)
    yield dict(sorted(gpus.items(), key=lambda pair: pair[1]))
    set_gpu_count("1")


def place(namespace: Namespace, release: str, model: str, context: int, node: str = "") -> str:
    """Install a model on one node, or on any node, and return the output of Helm."""
    values = {"model": model, "maxContext": context if context < CATALOGUE[model]["context"] else 0}
    selector: dict[str, Any] = {"nodeSelector": {"type": "kwok"} | ({"kubernetes.io/hostname": node} if node else {})}
    return namespace.helm("install", release, CHART, values=values | selector)


def scheduled(namespace: Namespace, release: str) -> str | None:
    """Return the node of a release's server; "" if no node fits, None before the scheduler has decided."""
    pods = namespace.get("pods", f"--selector=app.kubernetes.io/instance={release},app.kubernetes.io/component=server")
    for pod in pods:
        for condition in pod["status"].get("conditions", []):
            if condition["type"] == "PodScheduled":
                return str(pod["spec"].get("nodeName", "")) if condition["status"] == "True" else ""
    return None


def decided(namespace: Namespace, release: str) -> bool:
    """Return whether the scheduler has decided on a release's server."""
    return scheduled(namespace, release) is not None


def test_scheduler_places_each_model_only_on_nodes_with_enough_gpu_memory(
    namespace: Namespace, gpus: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [(model, context, node) for model, context in CELLS for node in ("", *gpus)]

    def name(model: str, context: int, node: str) -> str:
        return f"{model}-{context}-{node or 'any'}"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda cell: place(namespace, name(*cell), *cell), cells))
    placed: dict[tuple[str, int, str], str] = {}
    for cell in cells:
        release = name(*cell)
        wait_until(functools.partial(decided, namespace, release), f"the scheduler has not decided on {release}")
        placed[cell] = scheduled(namespace, release) or ""

    heads = "".join(f"{f'{node} {memory}':<19}" for node, memory in gpus.items())
    lines = [f"{'model':<12}{'context':>8}{'MiB':>7}  {heads}node"]
    wrong = []
    for model, context in CELLS:
        fitting = {node for node in gpus if gpus[node] >= min_gpu_memory_mib(model, context)}
        anywhere = placed[model, context, ""]
        row = {node: placed[model, context, node] for node in gpus}
        lines.append(
            f"{model:<12}{context:>8}{min_gpu_memory_mib(model, context):>7}  "
            + "".join(f"{'yes' if row[node] else 'no':<19}" for node in gpus)
            + (anywhere or "Pending")
        )
        wrong += [(model, context, node) for node in gpus if (row[node] == node) != (node in fitting)]
        if (anywhere in fitting) != bool(fitting):
            wrong.append((model, context, ""))
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert not wrong


def test_events_and_notes_explain_why_no_node_fits(namespace: Namespace, gpus: dict[str, int]) -> None:
    small = min(gpus, key=lambda node: gpus[node])
    notes = place(namespace, "large", "medium-128k", 131072, small)
    assert f"a free GPU with at least {min_gpu_memory_mib('medium-128k', 131072)} MiB" in notes
    assert "kubectl get nodes -L nvidia.com/gpu.memory" in notes
    wait_until(lambda: scheduled(namespace, "large") == "", "the pod is not Pending")
    (event,) = namespace.get("events", "--field-selector=reason=FailedScheduling")
    assert "node(s) didn't match Pod's node affinity/selector" in str(event.get("message") or event.get("note"))
    assert [pod["status"]["phase"] for pod in namespace.servers()] == ["Pending"]
