"""Generate values.schema.json and the tables of the chart's README.md from charts/phi3/values.yaml.

The default of a value gives its type, and the comment above it gives its description. Lines with extra indentation are
an example and stay out of the description. `# @schema {…}` adds keywords to the JSON schema, in which `$ref` names a
Kubernetes type. `# @entries` marks a map whose entries have the fields of the first one. `## Title` starts a section.
"""

import importlib.resources
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tools.verb import ROOT, Verb

verb = Verb("scripts/chart-docs")
CHART = ROOT / "charts/phi3"
KUBERNETES = "1.37"
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class Value:
    """A value with its default and its comment; a map of documented values has `children`."""

    path: tuple[str, ...]
    default: Any
    section: str
    description: str
    schema: dict[str, Any]
    children: list["Value"]
    entries: bool

    def walk(self) -> Iterator["Value"]:
        """Yield this value and its descendants."""
        yield self
        for child in self.children:
            yield from child.walk()


def comment_above(lines: list[str], line: int, indent: int) -> list[str]:
    """Return the lines of the comment directly above a key, without the leading `# `."""
    start = line
    while start and re.match(rf" {{{indent}}}#(?!#)", lines[start - 1]):
        start -= 1
    return [text[indent + 1 :].removeprefix(" ") for text in lines[start:line]]


def read_values(lines: list[str], node: yaml.MappingNode, above: tuple[str, ...] = ()) -> list[Value]:
    """Return the documented values of a map in values.yaml; `above` is the path of the map."""
    found = []
    for key, value in node.value:
        mark, path = key.start_mark, (*above, key.value)
        notes = comment_above(lines, mark.line, mark.column)
        tags = [note for note in notes if note.startswith("@")]
        prose = [note for note in notes if not note.startswith(("@", "  "))]
        section = next((line[3:] for line in reversed(lines[: mark.line]) if line.startswith("## ")), "")
        schema = yaml.safe_load(" ".join(tag.removeprefix("@schema") for tag in tags if tag.startswith("@schema")))
        default = yaml.safe_load(yaml.serialize(value))
        described = isinstance(value, yaml.MappingNode) and not value.flow_style and not (schema or {}).get("$ref")
        children = read_values(lines, value, path) if described and "additionalProperties" not in (schema or {}) else []
        # Remove the words that introduce an example.
        description = re.sub(r" For example[^.:]*:$", "", " ".join(prose))
        found.append(Value(path, default, section, description, schema or {}, children, "@entries" in tags))
    return found


def kubernetes_types() -> dict[str, Any]:
    """Return the schemas of the Kubernetes types by name; each rejects unknown fields."""
    directory = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    text = (directory / f"v{KUBERNETES}.0-local-strict" / "_definitions.json").read_text()
    found: dict[str, Any] = {}
    for name, definition in json.loads(text)["$defs"].items():
        # These packages contain every type that a pod or a network policy refers to.
        if re.match(r"io\.k8s\.(api\.(core|networking)\.v1|apimachinery\.pkg\.(api|apis|util)\.[a-z.]*)", name):
            found.setdefault(name.rpartition(".")[2], without_annotations(definition))
    return found


