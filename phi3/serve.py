"""Serve a model by its name or directory."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from phi3.modules import module_command, run_module

USAGE = """\
usage: phi3 serve [MODEL] [--port N] [FLAG...]

  MODEL     demo (the default), mini-4k, mini-128k, medium-4k, medium-128k,
            or a directory that holds a transformers checkpoint
  --port N  listen on 127.0.0.1:N instead of 127.0.0.1:8000
  FLAG      any other flag of the server; `python -m app --help` lists them
"""


def main(arguments: Sequence[str]) -> None:
    """Download or create the model if needed, then replace this process with the server."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return
    model, flags = "demo", list(arguments)
    if flags and not flags[0].startswith("-"):
        model = flags.pop(0)
    serve(Path(run_module("checkpoints", model)), flags)


def serve(directory: Path, flags: Sequence[str]) -> NoReturn:
    """Replace this process with a server of the model in a directory; later flags win over the ones set here."""
    host, port = os.environ.get("CHAT_HOST", "127.0.0.1"), os.environ.get("CHAT_PORT", "8000")
    defaults = ["--model", str(directory), "--name", directory.name, "--host", host, "--port", port]
    os.execv(sys.executable, module_command("app", [*defaults, *flags]))  # noqa: S606 - needs no shell
