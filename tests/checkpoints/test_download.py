"""Downloads with the official client, each in a process of its own, from a hub on this machine."""

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE
from tests.support.hub import Hub

ROOT = Path(__file__).parents[2]
MODEL = CATALOGUE["mini-4k"]
SHARDS = {"model-00001-of-00002.safetensors": 3_000_000, "model-00002-of-00002.safetensors": 2_000_000}
FIRST, SECOND = SHARDS
WANTED = {
    *SHARDS,
    "LICENSE",
    "NOTICE.md",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
}
SKIPPED = {"README.md", "modeling_phi3.py", "onnx/model.safetensors", "pytorch_model.bin", "training_args.pt"}
ADMITTED, REFUSED = "hf_not_to_be_seen", "hf_of_somebody_else"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the layout of Phi-3's and random weights."""
    directory = tmp_path / "repository"
    (directory / "onnx").mkdir(parents=True)
    for name in WANTED | SKIPPED:
        (directory / name).write_text(f"{name}\n")
    for name, size in SHARDS.items():
        (directory / name).write_bytes(os.urandom(size))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "config.json").write_text(json.dumps({"model_type": "phi3"}))
    weights = {f"layer{number}.weight": name for number, name in enumerate(SHARDS)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return directory


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    with Hub(repository, MODEL.repository, MODEL.revision) as hub:
        yield hub


class Client:
    """`python -m checkpoints mini-4k` against one hub, in a minimal environment."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.models = directory / "models"
        self.directory = self.models / MODEL.name
        self.partial = self.models / f".{MODEL.name}.partial"
        self.command = [sys.executable, "-m", "checkpoints", MODEL.name, "--directory", str(self.models)]
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        self.environment = measured | {"PATH": os.environ["PATH"], "HOME": str(directory), "HF_ENDPOINT": endpoint}

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, **environment: str) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr."""
        with self.start(**environment) as process:
            stdout, stderr = process.communicate(timeout=60)
            return process.returncode, stdout, stderr

    def succeed(self, **environment: str) -> str:
        """Return stderr."""
        status, stdout, stderr = self.run(**environment)
        assert (status, stdout) == (0, f"{self.directory}\n"), stderr
        return stderr

    def fail(self, **environment: str) -> str:
        """Return the error message, which must be the last line and no traceback."""
        status, stdout, stderr = self.run(**environment)
        assert (status, stdout) == (1, ""), stderr
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1].startswith("error: ")
        assert not self.directory.exists()
        return stderr.splitlines()[-1]

    def wait_for(self, name: str, size: int) -> None:
        """Wait until so many bytes of a file have arrived."""
        path = self.partial / name
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < size:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def client(tmp_path: Path, hub: Hub) -> Client:
    return Client(tmp_path, hub.url)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_download_is_complete_with_the_hashes_of_its_files(client: Client, repository: Path) -> None:
    client.succeed()
    arrived = content(client.directory)
    manifest = json.loads(arrived.pop("hashes.json"))
    assert arrived == {name: (repository / name).read_bytes() for name in WANTED}
    assert manifest == {
        "repository": "microsoft/Phi-3-mini-4k-instruct",
        "revision": "0a67737cc96d2554230f90338b163bc6380a2a85",
        "files": {
            name: {"size": len(file), "sha256": hashlib.sha256(file).hexdigest()} for name, file in arrived.items()
        },
    }


def test_only_wanted_files_are_requested(client: Client, hub: Hub) -> None:
    stderr = client.succeed()
    assert not any(request.path.endswith(tuple(SKIPPED)) for request in hub.requests)
    assert {request.path.split("/")[1] for request in hub.requests if request.host == "hub"} == {"api", "microsoft"}
    assert len([request for request in hub.requests if request.path.startswith("/api")]) == 1
    assert [line for line in stderr.splitlines() if "skipping" in line] == [
        f"mini-4k: skipping {', '.join(sorted(SKIPPED))}"
    ]


def test_second_run_requests_nothing(client: Client, hub: Hub) -> None:
    client.succeed()
    hub.requests.clear()
    assert client.succeed() == ""
    assert hub.requests == []


def test_dropped_connection_resumes(client: Client, hub: Hub) -> None:
    hub.cut = {FIRST: 1_000_000, "tokenizer.json": 1}
    client.succeed()
    assert [(one.range, one.sent) for one in hub.sent(FIRST)] == [
        (None, 1_000_000),
        ("bytes=1000000-", SHARDS[FIRST] - 1_000_000),
    ]
    assert [(one.range, one.sent) for one in hub.sent("tokenizer.json")] == [(None, 1), ("bytes=1-", 1)]


