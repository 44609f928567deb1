"""What goes wrong on the way from a hub to a registry, on either side: no tag is ever left on something wrong."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from images.catalogue import Model
from images.errors import ImageError, TransientError
from images.oci import reference
from images.oci.store import Store
from images.weights import lock
from images.weights import push as weights
from images.weights.hub import BLOCK
from images.weights.hub import Hub as HubSource
from images.weights.push import missing
from tests.images.conftest import SHARDS, repository
from tests.support.hub import Hub
from tools.harness.images import locked
from tools.harness.registry import ROOT, Fault, Proxy, registry

FIRST, SECOND = SHARDS
UPLOAD = "/blobs/uploads/"


@pytest.fixture
def entry(hub: Hub, model: Model, tmp_path: Path) -> lock.Entry:
    """What the hub has, locked."""
    entry = locked(model, tmp_path / "lock.json")
    hub.requests.clear()
    return entry


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Store:
    """A repository of its own, behind the proxy."""
    name = tmp_path.name.lower().strip("_").replace("__", "_")
    return reference.parse(f"{proxy.host}/{name}:1").store


def push(entry: lock.Entry, model: Model, store: Store) -> None:
    """Push, and hold the tag and every layer against the lock."""
    weights.push(entry, HubSource(model), store)
    assert store.manifest(entry.tag)
    assert missing(entry, store) == []


def refused(entry: lock.Entry, model: Model, store: Store) -> str:
    """Push, which has to fail, and return the error; nothing is tagged."""
    with pytest.raises(ImageError) as error:
        weights.push(entry, HubSource(model), store)
    assert store.manifest(entry.tag) is None
    return str(error.value)


@pytest.mark.parametrize(("name", "position"), [(FIRST, 150_000), (FIRST, 300_050), ("config.json", 3)])
def test_a_flipped_byte_is_never_stored(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, name: str, position: int
) -> None:
    hub.flip = {name: position}
    error = refused(entry, model, store)
    layer = "7 small files" if name == "config.json" else name
    assert f"{name} from {hub.url} is damaged: its" in error
    assert layer in missing(entry, store)
    hub.flip = {}
    push(entry, model, store)


def test_a_byte_that_is_flipped_once_is_sent_again(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.flip_once = {FIRST: 150_000}
    push(entry, model, store)
    assert "is damaged: its SHA-256" in capfd.readouterr().err
    assert len(hub.sent(FIRST)) == 2


@pytest.mark.parametrize("change", [-1, 1, 5_000])
def test_a_file_shorter_or_longer_than_locked_is_refused_before_it_is_sent(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, proxy: Proxy, change: int
) -> None:
    path = hub.folder / FIRST
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    error = refused(entry, model, store)
    assert f"promises {len(content) + change:,} bytes of {FIRST}, which should have {len(content):,}" in error
    assert proxy.bytes_of_blobs < len(content)


def test_a_hub_that_cuts_a_connection_is_asked_for_the_rest_in_the_same_upload(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    hub.cut = {FIRST: 280_000, "tokenizer.json": 1}
    push(entry, model, store)
    assert [(one.range, one.sent) for one in hub.sent(FIRST)][1:] == [(f"bytes={BLOCK}-", entry.files[0].size - BLOCK)]
    # Three layers, a configuration, and a bill of materials with its empty configuration.
    assert len([call for call in proxy.calls if call.method == "PUT" and UPLOAD in call.path]) == 6


def test_a_hub_that_cannot_resume_has_what_came_already_left_out(
    hub: Hub, entry: lock.Entry, model: Model, store: Store
) -> None:
    hub.cut, hub.ranges = {FIRST: 280_000}, False
    push(entry, model, store)


@pytest.mark.parametrize("status", [0, 500, 429, 503])
@pytest.mark.parametrize("after", [None, 100_000])
def test_an_upload_that_a_registry_breaks_off_starts_anew(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy, status: int, after: int | None
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=2, after=after, headers={"Retry-After": "0"})]
    push(entry, model, store)


@pytest.mark.parametrize("method", ["HEAD", "POST", "GET"])
def test_a_registry_that_fails_once_is_asked_again(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy, method: str
) -> None:
    proxy.faults = [Fault(method, "/v2/", 500), Fault(method, "/v2/", 0)]
    push(entry, model, store)


def test_a_registry_that_names_a_time_is_given_it(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.faults = [Fault("POST", UPLOAD, 429, headers={"Retry-After": "1"})]
    begin = time.monotonic()
    push(entry, model, store)
    assert time.monotonic() - begin >= 1
    assert "answered HTTP 429 to POST; trying again in 1 s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "remedy"), [(500, "answered HTTP 500 to PUT"), (416, "limits the size"), (403, "docker login")]
)
def test_a_registry_that_keeps_refusing_is_named(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy, status: int, remedy: str
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=1000)]
    error = refused(entry, model, store)
    assert store.place in error
    assert remedy in error


@pytest.mark.parametrize("status", [201, 202])
def test_a_blob_that_a_registry_says_it_has_and_has_not_is_sent_again(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy, status: int
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, status, times=1, after=100)]
    push(entry, model, store)
    proxy.faults = []


def test_a_registry_that_never_has_what_it_takes_is_named(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, 201, times=1000, after=100)]
    assert "and does not have it" in refused(entry, model, store)


def test_an_answer_202_where_201_is_due_counts_when_the_blob_is_there(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    proxy.faults = [Fault("PUT", UPLOAD, 202, times=10, forwarded=True)]
    push(entry, model, store)


def test_a_token_that_expires_on_the_way_is_renewed(
    entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    proxy.token, proxy.uses = (), 4
    push(entry, model, store)
    assert len([call for call in proxy.calls if call.path.startswith("/token")]) > 3


def test_a_second_push_sends_nothing_and_asks_the_hub_for_nothing(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    push(entry, model, store)
    hub.requests.clear()
    proxy.calls.clear()
    push(entry, model, store)
    assert proxy.bytes_of_blobs == 0
    assert {call.method for call in proxy.calls} == {"HEAD", "GET"}
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "answered HTTP 404 when asked for"),
        (403, "Set HF_TOKEN"),
        (410, "answered HTTP 410 when asked for"),
    ],
)
def test_a_hub_that_refuses_a_file_is_named(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, status: int, text: str
) -> None:
    hub.status = {FIRST: status}
    error = refused(entry, model, store)
    assert text in error
    assert model.repository in error


def test_a_busy_hub_is_asked_again(hub: Hub, entry: lock.Entry, model: Model, store: Store) -> None:
    hub.status = {FIRST: 429, SECOND: 503}
    push(entry, model, store)


def test_a_shard_whose_header_is_wrong_is_refused_at_its_beginning(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, proxy: Proxy
) -> None:
    hub.flip = {FIRST: 9}
    error = refused(entry, model, store)
    assert f"{FIRST} from {hub.url} is not a sound safetensors file" in error
    assert len(hub.sent(FIRST)) == 1
    assert not [call for call in proxy.calls if call.method == "PUT" and call.received > 250_000]


def test_a_lock_with_another_digest_for_a_layer_is_refused(
    entry: lock.Entry, model: Model, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "lock.json"
    wrong = "sha256:" + "0" * 64
    path.write_text(path.read_text().replace(entry.layers[0].digest, wrong))
    changed = lock.find(path, model)
    assert changed
    assert f"the digest of the layer of {FIRST} is {entry.layers[0].digest}" in refused(changed, model, store)


def test_the_first_failure_ends_what_is_under_way(
    hub: Hub, entry: lock.Entry, model: Model, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.status = {SECOND: 404}
    hub.stall = {FIRST: 100_000}
    begin = time.monotonic()
    with pytest.raises(ImageError, match="404"):
        weights.push(entry, HubSource(model), store)
    assert FIRST in missing(entry, store)
    assert time.monotonic() - begin < 30


def test_an_unreachable_registry_is_named(entry: lock.Entry, model: Model) -> None:
    store = reference.parse("127.0.0.1:1/nothing").store
    with pytest.raises(TransientError, match=r"127.0.0.1:1/nothing cannot be reached, .* --plain-http"):
        weights.push(entry, HubSource(model), store)


def test_killed_at_ten_random_moments_it_completes_when_run_again(tmp_path: Path, model: Model) -> None:
    source = repository(tmp_path / "repository", {FIRST: 20_000_000, SECOND: 20_000_000})
    path, name = tmp_path / "lock.json", "killed"
    moments = random.Random(7)  # noqa: S311 - the same moments in every run
    with Hub(source, model.repository, model.revision) as hub, registry(tmp_path / "registry") as host:
        environment = os.environ | {"HF_ENDPOINT": hub.url}
        command = [sys.executable, "-m", "images"]
        end = ["--lock", str(path)]
        subprocess.run([*command, "lock", model.name, *end], env=environment, cwd=ROOT, check=True)
        push = [*command, "weights", model.name, f"{host}/{name}", *end]
        store = reference.parse(f"{host}/{name}").store
        entry = lock.find(path, model)
        assert entry
        killed = 0
        for _ in range(10):
            with subprocess.Popen(push, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
                time.sleep(moments.uniform(0.3, 1.4))
                process.send_signal(signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
            assert store.manifest(entry.tag) is None or missing(entry, store) == []
        assert killed > 0
        subprocess.run(push, env=environment, cwd=ROOT, check=True)
        assert store.manifest(entry.tag)
        assert missing(entry, store) == []
