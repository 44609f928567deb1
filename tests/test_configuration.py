"""docs/configuration.md documents all settings, routes and metrics."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings

DOCUMENT = (Path(__file__).parent.parent / "docs/configuration.md").read_text()


def section(heading: str) -> str:
    return DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def settings_table() -> str:
    """Return the table of settings that the document must contain."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"{field.default:,}" if type(field.default) is int else ""
        default = default or (str(field.default) if field.default else "")
        lines.append(f"| `CHAT_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


def metrics_table() -> str:
    """Return the table of metrics that the document must contain."""
    metrics = Metrics("none")
    metrics.observe_model(1, "float32", "cpu")
    engine: Any = SimpleNamespace(running=0, waiting=0)
    cache: Any = SimpleNamespace(num_reserved=0, num_slots=1)
    metrics.observe_engine(engine, cache)
    lines = ["| metric | type | meaning |", "|---|---|---|"]
    for family in metrics.registry.collect():
        if family.name.startswith(("vllm:", "phi3_")):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines)


def test_documented_settings_match_the_code() -> None:
    table = DOCUMENT.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert table == settings_table(), f"put this into docs/configuration.md:\n{settings_table()}"


def test_documented_metrics_match_the_code() -> None:
    assert metrics_table() in section("Metrics"), f"put this into docs/configuration.md:\n{metrics_table()}"


def test_documented_routes_match_the_code() -> None:
    app = create_app(ModelServer(Settings(model=Path()), Metrics("none")))
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    documented = re.findall(r"^\| `(\w+ \S+)` \|", section("Routes"), re.MULTILINE)
    assert sorted(documented) == sorted(routes)
