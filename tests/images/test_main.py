"""The command line."""

import hashlib
import json
from pathlib import Path

import pytest

from checkpoints.catalogue import CatalogueModel
from images.__main__ import main
from images.oci.digest import digest_of
from images.oci.reference import parse_reference
from tests.support.hub import Hub
from tests.support.repository import SHARDS
from tools.harness.images import push_runtime, tar_archive


def test_verbs_make_and_verify_an_image(
    hub: Hub, model: CatalogueModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, name, base = ["--lock", str(tmp_path / "lock.json")], f"oci:{tmp_path}/image:1", f"oci:{tmp_path}/base:1"
    push_runtime(parse_reference(base).store)
    assert main(["lock", model.name, *lock]) == 0
    assert main(["lock", model.name, "--check", *lock]) == 0
    assert main(["weights", model.name, name, *lock]) == 0
    assert capsys.readouterr().out == f"oci:{tmp_path}/image:weights-mini-4k-{hub.revision[:12]}\n"
    assert main(["compose", model.name, name, "--runtime", base, *lock]) == 0
    composed = capsys.readouterr().out
    assert main(["verify", name, *lock]) == 0
    manifest = parse_reference(name).store.get_manifest("1")
    assert manifest
    assert composed == f"{name}@{digest_of(manifest.body)}\n"
    assert capsys.readouterr().out == f"oci:{tmp_path}/image@{digest_of(manifest.body)}\n"
    assert main(["bom", name, str(tmp_path / "bom")]) == 0
    paths = [tmp_path / "bom" / f"{part}.cdx.json" for part in ("runtime", "weights")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    subjects = [json.loads(path.read_text())["metadata"]["component"]["name"] for path in paths]
    assert subjects == ["phi-3-runtime", model.repository]
    assert main(["bom", base, str(tmp_path / "none")]) == 1
    assert "has no SBOM: publish it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_lock_check_fails_if_the_hub_differs(
    hub: Hub, model: CatalogueModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = ["--lock", str(tmp_path / "lock.json")]
    assert main(["lock", model.name, *lock]) == 0
    (hub.directory / "LICENSE").write_text("another")
    assert main(["lock", model.name, "--check", *lock]) == 1
    assert "error: mini-4k in" in capsys.readouterr().err
    hub.requests.clear()
    assert main(["lock", model.name, "--missing", *lock]) == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lock", "phi-4"], "there is no model 'phi-4': choose demo, mini-4k, mini-128k, medium-4k, medium-128k"),
        (["lock", "demo"], "demo is on no hub"),
        (["weights", "mini-4k", "oci:x"], "has no entry for mini-4k at 0a67737cc96d2554230f90338b163bc6380a2a85"),
        (["verify", "phi3"], "'phi3' is not an image reference: write oci:DIR"),
        (["verify", "ghcr.io/Somebody/Phi3"], "in lower case"),
        (["verify", "oci:/nowhere/at/all"], "has no image"),
    ],
)
def test_mistake_is_reported_in_one_line_with_the_remedy(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--lock", str(tmp_path / "lock.json")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_directory_replaces_the_hub(tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    lock, source = ["--lock", str(tmp_path / "lock.json")], ["--folder", str(hub.directory)]
    name, base = f"oci:{tmp_path}/image:1", f"oci:{tmp_path}/base:1"
    push_runtime(parse_reference(base).store, layers=[tar_archive({"srv/app": b""})])
    assert main(["lock", "demo", *lock, *source]) == 0
    assert main(["weights", "demo", name, *lock, *source]) == 0
    assert main(["compose", "demo", name, "--runtime", base, *lock]) == 0
    assert hub.requests == []
    content = json.loads((tmp_path / "lock.json").read_text())["demo"]
    weights = {file["name"]: file["sha256"] for layer in content["layers"] for file in layer["files"]}
    for shard in SHARDS:
        assert weights[shard] == hashlib.sha256((hub.directory / shard).read_bytes()).hexdigest()
    # A directory that has changed since does not match the lock file.
    (hub.directory / "config.json").write_text("another")
    assert main(["weights", "demo", f"oci:{tmp_path}/other", *lock, *source]) == 1
    assert "config.json" in capsys.readouterr().err


def test_directory_without_weights_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = ["--lock", str(tmp_path / "lock.json")]
    assert main(["lock", "demo", "--folder", str(tmp_path), *lock]) == 1
    assert "has no *.safetensors" in capsys.readouterr().err
    assert main(["lock", "demo", "--folder", str(tmp_path / "nothing"), *lock]) == 1
    assert "cannot be read" in capsys.readouterr().err
