"""The command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints.__main__ import main
from checkpoints.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory that passes verification; its weights are not real."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(8))
    return directory


def test_directory_is_printed_alone_and_absolute(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert main(["checkpoint"]) == 0
    assert capsys.readouterr() == (f"{checkpoint}\n", "")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda directory: (directory / "config.json").unlink(), "lacks config.json"),
    "no tokenizer": (lambda directory: (directory / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    "no weights": (lambda directory: (directory / "model.safetensors").unlink(), "lacks *.safetensors"),
    "pickles": (
        lambda directory: (directory / "model.safetensors").rename(directory / "pytorch_model.bin"),
        "has its weights only in pytorch_model.bin. Pickles can run arbitrary code",
    ),
    "a shard short": (
        lambda directory: (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}})),
        "lacks model-2.safetensors",
    ),
    "another model": (
        lambda directory: (directory / "config.json").write_text(json.dumps({"model_type": "llama"})),
        "has the model_type 'llama'; only 'phi3' is supported",
    ),
    "broken config": (
        lambda directory: (directory / "config.json").write_text("{"),
        "config.json cannot be read as JSON",
    ),
    "cut": (
        lambda directory: (directory / "hashes.json").write_text(
            json.dumps({"revision": "1", "files": {"model.safetensors": {"size": 9}}})
        ),
        "model.safetensors has 8 bytes instead of 9",
    ),
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.values(), ids=DAMAGES)
def test_unusable_directory_is_refused_with_the_reason(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], error: str
) -> None:
    damage(checkpoint)
    assert main([str(checkpoint)]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert error in stderr


def test_pickles_beside_safetensors_are_ignored(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    assert main([str(checkpoint)]) == 0


def test_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mini-5k"]) == 1
    assert (
        "there is no model or directory 'mini-5k': choose demo, mini-4k, mini-128k, medium-4k, medium-128k, or"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["demo", "mini-4k"])
def test_existing_model_is_found_without_slow_imports(checkpoint: Path, name: str) -> None:
    checkpoint.rename(checkpoint.with_name(name))
    if name in CATALOGUE:
        manifest = {"revision": CATALOGUE[name].revision, "files": {"config.json": {"size": 22}}}
        (checkpoint.with_name(name) / "hashes.json").write_text(json.dumps(manifest))
    code = (
        "import sys; from checkpoints.__main__ import main; main();"
        "print(*{'torch', 'transformers', 'huggingface_hub', 'tqdm'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, name, "--directory", str(checkpoint.parent)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout == f"{checkpoint.with_name(name)}\n\n"
    assert output.stderr == ""


def test_unwritable_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["mini-4k", "--directory", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
