"""Lists the branches of the templates that no case of tests/charts/cases.py takes: python -m tests.charts.branches.

A copy of the chart notes each branch it takes, an `else` that is not written included, and renders the notes last.
"""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tests.charts.cases import FEATURES, GUARD_FLAGS, GUARDS, Case
from tests.charts.helm import CHART, MODELS, helm

ACTION = re.compile(r"\{\{-? *(?!/\*)(\w+)?.*?(-?)\}\}", re.DOTALL)
FAILS = re.compile(r"\s*\{\{-? fail ")
TAKEN = "($.root | default $).Values.global.taken"


def noting(source: str, name: str) -> tuple[str, list[str]]:
    """Return a template that notes the branches it takes, and their names: file, line and what begins there."""
    out, names, position = [], [], 0
    stack: list[tuple[str, str, bool]] = []  # what is open: its keyword, the name of its else, whether it has one

    def note(branch: str, rest: str, trim: str) -> str:
        names.append(branch)
        noted = f'{{{{ $_ := set {TAKEN} "{branch}" true {trim}}}}}'
        # A refusal ends the rendering, so it tells itself what was taken.
        return noted + (f'{{{{ fail (printf "\\ntaken: %s" (toJson {TAKEN})) }}}}' if FAILS.match(rest) else "")

    for action in ACTION.finditer(source):
        keyword, trim = action[1], action[2]
        where = f"{name}:{source.count(chr(10), 0, action.start()) + 1}"
        out.append(source[position : action.start()])
        if keyword == "end":
            opened, otherwise, has_else = stack.pop()
            if opened in ("if", "with") and not has_else:
                start = "{{- else }}" if action[0].startswith("{{-") else "{{ else }}"
                out.append(start + note(otherwise, "", ""))
        out.append(action[0])
        position = action.end()
        if keyword in ("if", "with", "range", "define"):
            stack.append((keyword, f"{where} else of {action[0].strip('{}- ')[:60]}".replace('"', "'"), False))
        if keyword in ("if", "with", "range", "else"):
            if keyword == "else":
                stack[-1] = (*stack[-1][:2], stack[-1][2] or action[0].strip("{}- ") == "else")
            branch = f"{where} {action[0].strip('{}- ')[:60]}".replace('"', "'")
            out.append(note(branch, source[position:], trim))
    return "".join(out) + source[position:], names


def copy(folder: Path) -> list[str]:
    """Make a chart that notes its branches, and return their names."""
    shutil.copytree(CHART, folder, dirs_exist_ok=True)
    names = []
    for path in sorted((folder / "templates").rglob("*")):
        if path.is_file():
            text, found = noting(path.read_text(), str(path.relative_to(folder)))
            path.write_text(text)
            names += found
    # Helm renders the files of a folder in reverse.
    (folder / "templates/0.yaml").write_text("taken: {{ toJson .Values.global.taken }}\n")
    return names


def never_taken() -> list[str]:
    """Return the names of the branches that no case takes."""
    taken: set[str] = set()
    cases: list[tuple[Case, tuple[str, ...]]] = [({"model": model}, ()) for model in MODELS]
    cases += [(values, ()) for values in FEATURES.values()]
    cases += [(values, GUARD_FLAGS.get(name, ())) for name, (values, _) in GUARDS.items()]
    with tempfile.TemporaryDirectory() as folder:
        names = copy(Path(folder))
        for values, flags in cases:
            done = helm(
                "template",
                "phi3",
                folder,
                "--skip-schema-validation",
                *flags,
                values=values | {"global": {"taken": {}}},
            )
            notes = re.search(r"^taken: (.*)$", done.stdout + done.stderr, re.MULTILINE)
            assert notes, done.stderr
            taken.update(json.loads(notes[1]))
    return [name for name in names if name not in taken]


if __name__ == "__main__":
    found = never_taken()
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
