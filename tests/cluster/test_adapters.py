"""LoRA adapters from image volumes, which require Kubernetes 1.36."""

import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import Phi3ForCausalLM

from images.oci.reference import parse_reference
from tests.cluster.cluster import RELEASE, ROOT, Namespace
from tools.harness.images import push_runtime, tar_archive


@pytest.fixture
def adapter(demo: Path, tmp_path: Path) -> Path:
    """Return the directory of an adapter that hardly changes the demo model."""
    torch.manual_seed(0)
    base = Phi3ForCausalLM.from_pretrained(demo, dtype=torch.bfloat16)
    trained = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["o_proj"]))
    trained.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_server_merges_an_adapter_from_an_image(adapter: Path, namespace: Namespace) -> None:
    cluster = namespace.cluster
    assert cluster.kubeconfig.parent == ROOT / ".cluster", (
        "this test pushes an image to the registry of scripts/cluster"
    )
    image = f"{cluster.registry}/adapters/plain:1"
    target = parse_reference(image, plain_http=True)
    # PEFT makes the files readable only by their owner; in the archive, everyone can read them.
    files = {f"data/{file.name}": file.read_bytes() for file in adapter.iterdir()}
    push_runtime(target.store, target.tag, layers=[tar_archive(files)])
    namespace.install(values={"model": "demo", "adapters": {"plain": {"image": image, "path": "data", "weight": 0.5}}})
    path = f"/api/v1/namespaces/{namespace.name}/services/{RELEASE}:http/proxy/v1/models"
    (card,) = json.loads(cluster.kubectl("get", "--raw", path))["data"]
    assert card["adapters"] == {"plain": 0.5}
    assert "The capital of France is Paris." in namespace.helm("test", RELEASE, "--logs")
