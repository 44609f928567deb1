"""A copy of the repository's image pipeline, with a hub and a registry on this machine."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import get_model
from images.oci.reference import parse_reference
from tests.support.hub import Hub
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import push_runtime
from tools.harness.registry import registry

ROOT = Path(__file__).parents[2]
MODEL = get_model("mini-4k")
# The outputs that scripts/publish writes for the later steps of a workflow.
PUBLISH_OUTPUTS = {"image", "repository", "digest"}


class PipelineCopy:
    """The files of the pipeline in `directory`, with the virtual environment of this repository.

    The registry at `host` holds a runtime image, `runtime:1`.
    """

    def __init__(self, directory: Path, hub: str, host: str) -> None:
        self.directory, self.host = directory, host
        for name in ("charts", "checkpoints", "images", "phi3", "requirements", "scripts", "tools"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "CHANGELOG.md", "app/__init__.py"):
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
        (directory / ".tools").symlink_to(ROOT / ".tools")
        (directory / ".venv").symlink_to(ROOT / ".venv")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "HF_ENDPOINT": hub}

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script from another directory."""
        return subprocess.run(
            [self.directory / "scripts" / script, *arguments],
            cwd=self.directory.parent,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, script: str, *arguments: str, **environment: str) -> str:
        """Run a script, which must succeed, and return its output."""
        done = self.run(script, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[PipelineCopy]:
    """A copy of the pipeline, whose hub has mini-4k."""
    with (
        Hub(write_repository(tmp_path / "repository", SHARDS), MODEL.repository, MODEL.revision) as hub,
        registry(tmp_path / "registry") as host,
    ):
        push_runtime(parse_reference(f"{host}/runtime:1").store)
        yield PipelineCopy(tmp_path / "phi3", hub.url, host)
