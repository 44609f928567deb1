"""The workflows of GitHub: the lines that they run, their order and their permissions.

tests/scripts/test_publish.py runs the scripts of a release.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.catalogue import CATALOGUE
from tests.scripts.conftest import PUBLISH_OUTPUTS, ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yaml"))


def read_jobs(name: str) -> dict[str, Any]:
    """Return the jobs of a workflow."""
    jobs: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yaml").read_text())["jobs"]
    return jobs


def run_lines() -> Iterator[str]:
    """Yield the text of every step that runs a command."""
    for path in WORKFLOWS:
        for job in read_jobs(path.stem).values():
            yield from (step["run"] for step in job.get("steps", []) if "run" in step)


def test_every_script_that_a_workflow_runs_exists() -> None:
    scripts = set(re.findall(r"\bscripts/[\w-]+", "\n".join(run_lines())))
    assert {"scripts/ci", "scripts/publish", "scripts/sign", "scripts/lock", "scripts/version"} <= scripts
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script


def test_every_output_that_a_workflow_reads_is_written_by_publish() -> None:
    content = "\n".join(path.read_text() for path in WORKFLOWS)
    publish_steps = set(re.findall(r"id: (\w+)\n +run: scripts/publish ", content))
    assert publish_steps
    for step, output in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", content):
        assert step not in publish_steps or output in PUBLISH_OUTPUTS, f"{step} has no output {output}"


def test_every_publish_step_sets_the_variables_of_the_script() -> None:
    found = 0
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        for job in workflow["jobs"].values():
            for step in job.get("steps", []):
                if str(step.get("run", "")).startswith("scripts/publish"):
                    found += 1
                    variables = workflow.get("env", {}) | job.get("env", {}) | step.get("env", {})
                    needed = {"OWNER", "REGISTRY"} | ({"MODEL", "RUNTIME"} if "$MODEL" in step["run"] else set())
                    assert needed <= set(variables), f"{path.name}: {step['run']}"
    assert found == 3


def test_the_images_workflow_names_every_model_of_the_catalogue() -> None:
    assert f"scripts/lock {' '.join(CATALOGUE)}" in run_lines()
    assert read_jobs("images")["publish"]["strategy"]["matrix"]["model"] == list(CATALOGUE)


def test_a_release_checks_the_version_then_publishes_the_images_then_the_chart() -> None:
    jobs = read_jobs("release")
    assert (jobs["images"]["needs"], jobs["chart"]["needs"]) == ("version", "images")
    granted = jobs["images"]["permissions"]
    for job in read_jobs("images").values():
        assert job.get("permissions", {}).items() <= granted.items()


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_actions_are_pinned_and_write_permissions_have_a_reason(path: Path) -> None:
    content = path.read_text()
    assert path in ACTIONS or yaml.safe_load(content)["permissions"] == {"contents": "read"}
    for line in content.splitlines():
        if " uses: " in line and "./" not in line:
            assert len(line.split("@")[1].split(" # v")[0]) == 40, line
        if line.endswith(": write") or ": write #" in line:
            assert " # " in line, f"{line} needs a reason"
