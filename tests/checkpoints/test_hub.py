"""The hub client, against a hub on this machine."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from checkpoints import retry
from checkpoints.catalogue import CATALOGUE
from checkpoints.errors import TransientHubError
from checkpoints.files import ModelFile
from checkpoints.hub import MAX_RETRIES, HubClient
from tests.support.hub import Hub
from tests.support.repository import SHARDS, write_repository

MODEL = CATALOGUE["mini-4k"]
FIRST = next(iter(SHARDS))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    with Hub(write_repository(tmp_path / "repository", SHARDS), MODEL.repository, MODEL.revision) as hub:
        hub.use_in_this_process(monkeypatch)
        yield hub


def first_shard(client: HubClient) -> ModelFile:
    return next(file for file in client.list_files().files if file.name == FIRST)


def test_stream_starts_at_the_given_byte(hub: Hub) -> None:
    client = HubClient(MODEL, print)
    content = (hub.directory / FIRST).read_bytes()
    blocks = list(client.stream(first_shard(client), start=1_000))
    assert blocks[0].offset == 1_000
    assert b"".join(block.content for block in blocks) == content[1_000:]


def test_offsets_restart_if_the_hub_does_not_support_ranges(hub: Hub) -> None:
    hub.ranges = False
    client = HubClient(MODEL, print)
    assert next(client.stream(first_shard(client), start=1_000)).offset == 0


def test_stream_fails_after_too_many_interruptions_without_a_new_byte(hub: Hub) -> None:
    lines: list[str] = []

    def refuse_again(line: str) -> None:
        lines.append(line)
        hub.status[FIRST] = 503

    client = HubClient(MODEL, refuse_again)
    file = first_shard(client)
    hub.status[FIRST] = 503
    with pytest.raises(TransientHubError, match="returned HTTP 503 for"):
        list(client.stream(file))
    assert len(lines) == MAX_RETRIES


def test_cancelled_client_ends_its_streams(hub: Hub) -> None:
    assert hub.url
    cancelled = threading.Event()
    client = HubClient(MODEL, print, cancelled)
    stream = client.stream(first_shard(client), block_size=1_000)
    next(stream)
    cancelled.set()
    with pytest.raises(CancelledError):
        next(stream)
