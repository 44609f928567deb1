"""scripts/serve, up to the start of the server."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def serve(*arguments: str, directory: Path, script: Path = ROOT / "scripts/serve") -> subprocess.CompletedProcess[str]:
    """Run scripts/serve, which must exit before the server starts, in a directory."""
    return subprocess.run(
        [script, *arguments], cwd=directory, env=os.environ, capture_output=True, text=True, timeout=120
    )


def test_help_needs_no_set_up(tmp_path: Path) -> None:
    script = Path(shutil.copy(ROOT / "scripts/serve", tmp_path))
    for arguments in (["--help"], ["-h"], ["mini-4k", "--port", "9000", "--help"]):
        done = serve(*arguments, directory=tmp_path, script=script)
        assert done.stdout.startswith("usage: scripts/serve [MODEL] [--port N] [FLAG...]\n")
        assert (done.returncode, done.stderr) == (0, "")


def test_the_error_for_an_unknown_model_lists_the_known_models(tmp_path: Path) -> None:
    done = serve("mini-5k", directory=tmp_path)
    assert done.returncode == 1
    assert "'mini-5k'" in done.stderr
    assert "mini-4k" in done.stderr


def test_a_model_path_is_relative_to_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    done = serve("my model", directory=tmp_path)
    assert done.returncode == 1
    assert "my model is not a complete transformers checkpoint" in done.stderr


def test_modules_of_the_current_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("app", "flask", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    said = serve("mini-5k", directory=tmp_path).stderr
    assert "'mini-5k'" in said
    assert "imported" not in said
