"""The one version, on a copy of the files that have it."""

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


def version(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "scripts/version"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False)


def test_it_is_the_same_everywhere() -> None:
    assert version(ROOT).stdout == f"{VERSION}\n"


def test_a_new_version_is_written_everywhere_and_says_what_changed(copy: Path) -> None:
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
    # What has no changes says none, and keeps those of older versions.
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
def test_what_cannot_be_released_is_refused(copy: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = version(copy, *arguments)
    assert done.returncode != 0
    assert problem in done.stderr


def test_files_that_disagree_are_named(copy: Path) -> None:
    chart = copy / "charts/phi3/Chart.yaml"
    chart.write_text(chart.read_text().replace(f"appVersion: {VERSION}", "appVersion: 3.2.1"))
    stderr = version(copy).stderr
    assert re.search(rf"\S+ has {re.escape(VERSION)}", stderr)
    assert "charts/phi3/Chart.yaml has 3.2.1" in stderr


def test_a_kind_of_change_that_nobody_knows_is_named(copy: Path) -> None:
    (copy / "CHANGELOG.md").write_text("## [Unreleased]\n\n### Improved\n\n- A thing.\n")
    assert "an unknown kind of change, Improved: use one of added, changed" in version(copy, "9.9.9").stderr
