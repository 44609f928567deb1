"""Import boundaries between the HTTP side and the engine."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import app.api
import app.output
import app.ui

ROOT = Path(__file__).parents[2]


def test_http_modules_import_neither_torch_nor_transformers() -> None:
    packages = (app.api, app.output, app.ui)
    modules = [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    modules += ["app.factory", "app.server", "app.tokenizer"]
    assert "app.api.chat.routes" in modules
    code = f"import sys, {', '.join(modules)}; print(*({{'torch', 'transformers'}} & set(sys.modules)))"
    imported = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert imported.stdout.split() == []
