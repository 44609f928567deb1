"""LoRA adapters from images that are mounted beside the server's, as Kubernetes 1.36 does."""

import io
import json
import tarfile
from pathlib import Path

import peft
import pytest
import torch
from transformers import Phi3ForCausalLM

from images.reference import Reference, parse
from images.store import CONFIG, LAYER, MANIFEST, Manifest, digest_of, dump, put
from tests.cluster.cluster import RELEASE, ROOT, Namespace


@pytest.fixture
def adapter(demo: Path, tmp_path: Path) -> Path:
    """The folder of an adapter for the demo model that changes next to nothing."""
    torch.manual_seed(0)
    base = Phi3ForCausalLM.from_pretrained(demo, dtype=torch.bfloat16)
    trained = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["o_proj"]))
    trained.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def publish(folder: Path, target: Reference) -> None:
    """Push an image of one layer that holds the files of a folder in /data."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in sorted(folder.iterdir()):
            entry = archive.gettarinfo(file, f"data/{file.name}")
            entry.mode = 0o644  # PEFT lets the owner alone read them
            with file.open("rb") as opened:
                archive.addfile(entry, opened)
    layer = content.getvalue()
    config = dump(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": put(target.store, config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": put(target.store, layer), "size": len(layer)}],
    }
    target.store.tag(target.tag, Manifest(dump(manifest), MANIFEST))


def test_an_adapter_comes_from_an_image_and_is_merged(adapter: Path, namespace: Namespace) -> None:
    cluster = namespace.cluster
    assert cluster.kubeconfig.parent == ROOT / ".cluster", "an image is pushed to the registry of scripts/cluster alone"
    image = f"{cluster.registry}/adapters/plain:1"
    publish(adapter, parse(image, plain_http=True))
    namespace.install(values={"model": "demo", "adapters": {"plain": {"image": image, "path": "data", "weight": 0.5}}})
    path = f"/api/v1/namespaces/{namespace.name}/services/{RELEASE}:http/proxy/v1/models"
    (card,) = json.loads(cluster.kubectl("get", "--raw", path))["data"]
    assert card["adapters"] == {"plain": 0.5}
    assert "The capital of France is Paris." in namespace.helm("test", RELEASE, "--logs")
