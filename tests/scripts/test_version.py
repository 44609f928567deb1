"""scripts/version, on a copy of the files that hold the version."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from images import VERSION

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("scripts", "tools", "charts/phi3"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "CHANGELOG.md", "app/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = "# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- A `fault`: of two\n  lines.\n- Another.\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    return tmp_path


def version(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(directory / "scripts/version"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False)


def test_all_files_have_the_same_version() -> None:
    assert version(ROOT).stdout == f"{VERSION}\n"


def test_a_new_version_is_written_to_all_files_with_its_changes(copy: Path) -> None:
    assert version(copy, "9.8.7-rc.1").stdout == "9.8.7-rc.1\n"
    for path in copy.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".toml", ".yaml"):
            assert VERSION not in path.read_text(), path
    assert re.search(
        r"## \[Unreleased\]\n\n## \[9\.8\.7-rc\.1\] - \d{4}-\d\d-\d\d\n", (copy / "CHANGELOG.md").read_text()
    )
    chart = yaml.safe_load((copy / "charts/phi3/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == ("9.8.7-rc.1", "9.8.7-rc.1")
    assert yaml.safe_load(chart["annotations"]["artifacthub.io/changes"]) == [
        {"kind": "fixed", "description": "A `fault`: of two lines."},
        {"kind": "fixed", "description": "Another."},
    ]
    assert version(copy, "--tag", "v9.8.7-rc.1").returncode == 0
    # A version without changes has no annotation, and the changelog keeps the older versions.
    assert version(copy, "9.8.8").returncode == 0
    assert "artifacthub.io/changes" not in (copy / "charts/phi3/Chart.yaml").read_text()
    assert "## [9.8.7-rc.1]" in (copy / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tag", "v0.0.1"), f"the tag v0.0.1 is not v{VERSION}"),
        (("--tag", f"v{VERSION}"), f"CHANGELOG.md has no changes for {VERSION}"),
        (("1.2",), "'1.2' is not a semantic version"),
    ],
)
def test_a_tag_or_version_that_cannot_be_released_is_rejected(
    copy: Path, arguments: tuple[str, ...], problem: str
) -> None:
    done = version(copy, *arguments)
    assert done.returncode != 0
    assert problem in done.stderr


def test_the_error_for_different_versions_names_the_files(copy: Path) -> None:
    chart = copy / "charts/phi3/Chart.yaml"
    chart.write_text(chart.read_text().replace(f"appVersion: {VERSION}", "appVersion: 3.2.1"))
    stderr = version(copy).stderr
    assert re.search(rf"\S+ has {re.escape(VERSION)}", stderr)
    assert "charts/phi3/Chart.yaml has 3.2.1" in stderr


def test_the_error_for_an_unknown_kind_of_change_lists_the_known_kinds(copy: Path) -> None:
    (copy / "CHANGELOG.md").write_text("## [Unreleased]\n\n### Improved\n\n- A thing.\n")
    assert "an unknown kind of change, Improved: use one of added, changed" in version(copy, "9.9.9").stderr
