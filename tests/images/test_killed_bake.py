"""A complete bake, killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints.catalogue import get_model
from images.errors import ImageError
from images.oci.reference import parse_reference
from images.verify import verify_image
from images.weights.directory_source import DirectorySource
from images.weights.lock import lock_model, write_entry
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import push_runtime, tar_archive
from tools.harness.registry import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = get_model("demo")


@pytest.mark.parametrize("kind", ["registry", "layout"])
def test_bake_killed_at_ten_random_moments_leaves_no_invalid_image_and_completes(tmp_path: Path, kind: str) -> None:
    source = DirectorySource(write_repository(tmp_path / "repository", dict.fromkeys(SHARDS, 20_000_000)))
    path = tmp_path / "lock.json"
    write_entry(path, lock_model(MODEL, source, 2))
    moments = random.Random(11)  # noqa: S311 - the same moments in every run
    with registry(tmp_path / "registry") as host:
        image = parse_reference(f"{host}/killed:1" if kind == "registry" else f"oci:{tmp_path}/killed:1")
        base = parse_reference(f"{host}/killed-runtime:1")
        push_runtime(
            base.store, layers=[tar_archive({"opt/base": os.urandom(20_000_000)}), tar_archive({"srv/app": b""})]
        )
        python = f"{sys.executable} -m images"
        command = (
            f"{python} weights {MODEL.name} {image} --folder {tmp_path}/repository --lock {path} && "
            f"{python} compose {MODEL.name} {image} --runtime {base} --lock {path}"
        )

        def bake() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(["sh", "-c", command], cwd=ROOT, start_new_session=True)

        begin = time.monotonic()
        assert bake().wait() == 0
        duration = time.monotonic() - begin
        killed = complete = 0
        for number in range(10):
            # A new repository now and then, so that kills hit both steps.
            if number % 3 == 0:
                command = command.replace(str(image), f"{image.name}-{number}:1")
                image = parse_reference(f"{image.name}-{number}:1")
            with bake() as process:
                time.sleep(moments.uniform(0.2, 1) * duration)
                os.killpg(process.pid, signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
            try:
                manifest = image.store.get_manifest("1")
                complete += manifest is not None and bool(verify_image(image, path))
            except ImageError as error:  # the tag points to an invalid image
                pytest.fail(str(error))
        assert killed > 5
        assert bake().wait() == 0
        assert verify_image(image, path)[0] == MODEL.name
