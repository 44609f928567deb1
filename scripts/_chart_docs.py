"""Reads charts/phi3/values.yaml, and writes values.schema.json and the tables of README.md beside it.

A value's default gives its type, the comment above it its description, in which lines indented further are an example.
`# @schema {…}` adds to its JSON schema, where `$ref` names a type of Kubernetes. `# @entries` says that the entries of
a map are all like the first. `## Title` begins a section.
"""

import importlib.resources
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from _work import ROOT, say

CHART = ROOT / "charts/phi3"
KUBERNETES = "1.37"
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class Value:
    """A value, its default and what its comment says; `children` are there where it is a map of documented values."""

    path: tuple[str, ...]
    default: Any
    section: str
    description: str
    schema: dict[str, Any]
    children: list["Value"]
    entries: bool

    def all(self) -> Iterator["Value"]:
        """Return this value and those below it."""
        yield self
        for child in self.children:
            yield from child.all()


def comment(lines: list[str], line: int, indent: int) -> list[str]:
    """Return the lines of the comment right above a key, without their marks."""
    start = line
    while start and re.match(rf" {{{indent}}}#(?!#)", lines[start - 1]):
        start -= 1
    return [text[indent + 1 :].removeprefix(" ") for text in lines[start:line]]


def read(lines: list[str], node: yaml.MappingNode, above: tuple[str, ...] = ()) -> list[Value]:
    """Return the values of a map in values.yaml, as they are documented there."""
    found = []
    for key, value in node.value:
        mark, path = key.start_mark, (*above, key.value)
        notes = comment(lines, mark.line, mark.column)
        tags = [note for note in notes if note.startswith("@")]
        prose = [note for note in notes if not note.startswith(("@", "  "))]
        section = next((line[3:] for line in reversed(lines[: mark.line]) if line.startswith("## ")), "")
        schema = yaml.safe_load(" ".join(tag.removeprefix("@schema") for tag in tags if tag.startswith("@schema")))
        default = yaml.safe_load(yaml.serialize(value))
        described = isinstance(value, yaml.MappingNode) and not value.flow_style and not (schema or {}).get("$ref")
        children = read(lines, value, path) if described and "additionalProperties" not in (schema or {}) else []
        # The words that lead to an example.
        description = re.sub(r" For example[^.:]*:$", "", " ".join(prose))
        found.append(Value(path, default, section, description, schema or {}, children, "@entries" in tags))
    return found


def definitions() -> dict[str, Any]:
    """Return the types of Kubernetes by name, without descriptions, each refusing fields that it does not have."""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    text = (folder / f"v{KUBERNETES}.0-local-strict" / "_definitions.json").read_text()
    found: dict[str, Any] = {}
    for name, definition in json.loads(text)["$defs"].items():
        # Every type that a pod or a policy refers to is in one of these.
        if re.match(r"io\.k8s\.(api\.(core|networking)\.v1|apimachinery\.pkg\.(api|apis|util)\.[a-z.]*)", name):
            found.setdefault(name.rpartition(".")[2], plain(definition))
    return found


def plain(schema: Any) -> Any:
    """Return a schema of Kubernetes without what does not decide whether a value is valid."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = {key for key in schema if key.startswith("x-kubernetes-") or key == "format"}
    if isinstance(schema.get("description"), str):
        dropped.add("description")
    parts = {key: plain(part) for key, part in schema.items() if key not in dropped}
    if "$ref" in parts:
        parts["$ref"] = f"#/$defs/{parts['$ref'].rpartition('.')[2]}"
    return parts


def schema_of(value: Value) -> dict[str, Any]:
    """Return the JSON schema of a value."""
    own = json.loads(re.sub(r'("\$ref": ")(\w+)"', r'\1#/$defs/\2"', json.dumps(value.schema)))
    described = {"description": value.description} if value.description else {}
    if value.entries:
        entry = required(map_of(value.children[0].children))
        return {"type": "object", **described, "additionalProperties": entry}
    if value.children:
        return {**described, **map_of(value.children)}
    kind = {} if "$ref" in own else {"type": TYPES[type(value.default)]}
    return {**described, **kind, **own, "default": value.default}


def map_of(values: list[Value]) -> dict[str, Any]:
    """Return the schema of a map that has these values and no others."""
    properties = {value.path[-1]: schema_of(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def required(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of maps in which nothing may be missing, and nothing has a default."""
    properties = {
        key: required(part) if "properties" in part else {name: part[name] for name in part if name != "default"}
        for key, part in schema["properties"].items()
    }
    return {**schema, "required": list(properties), "properties": properties}


