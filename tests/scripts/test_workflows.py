"""What the workflows run: each line that can run here is run here, or by the test that is named."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.catalogue import CATALOGUE
from images import VERSION
from images.oci.reference import parse_reference
from images.weights.lock import LOCK_PATH
from tests.scripts.test_bake import ROOT, Copy, copy

__all__ = ["copy"]

FOLDER = ROOT / ".github/workflows"
ELSEWHERE = {
    "scripts/test": ".ci/run",
    "scripts/lint": ".ci/run",
    "scripts/chart-lint": "scripts/lint",
    "scripts/test tests/charts": "scripts/test",
    "scripts/tools helm ct": ".ci/run",
    "scripts/setup images": "tests/scripts/test_setup.py",
    "scripts/publish runtime": "tests/images/test_bake_demo.py, which builds the same image into a folder",
    'scripts/sign "$IMAGE"': "tests/images/test_sign.py",
    'cosign sign --yes "$CHART"': "tests/images/test_sign.py",
}
"""Lines that another test, or what runs the tests, runs; some take minutes."""
NOT_HERE = {
    "docker": "there is no Docker engine",
    "kind": "there is no kind",
    "ct install": "there is no cluster; tests/cluster installs the chart on one",
    "kubectl": "there is no cluster",
    "sudo": "it changes a runner's disk",
    "GITHUB_PATH": "it is for a runner",
    "git describe": "no version is released",
    "git diff": "it shows what the line before it has written",
}
"""What a line has that cannot run here."""
VALUES = {
    "matrix.model": "mini-4k",
    "github.actor": "somebody",
    "github.repository_owner": "Somebody",
    "secrets.GITHUB_TOKEN": "",
}


def steps() -> Iterator[dict[str, Any]]:
    """Every step of every workflow that runs something."""
    for path in sorted(FOLDER.glob("*.yaml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            yield from (step for step in job.get("steps", []) if "run" in step)


def here() -> list[dict[str, Any]]:
    """The steps that are run below."""
    lines = [step for step in steps() if step["run"] not in ELSEWHERE]
    return [step for step in lines if not any(mark in step["run"] for mark in NOT_HERE)]


def run(step: dict[str, Any], copy: Copy, **values: str) -> str:
    """Run a step as a runner does, with what its expressions stand for, and return what it prints."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(copy.folder), "HF_ENDPOINT": copy.environment["HF_ENDPOINT"]}
    for name, text in step.get("env", {}).items():
        for expression, value in (VALUES | values).items():
            text = text.replace("${{ " + expression + " }}", value)
        assert "${{" not in text, f"what does {text} stand for?"
        environment[name] = text.replace("ghcr.io", copy.host)
    environment |= {"REGISTRY": copy.host, "GITHUB_REF_NAME": f"v{VERSION}"}
    environment["GITHUB_OUTPUT"] = str(copy.folder / "output")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=copy.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def the(line: str) -> dict[str, Any]:
    """The step that runs a line."""
    found = [step for step in here() if step["run"] == line]
    assert found, f"no workflow runs {line}"
    return found[0]


def test_every_line_is_run_by_a_test_or_cannot_be() -> None:
    tested = {
        'scripts/publish "$MODEL"',
        "scripts/publish chart",
        'scripts/version --tag "$GITHUB_REF_NAME"',
        '.venv/bin/python -m images bom "$IMAGE" bom',
        f"scripts/lock {' '.join(CATALOGUE)}",
    }
    assert {step["run"] for step in here()} == tested
    assert set(ELSEWHERE) <= {step["run"] for step in steps()}


def outputs(copy: Copy, printed: str) -> dict[str, str]:
    """What a step hands on, which is what it prints."""
    written = (copy.folder / "output").read_text()
    assert written == printed
    (copy.folder / "output").unlink()
    return dict(line.split("=", 1) for line in written.splitlines())


def test_a_model_is_published_by_owner_and_catalogue_and_its_bill_of_materials_read(copy: Copy) -> None:
    runtime = parse_reference(f"{copy.host}/runtime:1")
    manifest = runtime.store.get_manifest("1")
    assert manifest
    values = {"needs.runtime.outputs.image": f"{copy.host}/runtime:1", "needs.runtime.outputs.digest": manifest.digest}
    found = outputs(copy, run(the('scripts/publish "$MODEL"'), copy, **values))
    assert found["repository"] == f"{copy.host}/somebody/phi-3-mini-4k-instruct"
    assert found["image"] == f"{found['repository']}:{VERSION}"
    assert parse_reference(found["image"]).store.get_manifest(found["digest"])
    handed_on = {f"steps.build.outputs.{name}": value for name, value in found.items()}
    run(the('.venv/bin/python -m images bom "$IMAGE" bom'), copy, **handed_on)
    assert {path.name for path in (copy.folder / "bom").iterdir()} == {"runtime.cdx.json", "weights.cdx.json"}


def test_the_chart_is_published_at_the_version_of_its_tag(copy: Copy) -> None:
    (copy.folder / "CHANGELOG.md").write_text(f"## [{VERSION}]\n\n### Added\n\n- All.\n")
    assert run(the('scripts/version --tag "$GITHUB_REF_NAME"'), copy) == f"{VERSION}\n"
    found = outputs(copy, run(the("scripts/publish chart"), copy))
    assert found["repository"] == f"{copy.host}/somebody/charts/phi3"
    helm, address = str(ROOT / ".tools/bin/helm"), f"oci://{found['repository']}@{found['digest']}"
    shown = subprocess.run([helm, "show", "chart", address, "--plain-http"], capture_output=True, text=True, check=True)
    assert f"version: {VERSION}\n" in shown.stdout


def test_the_lock_is_completed_for_every_model(copy: Copy) -> None:
    # The hub here has one of them, and a lock is written model by model.
    step = the(f"scripts/lock {' '.join(CATALOGUE)}")
    run(step | {"run": "scripts/lock mini-4k"}, copy)
    assert (copy.folder / "images" / LOCK_PATH.name).read_text() != LOCK_PATH.read_text()
    images = yaml.safe_load((FOLDER / "images.yaml").read_text())["jobs"]
    assert images["publish"]["strategy"]["matrix"]["model"] == list(CATALOGUE)


def test_a_release_is_its_version_s_then_images_then_the_chart() -> None:
    jobs = yaml.safe_load((FOLDER / "release.yaml").read_text())["jobs"]
    assert (jobs["images"]["needs"], jobs["chart"]["needs"]) == ("version", "images")
    granted = jobs["images"]["permissions"]
    for job in yaml.safe_load((FOLDER / "images.yaml").read_text())["jobs"].values():
        assert job.get("permissions", {}).items() <= granted.items()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_have_a_reason(path: Path) -> None:
    content = path.read_text()
    assert yaml.safe_load(content)["permissions"] == {"contents": "read"}
    for line in content.splitlines():
        if " uses: " in line and "./" not in line:
            assert len(line.split("@")[1].split(" # v")[0]) == 40, line
        if line.endswith(": write") or ": write #" in line:
            assert " # " in line, f"{line} needs a reason"
