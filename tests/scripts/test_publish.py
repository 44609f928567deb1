"""scripts/publish, as the release workflows run it."""

import subprocess
from pathlib import Path

from images import VERSION
from images.oci.reference import parse_reference
from images.weights.lock import LOCK_PATH
from tests.scripts.conftest import PUBLISH_OUTPUTS, ROOT, PipelineCopy


def publish(pipeline: PipelineCopy, what: str, **environment: str) -> dict[str, str]:
    """Run scripts/publish, and return the outputs of its step, which are what it prints."""
    file = pipeline.directory / "output"
    variables = {"REGISTRY": pipeline.host, "OWNER": "Somebody", "GITHUB_OUTPUT": str(file)}
    printed = pipeline.output("publish", what, **variables, **environment)
    written = file.read_text()
    assert written == printed
    file.unlink()
    outputs = dict(line.split("=", 1) for line in written.splitlines())
    assert set(outputs) == PUBLISH_OUTPUTS
    return outputs


def test_a_model_is_published_under_owner_and_catalogue_name_with_its_sboms(pipeline: PipelineCopy) -> None:
    runtime = parse_reference(f"{pipeline.host}/runtime:1")
    manifest = runtime.store.get_manifest("1")
    assert manifest
    outputs = publish(pipeline, "mini-4k", RUNTIME=f"{pipeline.host}/runtime:1@{manifest.digest}")
    assert outputs["repository"] == f"{pipeline.host}/somebody/phi-3-mini-4k-instruct"
    assert outputs["image"] == f"{outputs['repository']}:{VERSION}"
    assert parse_reference(outputs["image"]).store.get_manifest(outputs["digest"])
    sboms = pipeline.directory / "bom"
    command: list[str | Path] = [ROOT / ".venv/bin/python", "-m", "images", "bom"]
    name = f"{outputs['repository']}@{outputs['digest']}"
    subprocess.run([*command, name, sboms], cwd=pipeline.directory, env=pipeline.environment, check=True)
    assert {path.name for path in sboms.iterdir()} == {"runtime.cdx.json", "weights.cdx.json"}


def test_the_chart_is_published_at_the_version_of_its_tag(pipeline: PipelineCopy) -> None:
    (pipeline.directory / "CHANGELOG.md").write_text(f"## [{VERSION}]\n\n### Added\n\n- All.\n")
    assert pipeline.output("version", "--tag", f"v{VERSION}") == f"{VERSION}\n"
    outputs = publish(pipeline, "chart")
    assert outputs["repository"] == f"{pipeline.host}/somebody/charts/phi3"
    helm, address = str(ROOT / ".tools/bin/helm"), f"oci://{outputs['repository']}@{outputs['digest']}"
    shown = subprocess.run([helm, "show", "chart", address, "--plain-http"], capture_output=True, text=True, check=True)
    assert f"version: {VERSION}\n" in shown.stdout


def test_the_lock_of_a_model_is_written_again_from_the_hub(pipeline: PipelineCopy) -> None:
    pipeline.output("lock", "mini-4k")
    assert (pipeline.directory / "images" / LOCK_PATH.name).read_text() != LOCK_PATH.read_text()