def test_hub_without_ranges_sends_the_file_again(client: Client, hub: Hub, repository: Path) -> None:
    hub.cut = {FIRST: 1_000_000}
    hub.ranges = False
    client.succeed()
    assert [one.sent for one in hub.sent(FIRST)] == [1_000_000, SHARDS[FIRST]]
    assert content(client.directory)[FIRST] == (repository / FIRST).read_bytes()


def test_request_to_an_overloaded_hub_is_retried(client: Client, hub: Hub) -> None:
    hub.status = {FIRST: 503}
    client.succeed()


def test_hub_that_refuses_a_listed_file_is_named(client: Client, hub: Hub) -> None:
    hub.status = {FIRST: 410}
    assert (
        "127.0.0.1 returned HTTP 410 for model-00001-of-00002.safetensors of microsoft/Phi-3-mini-4k-instruct"
        in client.fail()
    )


def test_killed_download_resumes(client: Client, hub: Hub, repository: Path) -> None:
    hub.stall = {FIRST: 1_000_000}
    with client.start() as process:
        client.wait_for(FIRST, 1_000_000)
        client.wait_for(SECOND, SHARDS[SECOND])
        process.send_signal(signal.SIGKILL)
    assert not client.directory.exists()
    client.succeed()
    assert [(one.range, one.sent) for one in hub.sent(FIRST)] == [
        (None, 1_000_000),
        ("bytes=1000000-", SHARDS[FIRST] - 1_000_000),
    ]
    assert len(hub.sent(SECOND)) == 1
    assert content(client.directory)[FIRST] == (repository / FIRST).read_bytes()


def test_interrupt_is_reported_in_one_line_and_the_next_run_resumes(client: Client, hub: Hub) -> None:
    # A background job of a shell ignores SIGINT, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hub.stall = {FIRST: 1_000_000}
    with client.start(HF_HUB_DOWNLOAD_TIMEOUT="8") as process:
        client.wait_for(FIRST, 1_000_000)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "Interrupted; run this again to resume"
    assert len(hub.sent(FIRST)) == 1
    client.succeed()
    assert hub.sent(FIRST)[-1].range == "bytes=1000000-"


@pytest.mark.parametrize(("name", "position"), [(FIRST, 2_000_000), ("config.json", 3)])
def test_corrupted_file_is_refused_and_downloaded_again(
    client: Client, hub: Hub, repository: Path, name: str, position: int
) -> None:
    hub.flip = {name: position}
    error = client.fail()
    expected = hub.entry(name)
    assert f"{name} of mini-4k arrived damaged" in error
    assert expected.get("lfs", expected)["oid"] in error
    assert not (client.partial / name).exists()
    hub.flip = {}
    client.succeed()
    assert content(client.directory)[name] == (repository / name).read_bytes()


def test_partial_file_damaged_on_disk_is_refused(client: Client, hub: Hub) -> None:
    hub.stall = {FIRST: 1_000_000}
    with client.start() as process:
        client.wait_for(FIRST, 1_000_000)
        process.kill()
    with (client.partial / FIRST).open("r+b") as file:
        file.write(b"not what came")
    assert f"{FIRST} of mini-4k arrived damaged" in client.fail()
    client.succeed()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", SECOND])
def test_incomplete_repository_is_refused_before_weights_are_sent(
    client: Client, hub: Hub, repository: Path, name: str
) -> None:
    (repository / name).unlink()
    assert f"has no {name} in revision {MODEL.revision}" in client.fail()
    assert not hub.sent(FIRST)


def test_repository_without_an_index_needs_its_weights_in_one_file(client: Client, hub: Hub, repository: Path) -> None:
    (repository / "model.safetensors.index.json").unlink()
    assert "has no model.safetensors in revision" in client.fail()
    (repository / FIRST).rename(repository / "model.safetensors")
    (repository / SECOND).unlink()
    client.succeed()
    assert len(hub.sent("model.safetensors")) == 1


def test_hub_without_the_revision_is_named(client: Client, hub: Hub) -> None:
    hub.revision = "0" * 40
    assert f"{hub.url} has no revision {MODEL.revision}" in client.fail()


def test_response_with_another_revision_is_refused(client: Client, hub: Hub) -> None:
    hub.claimed_revision = "1" * 40
    assert f"returned revision {'1' * 40}" in client.fail()


def test_missing_repository_is_named(client: Client, hub: Hub) -> None:
    hub.repository = "someone/else"
    error = client.fail()
    assert "denies access to microsoft/Phi-3-mini-4k-instruct (HTTP 401)" in error
    assert "HF_TOKEN" in error


