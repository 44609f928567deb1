"""The scripts that lock, bake and publish, on a copy of the repository, with a hub and a registry on this machine."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE, get_model
from images import VERSION
from images.oci.reference import parse_reference
from tests.support.hub import Hub
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import push_runtime
from tools.harness.registry import registry

ROOT = Path(__file__).parents[2]
MODEL = get_model("mini-4k")


class Copy:
    """The repository's pipeline, copied, with `.venv` as it is here."""

    def __init__(self, folder: Path, hub: str, host: str) -> None:
        self.folder, self.host = folder, host
        for name in ("checkpoints", "images", "phi3", "requirements", "scripts", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "charts", folder / "charts")
        for name in ("pyproject.toml", "CHANGELOG.md", "app/__init__.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        (folder / ".tools").symlink_to(ROOT / ".tools")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": hub}

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script."""
        return subprocess.run(
            [self.folder / "scripts" / script, *arguments],
            cwd=self.folder.parent,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, script: str, *arguments: str, **environment: str) -> str:
        """Run a script and return what it prints."""
        done = self.run(script, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    with (
        Hub(write_repository(tmp_path / "repository", SHARDS), MODEL.repository, MODEL.revision) as hub,
        registry(tmp_path / "registry") as host,
    ):
        push_runtime(parse_reference(f"{host}/runtime:1").store)
        yield Copy(tmp_path / "phi3", hub.url, host)


def test_bake_locks_first_where_there_is_no_entry_and_prints_the_image(copy: Copy) -> None:
    name = f"{copy.host}/phi-3-mini-4k-instruct"
    first = copy.output("bake", "mini-4k", name, "--runtime", f"{copy.host}/runtime:1")
    assert first.startswith(f"{name}:{VERSION}@sha256:")
    lock = json.loads((copy.folder / "images/weights.lock.json").read_text())
    assert len(lock["mini-4k"]["layers"]) == 3
    assert set(lock) == set(CATALOGUE)
    again = copy.run("bake", "mini-4k", name, "--runtime", f"{copy.host}/runtime:1")
    assert again.stdout == first
    assert "hashed" not in again.stderr
    assert "all 3 layers are stored" in again.stderr
    assert "; 0 bytes sent" in again.stderr


def test_lock_writes_the_lock_and_checks_it(copy: Copy) -> None:
    copy.output("lock", "mini-4k")
    copy.output("lock", "--check", "mini-4k")
    assert copy.run("lock", "mini-4k", "medium-4k").returncode == 1


@pytest.mark.parametrize("script", ["lock", "bake", "publish"])
def test_without_arguments_they_say_how_to_use_them(script: str) -> None:
    command = [ROOT / "scripts" / script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"scripts/{script}: usage: scripts/{script} ")
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"usage: scripts/{script} ")