def without_annotations(schema: Any) -> Any:
    """Return a Kubernetes schema without the keywords that do not affect validation."""
    if isinstance(schema, list):
        return [without_annotations(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = {key for key in schema if key.startswith("x-kubernetes-") or key == "format"}
    if isinstance(schema.get("description"), str):
        dropped.add("description")
    parts = {key: without_annotations(part) for key, part in schema.items() if key not in dropped}
    if "$ref" in parts:
        parts["$ref"] = f"#/$defs/{parts['$ref'].rpartition('.')[2]}"
    return parts


def value_schema(value: Value) -> dict[str, Any]:
    """Return the JSON schema of a value."""
    keywords = json.loads(re.sub(r'("\$ref": ")(\w+)"', r'\1#/$defs/\2"', json.dumps(value.schema)))
    described = {"description": value.description} if value.description else {}
    if value.entries:
        entry = all_required(map_schema(value.children[0].children))
        return {"type": "object", **described, "additionalProperties": entry}
    if value.children:
        return {**described, **map_schema(value.children)}
    kind = {} if "$ref" in keywords else {"type": TYPES[type(value.default)]}
    return {**described, **kind, **keywords, "default": value.default}


def map_schema(values: list[Value]) -> dict[str, Any]:
    """Return the schema of a map that accepts only these values."""
    properties = {value.path[-1]: value_schema(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def all_required(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a map schema that requires every property and has no defaults."""
    properties = {
        key: all_required(part) if "properties" in part else {name: part[name] for name in part if name != "default"}
        for key, part in schema["properties"].items()
    }
    return {**schema, "required": list(properties), "properties": properties}


def schema_text(values: list[Value]) -> str:
    """Return the content of values.schema.json, with the Kubernetes types that the values refer to."""
    # Helm adds `global` to every chart's values.
    root = map_schema(values)
    root["properties"]["global"] = {
        "type": "object",
        "description": "Global values, which Helm sets; the chart does not use them.",
    }
    known, used = kubernetes_types(), dict[str, Any]()
    missing = set(re.findall(r"#/\$defs/(\w+)", json.dumps(root)))
    while missing:
        if unknown := missing - set(known):
            names = ", ".join(sorted(unknown))
            sys.exit(f"charts/phi3/values.yaml: Kubernetes {KUBERNETES} has no type {names}: correct the $ref")
        used |= {name: known[name] for name in missing}
        missing = set(re.findall(r"#/\$defs/(\w+)", json.dumps(used))) - set(used)
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of phi3"}
    return json.dumps({**draft, **root, "$defs": dict(sorted(used.items()))}, indent=1) + "\n"


def type_name(schema: dict[str, Any]) -> str:
    """Return the type of a value for the table: its choices or the name of its type."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    items = schema.get("items", {})
    inner = items.get("$ref", "").rpartition("/")[2] or items.get("type", "")
    name = schema.get("type") or schema["$ref"].rpartition("/")[2]
    return f"list of {inner}" if name == "array" else name


def values_table(values: list[Value]) -> str:
    """Return the Markdown tables of the values, one for each section."""
    lines, section = [], ""
    for value in (value for top in values for value in top.walk()):
        name, default = ".".join(value.path), json.dumps(value.default, ensure_ascii=False)
        if value.path[0] == "models" and len(value.path) > 1:
            if len(value.path) == 2 or not value.description:
                continue
            name, default = ".".join(("models", "NAME", *value.path[2:])), ""
        elif value.children and not value.entries:
            continue
        elif value.entries:
            default = ""
        if value.section != section:
            section = value.section
            lines += ["", f"### {section}", "", "| value | type | default | description |", "|---|---|---|---|"]
        kind = type_name(value_schema(value))
        lines.append(f"| `{name}` | {kind} | {default and f'`{default}`'} | {value.description} |")
    return "\n".join(lines).strip()


def models_table(models: dict[str, Any]) -> str:
    """Return the Markdown table of the models, with the minimum GPU memory of each."""
    lines = ["| model | image | context | minimum GPU memory | maximum first start |", "|---|---|---|---|---|"]
    for name, model in models.items():
        gpu, context = model["gpu"], model["context"]
        # Source of the formula: the header of checkpoints/catalogue.yaml.
        memory = gpu["weightsMiB"] - (-context * gpu["kvKiBPerToken"] * 10 // 9216) + 1536
        need = f"{memory:,} MiB" if gpu["count"] else "none"
        minutes = sum(model["startup"].values()) // 60
        lines.append(f"| `{name}` | {model['image']} | {context:,} | {need} | {minutes} min |")
    return "\n".join(lines)


def replace_section(text: str, name: str, content: str) -> str:
    """Return a text with new content between the comments <!-- name --> and <!-- /name -->."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{content}{end}{rest.partition(end)[2]}"


def comment_errors(values: list[Value]) -> list[str]:
    """Return an error for each value whose comment does not say when to change it."""
    advice = re.compile(r"\b(add|change|disable|enable|list|lower|raise|set|use)\b", re.IGNORECASE)
    leaves = [value for top in values for value in top.walk() if not value.children or value.entries]
    undocumented = {value.path for top in values if top.entries for entry in top.children[1:] for value in entry.walk()}
    return [
        f"charts/phi3/values.yaml: the comment of {'.'.join(value.path)} does not say when to change it: add a sentence"
        for value in leaves
        if value.path not in undocumented and not advice.search(value.description)
    ]


def main() -> None:
    """Write the generated files, or compare them with --check."""
    text = (CHART / "values.yaml").read_text()
    tree = yaml.compose(text)
    assert isinstance(tree, yaml.MappingNode)  # noqa: S101 - Helm requires a map
    values = read_values(text.splitlines(), tree)
    models = next(value.default for value in values if value.entries)
    readme = replace_section((CHART / "README.md").read_text(), "values", values_table(values))
    generated = {
        CHART / "values.schema.json": schema_text(values),
        CHART / "README.md": replace_section(readme, "models", models_table(models)),
    }
    errors = comment_errors(values)
    if "--check" in sys.argv:
        stale = [file for file, content in generated.items() if not file.exists() or file.read_text() != content]
        errors += [f"{file.relative_to(ROOT)} does not match values.yaml: run scripts/chart-docs" for file in stale]
    else:
        for file, content in generated.items():
            file.write_text(content)
    for error in errors:
        verb.log(error)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