def test_gated_repository_needs_a_token_that_only_the_hub_receives(client: Client, hub: Hub) -> None:
    hub.token = ADMITTED
    assert "Set HF_TOKEN" in client.fail()
    error = client.fail(HF_TOKEN=REFUSED)
    assert "(HTTP 403)" in error
    assert REFUSED not in error
    hub.requests.clear()
    assert ADMITTED not in client.succeed(HF_TOKEN=ADMITTED)
    assert {(one.host, one.authorization) for one in hub.requests} == {("hub", f"Bearer {ADMITTED}"), ("cdn", None)}


def test_malformed_token_is_reported_but_not_shown(client: Client) -> None:
    error = client.fail(HF_TOKEN=f"{ADMITTED}…")
    assert "HF_TOKEN" in error
    assert ADMITTED not in error


def test_unreachable_hub_is_named_without_the_password_in_its_address(tmp_path: Path, repository: Path) -> None:
    with Hub(repository, MODEL.repository, MODEL.revision) as hub:
        pass
    error = Client(tmp_path, hub.url.replace("//", "//user:password@")).fail()
    assert f"{hub.url} cannot be reached" in error
    assert "HF_ENDPOINT" in error


def test_address_without_a_hub_is_named(tmp_path: Path, hub: Hub) -> None:
    page = hub.directory / "api" / "models" / MODEL.repository / "revision" / MODEL.revision
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    error = Client(tmp_path, hub.cdn_url).fail()
    assert f"{hub.cdn_url} does not respond like a Hugging Face hub" in error


def test_offline_mode_is_reported(client: Client) -> None:
    assert "unset HF_HUB_OFFLINE" in client.fail(HF_HUB_OFFLINE="1")


def test_full_disk_is_reported_before_anything_is_sent(client: Client, hub: Hub) -> None:
    hub.sizes = {FIRST: 10**18}
    error = client.fail()
    assert "mini-4k needs 1.00EB more" in error
    assert " free: free some space" in error
    assert not hub.sent("config.json")


def test_concurrent_processes_download_once(client: Client, hub: Hub) -> None:
    hub.stall = {FIRST: 1_000_000}
    with client.start() as first:
        client.wait_for(FIRST, 1_000_000)
        with client.start() as second:
            assert second.stderr
            assert "waiting for it" in second.stderr.readline()
            hub.released.set()
            assert [process.communicate(timeout=60)[0] for process in (first, second)] == [f"{client.directory}\n"] * 2
    assert [one.sent for name in SHARDS for one in hub.sent(name)] == list(SHARDS.values())


def test_other_revision_is_replaced_when_the_new_one_is_complete(client: Client, hub: Hub) -> None:
    older = {"revision": "2" * 40, "files": {}}
    client.directory.mkdir(parents=True)
    (client.directory / "hashes.json").write_text(json.dumps(older))
    hub.flip = {FIRST: 0}
    status, _, stderr = client.run()
    assert (status, "arrived damaged" in stderr) == (1, True)
    assert content(client.directory) == {"hashes.json": json.dumps(older).encode()}
    hub.flip = {}
    client.succeed()
    assert json.loads((client.directory / "hashes.json").read_text())["revision"] == MODEL.revision
    assert sorted(path.name for path in client.models.iterdir()) == [".mini-4k.lock", "mini-4k"]


def test_download_does_not_resume_from_another_revision(client: Client, hub: Hub) -> None:
    client.partial.mkdir(parents=True)
    (client.partial / FIRST).write_bytes(b"another revision's")
    (client.partial / "hashes.json").write_text(json.dumps({"revision": "2" * 40}))
    client.succeed()
    assert [one.range for one in hub.sent(FIRST)] == [None]


def test_terminal_shows_a_bar(client: Client) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with subprocess.Popen(
        client.command, cwd=ROOT, env=client.environment, stdout=subprocess.PIPE, stderr=end
    ) as process:
        os.close(end)
        shown = b""
        try:
            while block := os.read(terminal, 65536):
                shown += block
        except OSError:  # the end of the terminal's output
            pass
    os.close(terminal)
    assert process.returncode == 0
    assert b"mini-4k: 100%" in shown


def test_log_shows_rate_and_time_left(client: Client) -> None:
    code = (
        "import sys; from checkpoints import __main__, download; download.LOG_INTERVAL = 0; sys.exit(__main__.main())"
    )
    client.command[1:3] = ["-c", code]
    lines = client.succeed().splitlines()
    assert any(re.fullmatch(r"mini-4k: [\d.]+MB of 5\.00MB, [\d.]+[kMG]B/s, [\d:]+ left", line) for line in lines)
    assert f"mini-4k: {FIRST} verified" in lines
