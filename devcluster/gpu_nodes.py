"""Simulated GPU nodes: real nodes that claim to have a GPU, and nodes that exist only in kwok."""

from devcluster.layout import node_name

# MiB of each GPU, as NVIDIA's GPU feature discovery reports them.
MEMORY_MIB = {"T4": 15360, "A10": 23028, "A100": 40960, "H100": 81559}
PRODUCT = {"T4": "Tesla-T4", "A10": "NVIDIA-A10", "A100": "NVIDIA-A100-SXM4-40GB", "H100": "NVIDIA-H100-80GB-HBM3"}
GPU_OF_REAL_NODES = "T4"


def gpu_labels(gpu: str) -> dict[str, str]:
    """Return the labels that GPU feature discovery sets on a node."""
    return {"nvidia.com/gpu.memory": str(MEMORY_MIB[gpu]), "nvidia.com/gpu.product": PRODUCT[gpu]}


def status_patches(nodes: int) -> dict[str, dict[str, object]]:
    """Return a patch for the status of each real node, keyed by its name; it adds a GPU."""
    gpus = {"nvidia.com/gpu": "1"}
    return {node_name(number): {"status": {"capacity": gpus, "allocatable": gpus}} for number in range(1, nodes + 1)}


def kwok_nodes() -> dict[str, object]:
    """Return a List of the nodes that kwok simulates, one for each GPU, tainted so that only GPU pods go there."""
    resources = {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "500Gi", "nvidia.com/gpu": "1"}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"kwok-{gpu.lower()}",
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": gpu_labels(gpu) | {"kubernetes.io/hostname": f"kwok-{gpu.lower()}", "type": "kwok"},
            },
            "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
            "status": {"capacity": resources, "allocatable": resources},
        }
        for gpu in MEMORY_MIB
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}
