"""The packaged chart, pushed to a real OCI registry and pulled from it."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.charts.helm import CHART, helm, template
from tools.harness.registry import registry

VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the host of a real registry."""
    with registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packaged chart."""
    directory = tmp_path_factory.mktemp("package")
    done = helm("package", CHART, "--destination", directory)
    assert done.returncode == 0, done.stderr
    return directory / f"phi3-{VERSION}.tgz"


@pytest.fixture(scope="module")
def published(host: str, package: Path) -> str:
    """Return the OCI reference of the pushed chart."""
    done = helm("push", package, f"oci://{host}/charts", "--plain-http")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Digest: sha256:[0-9a-f]{64}", done.stderr + done.stdout)
    return f"oci://{host}/charts/phi3"


def test_pulled_chart_equals_the_pushed_chart(published: str, package: Path, tmp_path: Path) -> None:
    done = helm("pull", published, "--version", VERSION, "--plain-http", "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()


def test_published_chart_renders_like_the_directory(published: str) -> None:
    values = {"model": "medium-128k"}
    flags = ("--version", VERSION, "--plain-http", "--namespace", "models")
    done = helm("template", "phi3", published, *flags, values=values)
    assert done.stdout == template(values).stdout


def test_published_chart_installs_from_its_oci_reference(published: str) -> None:
    done = helm("install", "phi3", published, "--plain-http", "--dry-run=client", values={"model": "demo"})
    assert done.returncode == 0, done.stderr
    assert "The Service phi3 in namespace default serves demo" in done.stdout


def test_package_contains_the_files_of_an_installation(package: Path) -> None:
    with tarfile.open(package) as archive:
        names = {name.removeprefix("phi3/") for name in archive.getnames()}
    wanted = {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", ".helmignore"}
    wanted |= {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*") if path.is_file()}
    wanted |= {"examples/kaito.yaml"} | {f"files/{name}" for name in ("dashboard.json", "rules.yaml", "smoke_test.py")}
    assert names == wanted
