"""Nodes with GPUs that are none: the real ones pretend to have one, kwok plays the others."""

from _cluster.place import node_name

MEMORY = {"T4": 15360, "A10": 23028, "A100": 40960, "H100": 81559}
"""MiB of each GPU, as NVIDIA's GPU feature discovery reports them."""
PRODUCT = {"T4": "Tesla-T4", "A10": "NVIDIA-A10", "A100": "NVIDIA-A100-SXM4-40GB", "H100": "NVIDIA-H100-80GB-HBM3"}
REAL = "T4"


def labels(gpu: str) -> dict[str, str]:
    """Return the labels that GPU feature discovery gives a node."""
    return {"nvidia.com/gpu.memory": str(MEMORY[gpu]), "nvidia.com/gpu.product": PRODUCT[gpu]}


def patches(nodes: int) -> dict[str, dict[str, object]]:
    """Return what is patched into the status of each real node."""
    gpus = {"nvidia.com/gpu": "1"}
    return {node_name(number): {"status": {"capacity": gpus, "allocatable": gpus}} for number in range(1, nodes + 1)}


def played() -> dict[str, object]:
    """Return the nodes that kwok plays, one of each GPU, which only pods that tolerate GPU nodes go to."""
    resources = {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "500Gi", "nvidia.com/gpu": "1"}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"played-{gpu.lower()}",
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": labels(gpu) | {"kubernetes.io/hostname": f"played-{gpu.lower()}", "type": "kwok"},
            },
            "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
            "status": {"capacity": resources, "allocatable": resources},
        }
        for gpu in MEMORY
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}
