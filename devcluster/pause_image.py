"""The pause image of a pod's sandbox: Debian's static busybox, asleep."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

PAUSE_IMAGE = "phi3.example/pause:1"
BUSYBOX = Path("/bin/busybox")


def pause_archive(busybox: bytes) -> bytes:
    """Return the OCI archive of an image that holds busybox only."""
    layer = _tar({"busybox": busybox}, mode=0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/busybox", "sleep", "infinity"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    kind = "application/vnd.oci.image"
    configuration = json.dumps(config).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", configuration),
            "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
        }
    ).encode()
    entry = _descriptor(f"{kind}.manifest.v1+json", manifest)
    index = {"schemaVersion": 2, "manifests": [entry | {"annotations": {"io.containerd.image.name": PAUSE_IMAGE}}]}
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, configuration, manifest)}
    return _tar(
        blobs | {"index.json": json.dumps(index).encode(), "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}, mode=0o644
    )


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()
