"""What scripts/serve does before the server runs."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def serve(*arguments: str, folder: Path, script: Path = ROOT / "scripts/serve") -> subprocess.CompletedProcess[str]:
    """Run scripts/serve in a folder, where it ends by itself."""
    return subprocess.run([script, *arguments], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=120)


def test_help_is_printed_without_setting_anything_up(tmp_path: Path) -> None:
    script = Path(shutil.copy(ROOT / "scripts/serve", tmp_path))
    for arguments in (["--help"], ["-h"], ["mini-4k", "--port", "9000", "--help"]):
        done = serve(*arguments, folder=tmp_path, script=script)
        assert done.stdout.startswith("usage: scripts/serve [MODEL] [--port N] [FLAG...]\n")
        assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_model_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    done = serve("mini-5k", folder=tmp_path)
    assert done.returncode == 1
    assert "'mini-5k'" in done.stderr
    assert "mini-4k" in done.stderr


def test_a_model_is_found_relative_to_the_folder_one_is_in(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    done = serve("my model", folder=tmp_path)
    assert done.returncode == 1
    assert "my model is not a complete transformers checkpoint" in done.stderr


def test_modules_in_the_folder_one_is_in_are_not_imported(tmp_path: Path) -> None:
    for name in ("app", "flask", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    said = serve("mini-5k", folder=tmp_path).stderr
    assert "'mini-5k'" in said
    assert "imported" not in said
