"""scripts/tools with the real Go, on a small program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GO_MOD = """module example.com/pins

go 1.24

require example.com/greet/v2 v2.1.0 // indirect

replace example.com/greet/v2 => ./greet

tool example.com/greet/v2/cmd/hello
"""
HELLO = """package main

import "fmt"

var version = "none"

func main() { fmt.Println("hello", version) }
"""


class Tree:
    """A repository that holds scripts/tools and one tool, greet, only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tool = root / "tools/go/greet"
        self.program = root / ".tools/bin/greet"
        command = self.tool / "greet/cmd/hello"
        command.mkdir(parents=True)
        for name in ("scripts/tools", "tools/__init__.py", "tools/verb.py", "tools/go_tools.py"):
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        (self.tool / "go.mod").write_text(GO_MOD)
        (self.tool / "go.sum").touch()
        (self.tool / "flags").write_text("-ldflags=-s -w -X main.version={version}\n")
        (self.tool / "greet/go.mod").write_text("module example.com/greet/v2\n\ngo 1.24\n")
        (command / "main.go").write_text(HELLO)

    def run(self, *names: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
        """Run scripts/tools without a network, from another directory."""
        return subprocess.run(
            [self.root / "scripts/tools", *names],
            cwd=self.root.parent,
            env=os.environ | {"GOPROXY": "off", "PATH": path},
            capture_output=True,
            text=True,
        )

    def greeting(self) -> str:
        """Return the output of the program in .tools/bin."""
        return subprocess.run([self.program], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A repository in which nothing is built."""
    return Tree(tmp_path / "a repository")


def test_a_tool_is_built_under_the_name_of_its_directory_with_its_version(tree: Tree) -> None:
    done = tree.run("greet")
    assert done.returncode == 0, done.stderr
    assert "building greet v2.1.0" in done.stderr
    assert tree.greeting() == "hello v2.1.0\n"


def test_a_second_run_builds_nothing(tree: Tree) -> None:
    tree.run("greet")
    built = tree.program.stat()
    done = tree.run("greet")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.program.stat() == built


def test_several_packages_are_built_under_their_own_names(tree: Tree) -> None:
    shutil.copytree(tree.tool / "greet/cmd/hello", tree.tool / "greet/cmd/bye")
    several = "tool (\n\texample.com/greet/v2/cmd/bye\n\texample.com/greet/v2/cmd/hello\n)\n"
    (tree.tool / "go.mod").write_text(GO_MOD.replace("tool example.com/greet/v2/cmd/hello\n", several))
    done = tree.run("greet")
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tree.program.parent.iterdir()) == ["bye", "hello"]


def test_changed_pins_are_built(tree: Tree) -> None:
    tree.run("greet")
    (tree.tool / "go.mod").write_text(GO_MOD.replace("v2.1.0", "v2.2.0"))
    tree.run("greet")
    assert tree.greeting() == "hello v2.2.0\n"


def test_a_program_on_path_is_used_only_at_the_pinned_version(tree: Tree, tmp_path: Path) -> None:
    tree.run("greet")
    directory = tmp_path / "installed"
    directory.mkdir()
    installed = tree.program.rename(directory / "greet")
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    assert f"greet v2.1.0 is {installed}" in tree.run("greet", path=path).stderr
    assert tree.program.readlink() == installed
    assert tree.run("greet", path=path).stderr == ""

    (tree.tool / "go.mod").write_text(GO_MOD.replace("v2.1.0", "v2.2.0"))
    tree.run("greet", path=path)
    assert not tree.program.is_symlink()
    assert tree.greeting() == "hello v2.2.0\n"


def test_a_failed_build_exits_with_an_error_and_is_tried_again(tree: Tree) -> None:
    tree.run("greet")
    (tree.tool / "greet/cmd/hello/main.go").write_text("package main\n\nfunc main() { nothing() }\n")
    (tree.tool / "go.mod").write_text(GO_MOD.replace("v2.1.0", "v2.2.0"))
    done = tree.run("greet")
    assert done.returncode == 1
    assert "undefined: nothing" in done.stderr
    assert "go build failed for greet" in done.stderr
    assert tree.run("greet").returncode == 1


def test_a_module_that_go_sum_lacks_is_rejected(tree: Tree) -> None:
    (tree.tool / "go.mod").write_text(GO_MOD.replace("replace example.com/greet/v2 => ./greet\n", ""))
    done = tree.run("greet")
    assert done.returncode == 1
    assert not tree.program.exists()


def test_the_error_without_go_names_the_remedies(tree: Tree, tmp_path: Path) -> None:
    directory = tmp_path / "path"
    directory.mkdir()
    for name, program in {"dirname": shutil.which("dirname"), "python3": os.path.realpath(sys.executable)}.items():
        (directory / name).symlink_to(str(program))
    done = tree.run("greet", path=str(directory))
    assert done.returncode == 1
    assert "building greet needs Go: install Go, or put greet v2.1.0 on PATH" in done.stderr


def test_the_error_for_an_unknown_tool_lists_the_known_tools(tree: Tree) -> None:
    done = tree.run("hammer")
    assert done.returncode == 2
    assert "unknown tool hammer: choose from greet" in done.stderr


@pytest.mark.parametrize("directory", sorted((ROOT / "tools/go").iterdir()), ids=lambda directory: directory.name)
def test_every_tool_of_the_repository_is_pinned(directory: Path) -> None:
    assert "\ntool " in (directory / "go.mod").read_text()
    assert "/go.mod h1:" in (directory / "go.sum").read_text()
