"""Faults of the hub and of the registry during a push: no tag ever points to invalid weights."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints.catalogue import CatalogueModel
from images.errors import ImageError, TransientError
from images.oci.reference import parse_reference
from images.oci.store import Store
from images.weights.hub_source import BLOCK_BYTES, HubSource
from images.weights.lock import LockEntry, read_entry
from images.weights.manifest import missing_layers
from images.weights.push import push_weights
from tests.support.hub import Hub
from tests.support.repository import SHARDS, write_repository
from tools.harness.images import lock_from_hub
from tools.harness.registry import ROOT, Fault, Proxy, registry

FIRST, SECOND = SHARDS
UPLOAD = "/blobs/uploads/"


@pytest.fixture
def entry(hub: Hub, model: CatalogueModel, tmp_path: Path) -> LockEntry:
    """The lock entry of the model on the hub."""
    entry = lock_from_hub(model, tmp_path / "lock.json")
    hub.requests.clear()
    return entry


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Store:
    """A repository for this test, behind the proxy."""
    name = tmp_path.name.lower().strip("_").replace("__", "_")
    return parse_reference(f"{proxy.host}/{name}:1").store


def push_and_verify(entry: LockEntry, model: CatalogueModel, store: Store) -> None:
    """Push, and verify the tag and every layer."""
    push_weights(entry, HubSource(model), store)
    assert store.get_manifest(entry.tag)
    assert missing_layers(entry, store) == []


def push_and_fail(entry: LockEntry, model: CatalogueModel, store: Store) -> str:
    """Push, which must fail without a tag, and return the error."""
    with pytest.raises(ImageError) as error:
        push_weights(entry, HubSource(model), store)
    assert store.get_manifest(entry.tag) is None
    return str(error.value)


@pytest.mark.parametrize(("name", "position"), [(FIRST, 150_000), (FIRST, 300_050), ("config.json", 3)])
def test_corrupted_byte_is_never_stored(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, name: str, position: int
) -> None:
    hub.flip = {name: position}
    error = push_and_fail(entry, model, store)
    layer = "7 small files" if name == "config.json" else name
    assert f"{name} from {hub.url} is damaged: its" in error
    assert layer in missing_layers(entry, store)
    hub.flip = {}
    push_and_verify(entry, model, store)


def test_byte_corrupted_once_is_sent_again(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.flip_once = {FIRST: 150_000}
    push_and_verify(entry, model, store)
    assert "is damaged: its SHA-256" in capfd.readouterr().err
    assert len(hub.sent(FIRST)) == 2


@pytest.mark.parametrize("change", [-1, 1, 5_000])
def test_file_of_another_size_is_refused_before_it_is_sent(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, change: int
) -> None:
    path = hub.directory / FIRST
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    error = push_and_fail(entry, model, store)
    assert f"announces {len(content) + change:,} bytes for {FIRST} instead of {len(content):,}" in error
    assert proxy.blob_bytes < len(content)


def test_dropped_hub_connection_resumes_within_the_same_upload(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    hub.cut = {FIRST: 280_000, "tokenizer.json": 1}
    push_and_verify(entry, model, store)
    assert [(one.range, one.sent) for one in hub.sent(FIRST)][1:] == [
        (f"bytes={BLOCK_BYTES}-", entry.files[0].size - BLOCK_BYTES)
    ]
    # Three layers, a configuration, and an SBOM with its empty configuration.
    assert len([call for call in proxy.calls if call.method == "PUT" and UPLOAD in call.path]) == 6


def test_hub_without_ranges_does_not_cause_duplicate_bytes(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store
) -> None:
    hub.cut, hub.ranges = {FIRST: 280_000}, False
    push_and_verify(entry, model, store)


@pytest.mark.parametrize("status", [0, 500, 429, 503])
@pytest.mark.parametrize("after", [None, 100_000])
def test_registry_retries_a_dropped_upload(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, status: int, after: int | None
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=2, after=after, headers={"Retry-After": "0"})]
    push_and_verify(entry, model, store)


@pytest.mark.parametrize("method", ["HEAD", "POST", "GET"])
def test_request_to_a_failing_registry_is_retried(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, method: str
) -> None:
    proxy.faults = [Fault(method, "/v2/", 500), Fault(method, "/v2/", 0)]
    push_and_verify(entry, model, store)


def test_retry_after_of_a_registry_is_honoured(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.faults = [Fault("POST", UPLOAD, 429, headers={"Retry-After": "1"})]
    begin = time.monotonic()
    push_and_verify(entry, model, store)
    assert time.monotonic() - begin >= 1
    assert "returned HTTP 429 to POST; retrying in 1 s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "remedy"), [(500, "returned HTTP 500 to PUT"), (416, "limits the size"), (403, "docker login")]
)
def test_registry_that_keeps_failing_is_named(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, status: int, remedy: str
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=1000)]
    error = push_and_fail(entry, model, store)
    assert store.location in error
    assert remedy in error


@pytest.mark.parametrize("status", [201, 202])
def test_blob_that_a_registry_loses_is_sent_again(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy, status: int
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=1, after=100)]
    push_and_verify(entry, model, store)
    proxy.faults = []


def test_registry_that_loses_every_blob_is_named(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, 201, times=1000, after=100)]
    assert "but does not have it" in push_and_fail(entry, model, store)


def test_response_202_instead_of_201_is_accepted_if_the_blob_exists(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, 202, times=10, forwarded=True)]
    push_and_verify(entry, model, store)


def test_expired_token_is_renewed_during_a_push(
    entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    proxy.token, proxy.uses = (), 4
    push_and_verify(entry, model, store)
    assert len([call for call in proxy.calls if call.path.startswith("/token")]) > 3


def test_second_push_sends_nothing_and_requests_nothing_from_the_hub(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    push_and_verify(entry, model, store)
    hub.requests.clear()
    proxy.calls.clear()
    push_and_verify(entry, model, store)
    assert proxy.blob_bytes == 0
    assert {call.method for call in proxy.calls} == {"HEAD", "GET"}
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "returned HTTP 404 for"),
        (403, "Set HF_TOKEN"),
        (410, "returned HTTP 410 for"),
    ],
)
def test_hub_that_refuses_a_file_is_named(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, status: int, text: str
) -> None:
    hub.status = {FIRST: status}
    error = push_and_fail(entry, model, store)
    assert text in error
    assert model.repository in error


def test_request_to_a_busy_hub_is_retried(hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store) -> None:
    hub.status = {FIRST: 429, SECOND: 503}
    push_and_verify(entry, model, store)


def test_shard_with_an_invalid_header_is_refused_at_its_beginning(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, proxy: Proxy
) -> None:
    hub.flip = {FIRST: 9}
    error = push_and_fail(entry, model, store)
    assert f"{FIRST} from {hub.url} is not a valid safetensors file" in error
    assert len(hub.sent(FIRST)) == 1
    assert not [call for call in proxy.calls if call.method == "PUT" and call.received > 250_000]


def test_layer_that_contradicts_the_lock_file_is_refused(
    entry: LockEntry, model: CatalogueModel, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "lock.json"
    wrong = "sha256:" + "0" * 64
    path.write_text(path.read_text().replace(entry.layers[0].digest, wrong))
    changed = read_entry(path, model)
    assert changed
    assert f"the digest of the layer of {FIRST} is {entry.layers[0].digest}" in push_and_fail(changed, model, store)


def test_first_failure_cancels_other_transfers(
    hub: Hub, entry: LockEntry, model: CatalogueModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.status = {SECOND: 404}
    hub.stall = {FIRST: 100_000}
    begin = time.monotonic()
    with pytest.raises(ImageError, match="404"):
        push_weights(entry, HubSource(model), store)
    assert FIRST in missing_layers(entry, store)
    assert time.monotonic() - begin < 30


def test_unreachable_registry_is_named(entry: LockEntry, model: CatalogueModel) -> None:
    store = parse_reference("127.0.0.1:1/nothing").store
    with pytest.raises(TransientError, match=r"127.0.0.1:1/nothing cannot be reached, .* --plain-http"):
        push_weights(entry, HubSource(model), store)


def test_push_killed_at_ten_random_moments_completes_when_run_again(tmp_path: Path, model: CatalogueModel) -> None:
    source = write_repository(tmp_path / "repository", {FIRST: 20_000_000, SECOND: 20_000_000})
    path, name = tmp_path / "lock.json", "killed"
    moments = random.Random(7)  # noqa: S311 - the same moments in every run
    with Hub(source, model.repository, model.revision) as hub, registry(tmp_path / "registry") as host:
        environment = os.environ | {"HF_ENDPOINT": hub.url}
        command = [sys.executable, "-m", "images"]
        end = ["--lock", str(path)]
        subprocess.run([*command, "lock", model.name, *end], env=environment, cwd=ROOT, check=True)
        push_command = [*command, "weights", model.name, f"{host}/{name}", *end]
        store = parse_reference(f"{host}/{name}").store
        entry = read_entry(path, model)
        assert entry
        killed = 0
        for _ in range(10):
            with subprocess.Popen(push_command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
                time.sleep(moments.uniform(0.3, 1.4))
                process.send_signal(signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
            assert store.get_manifest(entry.tag) is None or missing_layers(entry, store) == []
        assert killed > 0
        subprocess.run(push_command, env=environment, cwd=ROOT, check=True)
        assert store.get_manifest(entry.tag)
        assert missing_layers(entry, store) == []
