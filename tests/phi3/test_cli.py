"""The command line `phi3`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi3 import serve
from phi3.__main__ import main


def phi3(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run `phi3` in this process."""
    monkeypatch.setattr(sys, "argv", ["phi3", *arguments])
    main()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Collect the command lines that would replace this process."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    monkeypatch.setattr(serve, "run_module", lambda module, *arguments: f"/{module}/{'/'.join(arguments)}")
    for name in ("CHAT_HOST", "CHAT_PORT"):
        monkeypatch.delenv(name, raising=False)
    return commands


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    phi3(monkeypatch, flag)
    assert capsys.readouterr().out.startswith("usage: phi3 serve [MODEL] [--port N] [FLAG...]\n       phi3 bake MODEL")


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_an_unknown_command_exits_with_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        phi3(monkeypatch, *arguments)
    assert exited.value.code == 2
    assert "choose serve or bake" in capsys.readouterr().err


def test_serve_starts_the_demo_on_port_8000_by_default(
    monkeypatch: pytest.MonkeyPatch, executed: list[list[str]]
) -> None:
    phi3(monkeypatch, "serve")
    assert executed == [
        [
            *(sys.executable, "-P", "-m", "app", "--model", "/checkpoints/demo", "--name", "demo"),
            *("--host", "127.0.0.1", "--port", "8000"),
        ]
    ]


def test_serve_passes_on_the_model_and_flags(monkeypatch: pytest.MonkeyPatch, executed: list[list[str]]) -> None:
    monkeypatch.setenv("CHAT_PORT", "7000")
    phi3(monkeypatch, "serve", "mini-4k", "--max-queue", "3", "--port", "9000")
    assert executed[0][5] == "/checkpoints/mini-4k"
    assert executed[0][-6:] == ["--port", "7000", "--max-queue", "3", "--port", "9000"]
    phi3(monkeypatch, "serve", "--max-queue", "3")
    assert executed[1][5] == "/checkpoints/demo"
    assert executed[1][-2:] == ["--max-queue", "3"]


@pytest.mark.parametrize("command", ["serve", "bake"])
def test_help_of_a_command_needs_no_model(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "phi3", command, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"usage: phi3 {command} ")
