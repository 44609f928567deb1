"""The chart goes to a real OCI registry and comes back as it was."""

import os
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.charts.helm import CHART, ROOT, helm, template

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
START_SECONDS = 30


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry, at a free port; yields its host."""
    subprocess.run([ROOT / "scripts/packages", "docker-registry"], check=True)
    folder = tmp_path_factory.mktemp("registry")
    storage = f"storage: {{filesystem: {{rootdirectory: {folder}/files}}}}"
    (folder / "config.yml").write_text(f'version: 0.1\n{storage}\nhttp: {{addr: "127.0.0.1:0"}}\n')
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["/usr/bin/docker-registry", "serve", folder / "config.yml"],
            env=os.environ | {"OTEL_TRACES_EXPORTER": "none"},
            stderr=output,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it is published."""
    folder = tmp_path_factory.mktemp("package")
    done = helm("package", CHART, "--destination", folder)
    assert done.returncode == 0, done.stderr
    return folder / f"phi3-{VERSION}.tgz"


@pytest.fixture(scope="module")
def published(registry: str, package: Path) -> str:
    """Where the chart is after `helm push`."""
    done = helm("push", package, f"oci://{registry}/charts", "--plain-http")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Digest: sha256:[0-9a-f]{64}", done.stderr + done.stdout)
    return f"oci://{registry}/charts/phi3"


def test_what_is_pulled_is_what_was_pushed(published: str, package: Path, tmp_path: Path) -> None:
    done = helm("pull", published, "--version", VERSION, "--plain-http", "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()


def test_a_published_chart_renders_as_the_folder_does(published: str) -> None:
    values = {"model": "medium-128k"}
    flags = ("--version", VERSION, "--plain-http", "--namespace", "models")
    done = helm("template", "phi3", published, *flags, values=values)
    assert done.stdout == template(values).stdout


def test_a_published_chart_is_installed_by_its_address(published: str) -> None:
    done = helm("install", "phi3", published, "--plain-http", "--dry-run=client", values={"model": "demo"})
    assert done.returncode == 0, done.stderr
    assert "phi3 serves demo as Service phi3" in done.stdout


def test_a_package_holds_what_an_installation_needs(package: Path) -> None:
    with tarfile.open(package) as archive:
        names = {name.removeprefix("phi3/") for name in archive.getnames()}
    wanted = {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", ".helmignore"}
    wanted |= {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*") if path.is_file()}
    wanted |= {"examples/kaito.yaml"} | {f"files/{name}" for name in ("ask.py", "dashboard.json", "rules.yaml")}
    assert names == wanted
