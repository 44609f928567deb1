"""A model's list of files and their bytes from a hub on this machine."""

import pytest

from checkpoints.catalogue import CatalogueModel
from images.errors import ImageError, TransientError
from images.weights.hub_source import BLOCK_BYTES, HubSource
from tests.support.hub import Hub
from tests.support.repository import SHARDS, SKIPPED_FILES, SMALL_FILES

FIRST = next(iter(SHARDS))
ADMITTED = "hf_not_to_be_seen"


def read_file(source: HubSource, name: str) -> bytes:
    file = next(file for file in source.list_files()[1] if file.name == name)
    return b"".join(source.read(file))


def test_files_are_listed_in_order_with_their_hashes(
    hub: Hub, model: CatalogueModel, capsys: pytest.CaptureFixture[str]
) -> None:
    revision, files = HubSource(model).list_files()
    assert revision == model.revision
    assert [file.name for file in files] == sorted([*SHARDS, *SMALL_FILES, "model.safetensors.index.json"])
    assert all((file.sha256 is None) != (file.git_sha1 is None) for file in files)
    assert f"mini-4k: skipping {', '.join(sorted(SKIPPED_FILES))}" in capsys.readouterr().err
    assert len(hub.requests) == 1


def test_dropped_stream_resumes(hub: Hub, model: CatalogueModel) -> None:
    hub.cut = {FIRST: 280_000}
    assert read_file(HubSource(model), FIRST) == (hub.directory / FIRST).read_bytes()
    assert [one.range for one in hub.sent(FIRST)] == [None, f"bytes={BLOCK_BYTES}-"]


def test_token_is_sent_to_the_hub_only(hub: Hub, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = ADMITTED
    with pytest.raises(ImageError, match="Set HF_TOKEN"):
        read_file(HubSource(model), FIRST)
    monkeypatch.setenv("HF_TOKEN", ADMITTED)
    hub.requests.clear()
    assert read_file(HubSource(model), FIRST)
    assert {(one.host, one.authorization) for one in hub.requests} == {("hub", f"Bearer {ADMITTED}"), ("cdn", None)}


def test_moved_revision_is_refused(hub: Hub, model: CatalogueModel) -> None:
    hub.claimed_revision = "1" * 40
    with pytest.raises(ImageError, match=f"returned revision {'1' * 40} .* the revision has moved"):
        HubSource(model).list_files()


def test_missing_revision_or_repository_is_named(hub: Hub, model: CatalogueModel) -> None:
    hub.revision = "0" * 40
    with pytest.raises(ImageError, match=f"has no revision {model.revision}"):
        HubSource(model).list_files()
    hub.repository = "someone/else"
    with pytest.raises(ImageError, match=r"denies access to microsoft/Phi-3-mini-4k-instruct \(HTTP 401"):
        HubSource(model).list_files()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_revision_without_a_required_file_is_refused(hub: Hub, model: CatalogueModel, name: str) -> None:
    (hub.directory / name).unlink()
    with pytest.raises(ImageError, match=f"has no {name} in revision"):
        HubSource(model).list_files()


def test_revision_without_weights_is_refused(hub: Hub, model: CatalogueModel) -> None:
    (hub.directory / "model.safetensors.index.json").unlink()
    with pytest.raises(ImageError, match=r"has no model\.safetensors in revision"):
        HubSource(model).list_files()


def test_unreachable_hub_is_named_without_the_password_in_its_address(
    hub: Hub, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://user:password@127.0.0.1:1"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:1 cannot be reached") as error:
        HubSource(model).list_files()
    assert "password" not in str(error.value)
    assert hub.requests == []


def test_file_of_another_size_is_refused_before_its_first_byte(hub: Hub, model: CatalogueModel) -> None:
    source = HubSource(model)
    file = next(file for file in source.list_files()[1] if file.name == FIRST)
    (hub.directory / FIRST).write_bytes(b"short")
    with pytest.raises(ImageError, match=f"announces 5 bytes for {FIRST} instead of {file.size:,}"):
        next(source.read(file))
