"""scripts/setup with the real venv and pip, on small packages that the tests make."""

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
    """A repository that holds scripts/setup and requirements only."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "a repository"
        self.wheels = directory / "wheels"

    def start(self, *uses: str) -> subprocess.Popen[str]:
        """Start scripts/setup from another directory."""
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
        """Run scripts/setup, which must succeed without output, and return its messages."""
        process = self.start(*uses)
        output, messages = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, ""), messages
        return messages

    def fail(self, *uses: str) -> str:
        """Run scripts/setup, which must fail, and return its messages."""
        process = self.start(*uses)
        _, messages = process.communicate(timeout=120)
        assert process.returncode not in (0, None), messages
        return messages

    def installed(self, package: str) -> str:
        """Return the version of a package that .venv imports, or "" if it is not installed."""
        code = f"import {package}; print({package}.VERSION)"
        done = subprocess.run([self.root / ".venv/bin/python", "-c", code], capture_output=True, text=True)
        return done.stdout.strip()

    def pin(self, use: str, package: str, version: str, files: int = 0, needs: str = "") -> None:
        """Make a package, which may require another one, and pin it as the only package of a use."""
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
    """A repository with the use serve installed."""
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
    """A copy of that repository, which a test may change."""
    copy = Tree(tmp_path)
    shutil.copytree(made.root, copy.root, symlinks=True)
    shutil.copytree(made.wheels, copy.wheels)
    return copy


@pytest.fixture
def running(tree: Tree) -> Iterator[subprocess.Popen[str]]:
    """A run that is installing a package of many files for the use images."""
    tree.pin("images", "for_images", "2.0", files=10_000)
    process = tree.start("images")
    log = tree.root / ".venv/setup.log"
    while not (log.exists() and "Installing collected packages" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate()


def test_a_run_installs_only_the_packages_of_its_use(made: Tree) -> None:
    assert made.installed("for_serve") == "1.0"
    assert made.installed("for_develop") == ""


def test_a_second_run_installs_nothing(tree: Tree) -> None:
    shutil.rmtree(tree.wheels)
    assert tree.setup("serve") == ""


def test_a_moved_repository_stays_set_up(tree: Tree) -> None:
    shutil.rmtree(tree.wheels)
    tree.root = tree.root.rename(tree.root.with_name("elsewhere"))
    assert tree.setup("serve") == ""
    assert tree.installed("for_serve") == "1.0"


def test_another_use_is_added_to_the_environment(tree: Tree) -> None:
    kept = tree.root / ".venv/kept"
    kept.touch()
    tree.setup("demo")
    assert (tree.installed("for_serve"), tree.installed("for_demo")) == ("1.0", "1.0")
    assert kept.exists()


def test_develop_includes_serve_and_images(tree: Tree) -> None:
    tree.setup("develop")
    shutil.rmtree(tree.wheels)
    assert tree.setup("serve", "images", "develop") == ""


def test_changed_pins_are_installed(tree: Tree) -> None:
    tree.pin("serve", "for_serve", "1.1")
    tree.setup("serve")
    assert tree.installed("for_serve") == "1.1"


def test_a_dependency_has_the_pinned_version_even_if_a_newer_one_exists(tree: Tree) -> None:
    tree.pin("images", "needed", "2.0")
    tree.pin("images", "needed", "1.0")
    pins = tree.root / "requirements/images.txt"
    needed = pins.read_text()
    tree.pin("images", "for_images", "2.0", needs="needed[more]>=1")
    pins.write_text(pins.read_text() + needed)
    tree.setup("images")
    assert (tree.installed("for_images"), tree.installed("needed")) == ("2.0", "1.0")


def test_a_use_whose_packages_another_use_replaced_is_installed_again(tree: Tree) -> None:
    before = (tree.root / "requirements/serve.txt").read_text()
    tree.pin("serve", "for_serve", "1.1")
    tree.pin("develop", "for_serve", "1.1")
    tree.setup("develop")
    (tree.root / "requirements/develop.txt").write_text(before)
    (tree.root / "requirements/serve.txt").write_text(before)
    tree.setup("serve")
    assert tree.installed("for_serve") == "1.0"


def test_a_file_with_another_hash_is_rejected_and_the_environment_stays_usable(tree: Tree) -> None:
    (tree.root / "requirements/demo.txt").write_text(f"for_demo==1.0 --hash=sha256:{'0' * 64}\n")
    kept = tree.root / ".venv/kept"
    kept.touch()
    messages = tree.fail("demo")
    assert "DO NOT MATCH THE HASHES" in messages
    assert "Run the same command to try again" in messages
    assert tree.installed("for_demo") == ""
    assert tree.setup("serve") == ""
    assert kept.exists()


def test_an_interrupted_installation_starts_over(tree: Tree, running: subprocess.Popen[str]) -> None:
    kept = tree.root / ".venv/kept"
    kept.touch()
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    assert "making it again" in tree.setup("serve", "images")
    assert (tree.installed("for_serve"), tree.installed("for_images")) == ("1.0", "2.0")
    assert not kept.exists()


def test_an_interrupted_creation_of_the_environment_starts_over(tree: Tree) -> None:
    (tree.root / ".venv/setup.json").unlink()
    (tree.root / ".venv/setup.log").touch()
    assert "making it again" in tree.setup("serve")
    assert tree.installed("for_serve") == "1.0"


def test_an_environment_of_another_python_version_is_replaced(tree: Tree) -> None:
    state = tree.root / ".venv/setup.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"python": "3.1"}))
    assert "making it again" in tree.setup("serve")
    assert tree.setup("serve") == ""


def test_a_run_waits_for_another_run(tree: Tree, running: subprocess.Popen[str]) -> None:
    messages = tree.setup("serve", "demo")
    assert "waiting for another process" in messages
    assert "making it again" not in messages
    assert running.wait(timeout=60) == 0
    assert (tree.installed("for_images"), tree.installed("for_demo")) == ("2.0", "1.0")


def test_a_run_waits_for_the_pip_of_a_killed_run(tree: Tree, running: subprocess.Popen[str]) -> None:
    running.kill()
    messages = tree.setup("serve")
    assert "waiting for another process" in messages
    assert "making it again" in messages
    assert tree.installed("for_serve") == "1.0"


def test_an_environment_of_the_user_is_not_changed(tree: Tree) -> None:
    (tree.root / ".venv/setup.json").unlink()
    messages = tree.fail("serve")
    assert "scripts/setup did not make" in messages
    assert "move it away" in messages
    assert tree.installed("for_serve") == "1.0"


def test_the_error_for_an_unknown_use_lists_the_known_uses(tree: Tree) -> None:
    messages = tree.fail("train")
    assert all(use in messages for use in ("train", *USES))