def schema_text(values: list[Value]) -> str:
    """Return values.schema.json: what the values refer to of Kubernetes comes with it."""
    # Helm adds `global` to every chart's values.
    root = map_of(values)
    root["properties"]["global"] = {"type": "object", "description": "Set by Helm; not used here."}
    known, used = definitions(), dict[str, Any]()
    missing = set(re.findall(r"#/\$defs/(\w+)", json.dumps(root)))
    while missing:
        if unknown := missing - set(known):
            sys.exit(f"charts/phi3/values.yaml: Kubernetes {KUBERNETES} has no type {', '.join(sorted(unknown))}")
        used |= {name: known[name] for name in missing}
        missing = set(re.findall(r"#/\$defs/(\w+)", json.dumps(used))) - set(used)
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of phi3"}
    return json.dumps({**draft, **root, "$defs": dict(sorted(used.items()))}, indent=1) + "\n"


def type_name(schema: dict[str, Any]) -> str:
    """Return how the table names a type: its values, or what it is."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    of = schema.get("items", {})
    inner = of.get("$ref", "").rpartition("/")[2] or of.get("type", "")
    name = schema.get("type") or schema["$ref"].rpartition("/")[2]
    return f"list of {inner}" if name == "array" else name


def values_table(values: list[Value]) -> str:
    """Return the tables of all values, one for each section."""
    lines, section = [], ""
    for value in (value for top in values for value in top.all()):
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
            lines += ["", f"### {section}", "", "| value | type | default | meaning |", "|---|---|---|---|"]
        kind = type_name(schema_of(value))
        lines.append(f"| `{name}` | {kind} | {default and f'`{default}`'} | {value.description} |")
    return "\n".join(lines).strip()


def models_table(models: dict[str, Any]) -> str:
    """Return the table of the models, with the GPU memory that each needs."""
    lines = ["| model | image | context | GPU memory for it | first start at most |", "|---|---|---|---|---|"]
    for name, model in models.items():
        gpu, context = model["gpu"], model["context"]
        # Source: the header of images/catalogue.yaml.
        floor = gpu["weightsMiB"] - (-context * gpu["kvKiBPerToken"] * 10 // 9216) + 1536
        need = f"{floor:,} MiB" if gpu["count"] else "none"
        minutes = sum(model["startup"].values()) // 60
        lines.append(f"| `{name}` | {model['image']} | {context:,} | {need} | {minutes} min |")
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """Return a text with what stands between two marks replaced."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{content}{end}{rest.partition(end)[2]}"


def problems(values: list[Value]) -> list[str]:
    """Return the values that lack a description, or one in which it is not said when to change them."""
    when = re.compile(r"\b(add|change|disable|enable|list|lower|raise|set|use)\b", re.IGNORECASE)
    leaves = [value for top in values for value in top.all() if not value.children or value.entries]
    undocumented = {value.path for top in values if top.entries for entry in top.children[1:] for value in entry.all()}
    return [
        f"charts/phi3/values.yaml: the comment of {'.'.join(value.path)} does not say when to change it"
        for value in leaves
        if value.path not in undocumented and not when.search(value.description)
    ]


def main() -> None:
    """Write the files, or check them."""
    text = (CHART / "values.yaml").read_text()
    tree = yaml.compose(text)
    assert isinstance(tree, yaml.MappingNode)  # noqa: S101 - a map in every chart
    values = read(text.splitlines(), tree)
    models = next(value.default for value in values if value.entries)
    readme = between((CHART / "README.md").read_text(), "values", values_table(values))
    wanted = {
        CHART / "values.schema.json": schema_text(values),
        CHART / "README.md": between(readme, "models", models_table(models)),
    }
    found = problems(values)
    if "--check" in sys.argv:
        stale = [file for file, content in wanted.items() if not file.exists() or file.read_text() != content]
        found += [f"{file.relative_to(ROOT)} is older than values.yaml: run scripts/chart-docs" for file in stale]
    else:
        for file, content in wanted.items():
            file.write_text(content)
    for problem in found:
        say(problem)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
