"""scripts/bake and scripts/lock."""

import json
import subprocess

import pytest

from checkpoints.catalogue import CATALOGUE
from images import VERSION
from tests.scripts.conftest import ROOT, PipelineCopy


def test_bake_locks_a_model_that_has_no_entry_and_prints_the_image(pipeline: PipelineCopy) -> None:
    name = f"{pipeline.host}/phi-3-mini-4k-instruct"
    first = pipeline.output("bake", "mini-4k", name, "--runtime", f"{pipeline.host}/runtime:1")
    assert first.startswith(f"{name}:{VERSION}@sha256:")
    lock = json.loads((pipeline.directory / "images/weights.lock.json").read_text())
    assert len(lock["mini-4k"]["layers"]) == 3
    assert set(lock) == set(CATALOGUE)
    again = pipeline.run("bake", "mini-4k", name, "--runtime", f"{pipeline.host}/runtime:1")
    assert again.stdout == first
    assert "hashed" not in again.stderr
    assert "all 3 layers are stored" in again.stderr
    assert "; 0 bytes sent" in again.stderr


def test_lock_writes_the_lock_and_checks_it(pipeline: PipelineCopy) -> None:
    pipeline.output("lock", "mini-4k")
    pipeline.output("lock", "--check", "mini-4k")
    assert pipeline.run("lock", "mini-4k", "medium-4k").returncode == 1


@pytest.mark.parametrize("script", ["lock", "bake", "publish"])
def test_a_script_without_arguments_prints_its_usage(script: str) -> None:
    command = [ROOT / "scripts" / script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"scripts/{script}: usage: scripts/{script} ")
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"usage: scripts/{script} ")
