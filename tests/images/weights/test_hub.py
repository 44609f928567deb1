"""A model's list of files and their bytes, from a hub that speaks its protocol to the real client."""

import pytest

from images.catalogue import Model
from images.errors import ImageError, TransientError
from images.weights.hub import BLOCK
from images.weights.hub import Hub as HubSource
from tests.images.conftest import LEFT_OUT, SHARDS, SMALL
from tests.support.hub import Hub

FIRST = next(iter(SHARDS))
ADMITTED = "hf_not_to_be_seen"


def whole(source: HubSource, name: str) -> bytes:
    file = next(file for file in source.files()[1] if file.name == name)
    return b"".join(source.read(file))


def test_files_are_listed_in_order_with_their_hashes(
    hub: Hub, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    revision, files = HubSource(model).files()
    assert revision == model.revision
    assert [file.name for file in files] == sorted([*SHARDS, *SMALL, "model.safetensors.index.json"])
    assert all((file.sha256 is None) != (file.git_sha1 is None) for file in files)
    assert f"mini-4k: leaving out {', '.join(sorted(LEFT_OUT))}" in capsys.readouterr().err
    assert len(hub.requests) == 1


def test_bytes_go_on_where_they_were_cut(hub: Hub, model: Model) -> None:
    hub.cut = {FIRST: 280_000}
    assert whole(HubSource(model), FIRST) == (hub.folder / FIRST).read_bytes()
    assert [one.range for one in hub.sent(FIRST)] == [None, f"bytes={BLOCK}-"]


def test_a_token_goes_to_the_hub_alone(hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = ADMITTED
    with pytest.raises(ImageError, match="Set HF_TOKEN"):
        whole(HubSource(model), FIRST)
    monkeypatch.setenv("HF_TOKEN", ADMITTED)
    hub.requests.clear()
    assert whole(HubSource(model), FIRST)
    assert {(one.host, one.authorization) for one in hub.requests} == {("hub", f"Bearer {ADMITTED}"), ("cdn", None)}


def test_a_revision_that_moved_is_refused(hub: Hub, model: Model) -> None:
    hub.claimed_revision = "1" * 40
    with pytest.raises(ImageError, match=f"answered with revision {'1' * 40} .* the revision has moved"):
        HubSource(model).files()


def test_a_missing_revision_or_repository_is_named(hub: Hub, model: Model) -> None:
    hub.revision = "0" * 40
    with pytest.raises(ImageError, match=f"has no revision {model.revision}"):
        HubSource(model).files()
    hub.repository = "someone/else"
    with pytest.raises(ImageError, match=r"does not give out microsoft/Phi-3-mini-4k-instruct \(HTTP 401"):
        HubSource(model).files()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_revision_without_what_a_model_needs_is_refused(hub: Hub, model: Model, name: str) -> None:
    (hub.folder / name).unlink()
    with pytest.raises(ImageError, match=f"has no {name} in revision"):
        HubSource(model).files()


def test_weights_are_needed(hub: Hub, model: Model) -> None:
    (hub.folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ImageError, match=r"has no model\.safetensors in revision"):
        HubSource(model).files()


def test_an_unreachable_hub_is_named_without_the_password_in_its_address(
    hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://user:password@127.0.0.1:1"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:1 cannot be reached") as error:
        HubSource(model).files()
    assert "password" not in str(error.value)
    assert hub.requests == []


def test_a_hub_that_promises_another_size_is_refused_before_a_byte_is_passed_on(hub: Hub, model: Model) -> None:
    source = HubSource(model)
    file = next(file for file in source.files()[1] if file.name == FIRST)
    (hub.folder / FIRST).write_bytes(b"short")
    with pytest.raises(ImageError, match=f"promises 5 bytes of {FIRST}, which should have {file.size:,}"):
        next(source.read(file))
