"""scripts/setup with the real venv and pip, on small packages made here."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
USES = ("serve", "demo", "images", "develop", "bench")


class Tree:
    """A repository with nothing in it but scripts/setup and requirements."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a repository"
        self.wheels = folder / "wheels"

    def start(self, *uses: str) -> subprocess.Popen[str]:
        """Start scripts/setup, in a folder that has nothing to do with it."""
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.Popen(
            [self.root / "scripts/setup", *uses],
            cwd=self.root.parent,
            env=os.environ | pip,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def setup(self, *uses: str) -> str:
        """Run scripts/setup, which must succeed and leave stdout alone, and return what it said."""
        process = self.start(*uses)
        output, said = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, ""), said
        return said

    def fail(self, *uses: str) -> str:
        """Run scripts/setup, which must fail, and return what it said."""
        process = self.start(*uses)
        _, said = process.communicate(timeout=120)
        assert process.returncode not in (0, None), said
        return said

    def installed(self, package: str) -> str:
        """Return the version of a package that .venv imports, or "" where it has none."""
        code = f"import {package}; print({package}.VERSION)"
        done = subprocess.run([self.root / ".venv/bin/python", "-c", code], capture_output=True, text=True)
        return done.stdout.strip()

    def pin(self, use: str, package: str, version: str, files: int = 0, needs: str = "") -> None:
        """Make a package, which may need another one, and let a use ask for exactly it."""
        wheel = self.wheels / f"{package}-{version}-py3-none-any.whl"
        about = f"{package}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{package}/__init__.py", f"VERSION = '{version}'\n")
            for number in range(files):
                archive.writestr(f"{package}/data/{number}", "")
            metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
            archive.writestr(f"{about}/METADATA", metadata + (f"Requires-Dist: {needs}\n" if needs else ""))
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.root / f"requirements/{use}.txt").write_text(f"{package}=={version} --hash=sha256:{digest}\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree that is set up to serve."""
    tree = Tree(tmp_path_factory.mktemp("made"))
    tree.wheels.mkdir()
    (tree.root / "requirements").mkdir(parents=True)
    for name in ("scripts/setup", "tools/__init__.py", "tools/verb.py", "tools/virtualenv.py"):
        (tree.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree.root / name)
    for use in USES:
        tree.pin(use, f"for_{use}", "1.0")
    tree.setup("serve")
    return tree


@pytest.fixture
def tree(made: Tree, tmp_path: Path) -> Tree:
    """A copy of that tree, to be changed."""
    copy = Tree(tmp_path)
    shutil.copytree(made.root, copy.root, symlinks=True)
    shutil.copytree(made.wheels, copy.wheels)
    return copy


@pytest.fixture
def slow(tree: Tree) -> Iterator[subprocess.Popen[str]]:
    """A run that is in the middle of installing a package of many files for images."""
    tree.pin("images", "for_images", "2.0", files=10_000)
    process = tree.start("images")
    log = tree.root / ".venv/setup.log"
    while not (log.exists() and "Installing collected packages" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate()


def test_a_run_installs_what_the_use_pins_and_nothing_else(made: Tree) -> None:
    assert made.installed("for_serve") == "1.0"
    assert made.installed("for_develop") == ""


def test_a_second_run_does_nothing_and_needs_no_packages(tree: Tree) -> None:
    shutil.rmtree(tree.wheels)
    assert tree.setup("serve") == ""


def test_a_moved_repository_stays_set_up(tree: Tree) -> None:
    shutil.rmtree(tree.wheels)
    tree.root = tree.root.rename(tree.root.with_name("elsewhere"))
    assert tree.setup("serve") == ""
    assert tree.installed("for_serve") == "1.0"


def test_another_use_is_added_to_what_is_there(tree: Tree) -> None:
    kept = tree.root / ".venv/kept"
    kept.touch()
    tree.setup("demo")
    assert (tree.installed("for_serve"), tree.installed("for_demo")) == ("1.0", "1.0")
    assert kept.exists()


def test_develop_holds_serve_and_images(tree: Tree) -> None:
    tree.setup("develop")
    shutil.rmtree(tree.wheels)
    assert tree.setup("serve", "images", "develop") == ""


def test_changed_pins_are_installed(tree: Tree) -> None:
    tree.pin("serve", "for_serve", "1.1")
    tree.setup("serve")
    assert tree.installed("for_serve") == "1.1"


def test_what_a_package_needs_has_the_version_that_is_pinned_though_there_is_a_newer_one(tree: Tree) -> None:
    tree.pin("images", "needed", "2.0")
    tree.pin("images", "needed", "1.0")
    pins = tree.root / "requirements/images.txt"
    needed = pins.read_text()
    tree.pin("images", "for_images", "2.0", needs="needed[more]>=1")
    pins.write_text(pins.read_text() + needed)
    tree.setup("images")
    assert (tree.installed("for_images"), tree.installed("needed")) == ("2.0", "1.0")


def test_a_use_that_another_one_overtook_is_installed_again(tree: Tree) -> None:
    before = (tree.root / "requirements/serve.txt").read_text()
    tree.pin("serve", "for_serve", "1.1")
    tree.pin("develop", "for_serve", "1.1")
    tree.setup("develop")
    (tree.root / "requirements/develop.txt").write_text(before)
    (tree.root / "requirements/serve.txt").write_text(before)
    tree.setup("serve")
    assert tree.installed("for_serve") == "1.0"


def test_a_file_with_another_hash_is_refused_and_what_was_there_stays_usable(tree: Tree) -> None:
    (tree.root / "requirements/demo.txt").write_text(f"for_demo==1.0 --hash=sha256:{'0' * 64}\n")
    kept = tree.root / ".venv/kept"
    kept.touch()
    said = tree.fail("demo")
    assert "DO NOT MATCH THE HASHES" in said
    assert "Run the same command to try again" in said
    assert tree.installed("for_demo") == ""
    assert tree.setup("serve") == ""
    assert kept.exists()


def test_an_installation_that_was_cut_short_is_made_anew(tree: Tree, slow: subprocess.Popen[str]) -> None:
    kept = tree.root / ".venv/kept"
    kept.touch()
    slow.send_signal(signal.SIGTERM)
    assert slow.wait(timeout=60) == 143
    assert "making it again" in tree.setup("serve", "images")
    assert (tree.installed("for_serve"), tree.installed("for_images")) == ("1.0", "2.0")
    assert not kept.exists()


def test_an_environment_whose_making_was_cut_short_is_made_anew(tree: Tree) -> None:
    (tree.root / ".venv/setup.json").unlink()
    (tree.root / ".venv/setup.log").touch()
    assert "making it again" in tree.setup("serve")
    assert tree.installed("for_serve") == "1.0"


def test_an_environment_of_another_python_is_made_anew(tree: Tree) -> None:
    state = tree.root / ".venv/setup.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"python": "3.1"}))
    assert "making it again" in tree.setup("serve")
    assert tree.setup("serve") == ""


def test_a_run_waits_for_one_that_is_at_work(tree: Tree, slow: subprocess.Popen[str]) -> None:
    said = tree.setup("serve", "demo")
    assert "waiting for another process" in said
    assert "making it again" not in said
    assert slow.wait(timeout=60) == 0
    assert (tree.installed("for_images"), tree.installed("for_demo")) == ("2.0", "1.0")


def test_a_run_waits_for_the_pip_that_a_killed_one_left_behind(tree: Tree, slow: subprocess.Popen[str]) -> None:
    slow.kill()
    said = tree.setup("serve")
    assert "waiting for another process" in said
    assert "making it again" in said
    assert tree.installed("for_serve") == "1.0"


def test_an_environment_made_by_something_else_is_left_alone(tree: Tree) -> None:
    (tree.root / ".venv/setup.json").unlink()
    said = tree.fail("serve")
    assert "scripts/setup did not make" in said
    assert "move it away" in said
    assert tree.installed("for_serve") == "1.0"


def test_an_unknown_use_is_named_together_with_those_there_are(tree: Tree) -> None:
    said = tree.fail("train")
    assert all(use in said for use in ("train", *USES))
