"""Print, change or check the version that the server, the images and the chart share."""

import argparse
import datetime
import json
import re

from tools.verb import ROOT, Verb

CHANGELOG = ROOT / "CHANGELOG.md"
CHART = ROOT / "charts/phi3/Chart.yaml"
# The files that hold the version, each with a pattern whose group is the version.
PATTERNS = {
    ROOT / "pyproject.toml": r'(?m)^version = "(.*)"$',
    ROOT / "app/__init__.py": r'(?m)^__version__ = "(.*)"$',
    CHART: r"(?m)^(?:version: |appVersion: |      image: .*:)(\S+)$",
}
SEMANTIC_VERSION = r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?"
# The kinds of changes that Artifact Hub knows, which are the headings of Keep a Changelog.
CHANGE_KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")

verb = Verb("scripts/version")


def read_version() -> str:
    """Return the version, or exit if two files disagree."""
    found = {version: file for file, pattern in PATTERNS.items() for version in re.findall(pattern, file.read_text())}
    if len(found) != 1:
        versions = ", ".join(f"{file.relative_to(ROOT)} has {version}" for version, file in found.items())
        verb.fail(f"the files disagree: {versions}. Run `scripts/version NEW` to write one version to all of them")
    return str(next(iter(found)))


def changelog_section(name: str) -> str:
    """Return the text of a section of CHANGELOG.md, or "" if there is no such section."""
    found = re.search(rf"(?ms)^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## \[|\Z)", CHANGELOG.read_text())
    return found[1] if found else ""


def parse_changes(text: str) -> list[dict[str, str]]:
    """Return the entries of a section in the format of Artifact Hub's annotation."""
    found = []
    for kind, body in re.findall(r"(?ms)^### (\w+)\n(.*?)(?=^### |\Z)", text):
        if kind.lower() not in CHANGE_KINDS:
            verb.fail(f"CHANGELOG.md has an unknown kind of change, {kind}: use one of {', '.join(CHANGE_KINDS)}")
        for entry in re.findall(r"(?ms)^- (.*?)(?=^- |\Z)", body):
            found.append({"kind": kind.lower(), "description": " ".join(entry.split())})
    return found


def write_version(version: str) -> None:
    """Write a version to every file, and date the unreleased section of CHANGELOG.md."""
    for file, pattern in PATTERNS.items():

        def replace(match: "re.Match[str]") -> str:
            start, end = match.start(1) - match.start(), match.end(1) - match.start()
            return match[0][:start] + version + match[0][end:]

        file.write_text(re.sub(pattern, replace, file.read_text()))
    if changelog_section("Unreleased").strip():
        title = f"## [Unreleased]\n\n## [{version}] - {datetime.datetime.now(datetime.UTC).date()}\n"
        CHANGELOG.write_text(CHANGELOG.read_text().replace("## [Unreleased]\n", title, 1))
    # JSON is valid YAML and needs no special quoting.
    changes = parse_changes(changelog_section(version))
    lines = "".join(f"    - {json.dumps(change, ensure_ascii=False)}\n" for change in changes)
    chart = re.sub(r"(?m)^  artifacthub\.io/changes: \|\n(    .*\n)*", "", CHART.read_text())
    CHART.write_text(f"{chart.rstrip()}\n  artifacthub.io/changes: |\n{lines}" if lines else chart)


def main() -> None:
    """Print, change or check the version."""
    parser = argparse.ArgumentParser(prog=verb.name, description=__doc__)
    parser.add_argument("new", nargs="?", metavar="NEW", help="version to write, for example 1.2.3")
    parser.add_argument("--tag", help="fail unless this tag is of the current version")
    options = parser.parse_args()
    if options.new:
        if not re.fullmatch(SEMANTIC_VERSION, options.new):
            parser.error(f"{options.new!r} is not a semantic version: write it like 1.2.3")
        write_version(options.new)
        verb.log(f"the version is now {options.new}: review the changes, commit them and tag them v{options.new}")
    version = read_version()
    if options.tag is not None:
        if options.tag != f"v{version}":
            verb.fail(f"the tag {options.tag} is not v{version}: tag the commit that has its version")
        if not changelog_section(version).strip():
            verb.fail(f"CHANGELOG.md has no changes for {version}: run `scripts/version {version}`")
    print(version)


if __name__ == "__main__":
    verb.main(main)
