"""A whole bake that is killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from images.catalogue import find
from images.errors import ImageError
from images.oci import reference
from images.verify import verify
from images.weights import lock
from images.weights.folder import Folder
from tests.images.conftest import SHARDS, repository
from tools.harness.images import archive, runtime
from tools.harness.registry import registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = find("demo")


@pytest.mark.parametrize("kind", ["registry", "layout"])
def test_killed_at_ten_random_moments_a_bake_never_leaves_a_wrong_image_and_completes(
    tmp_path: Path, kind: str
) -> None:
    source = Folder(repository(tmp_path / "repository", dict.fromkeys(SHARDS, 20_000_000)))
    path = tmp_path / "lock.json"
    lock.write(path, lock.make(MODEL, source, 2))
    moments = random.Random(11)  # noqa: S311 - the same moments in every run
    with registry(tmp_path / "registry") as host:
        image = reference.parse(f"{host}/killed:1" if kind == "registry" else f"oci:{tmp_path}/killed:1")
        base = reference.parse(f"{host}/killed-runtime:1")
        runtime(base.store, layers=[archive({"opt/base": os.urandom(20_000_000)}), archive({"srv/app": b""})])
        python = f"{sys.executable} -m images"
        command = (
            f"{python} weights {MODEL.name} {image} --folder {tmp_path}/repository --lock {path} && "
            f"{python} compose {MODEL.name} {image} --runtime {base} --lock {path}"
        )

        def bake() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(["sh", "-c", command], cwd=ROOT, start_new_session=True)

        begin = time.monotonic()
        assert bake().wait() == 0
        whole = time.monotonic() - begin
        killed = complete = 0
        for number in range(10):
            # Into the same place, and now and then into a new one, so that both steps are hit.
            if number % 3 == 0:
                command = command.replace(str(image), f"{image.name}-{number}:1")
                image = reference.parse(f"{image.name}-{number}:1")
            with bake() as process:
                time.sleep(moments.uniform(0.2, 1) * whole)
                os.killpg(process.pid, signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
            try:
                manifest = image.store.manifest("1")
                complete += manifest is not None and bool(verify(image, path))
            except ImageError as error:  # a tag on something wrong
                pytest.fail(str(error))
        assert killed > 5
        assert bake().wait() == 0
        assert verify(image, path)[0] == MODEL.name
