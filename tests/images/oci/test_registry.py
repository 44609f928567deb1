"""The registry's client against a real registry, and against a proxy that plays what others do."""

import json
import subprocess
from pathlib import Path

import pytest

from images.errors import ImageError, TransientError
from images.oci.registry import Registry
from images.oci.store import MANIFEST, Manifest, digest_of, put
from tools.harness.images import runtime
from tools.harness.registry import Fault, Proxy, registry

# Of "somebody" with the password "secret", as `htpasswd -nbB` makes it.
HTPASSWD = "somebody:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
CONTENT = b"a small blob"
DIGEST = digest_of(CONTENT)


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Registry:
    return Registry(proxy.host, f"test/{abs(hash(tmp_path))}")


def docker_config(tmp_path: Path, content: dict[str, object]) -> None:
    folder = tmp_path / ".docker"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))


def test_a_blob_goes_up_in_one_post_and_one_put_and_comes_back(store: Registry, proxy: Proxy) -> None:
    assert store.size(DIGEST) is None
    put(store, CONTENT)
    assert store.size(DIGEST) == len(CONTENT) == store.sent
    assert b"".join(store.read(DIGEST)) == CONTENT
    assert [call.method for call in proxy.calls] == ["HEAD", "HEAD", "POST", "PUT", "HEAD", "HEAD", "GET"]


def test_what_has_another_digest_is_not_stored(store: Registry) -> None:
    wrong = digest_of(b"something else")
    with pytest.raises(ImageError, match="digest"):
        store.write(wrong, len(CONTENT), lambda: iter([CONTENT]))
    assert store.size(wrong) is None


def test_an_upload_that_breaks_off_is_cancelled(store: Registry, proxy: Proxy) -> None:
    def broken() -> object:
        yield b"some"
        raise ImageError("no more")

    with pytest.raises(ImageError, match="no more"):
        store.write(DIGEST, len(CONTENT), broken)  # type: ignore[arg-type]
    # The proxy may hear of the second after the third.
    assert sorted(call.method for call in proxy.calls) in (["DELETE", "POST"], ["DELETE", "POST", "PUT"])
    assert store.size(DIGEST) is None


def test_a_blob_is_mounted_from_another_repository(store: Registry, proxy: Proxy) -> None:
    other = Registry(proxy.host, "test/other")
    put(other, CONTENT)
    proxy.calls.clear()
    assert store.borrow(DIGEST, len(CONTENT), other)
    assert store.size(DIGEST) == len(CONTENT)
    assert proxy.bytes_of_blobs == 0


@pytest.mark.parametrize("status", [201, 202])
def test_a_mount_that_lies_or_is_declined_is_noticed(store: Registry, proxy: Proxy, status: int) -> None:
    other = Registry(proxy.host, "test/other")
    put(other, CONTENT)
    location = {"Location": f"http://{proxy.host}/v2/{store.name}/blobs/uploads/1"}
    proxy.faults = [Fault("POST", "mount=", status, headers=location)]
    assert not store.borrow(DIGEST, len(CONTENT), other)


def test_blobs_of_another_registry_are_not_asked_to_be_mounted(store: Registry, upstream: str, proxy: Proxy) -> None:
    assert not store.borrow(DIGEST, len(CONTENT), Registry(upstream, "test/other"))
    assert proxy.calls == []


def test_a_manifest_is_read_back_and_names_its_type(store: Registry) -> None:
    assert store.manifest("1") is None
    manifest = runtime(store)
    assert store.manifest("1") == manifest == store.manifest(manifest.digest)


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(store: Registry, proxy: Proxy) -> None:
    manifest = runtime(store)
    other = Manifest(json.dumps(manifest.content).encode(), MANIFEST)
    store.tag("2", other)
    location = {"Location": f"/v2/{store.name}/manifests/2"}
    proxy.faults = [Fault("GET", manifest.digest, 307, headers=location)]
    with pytest.raises(ImageError, match="do not trust it"):
        store.manifest(manifest.digest)


def test_a_redirect_to_another_host_is_followed_without_credentials(
    store: Registry, proxy: Proxy, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    proxy.token = ("somebody", "secret")
    put(store, CONTENT)
    with Proxy(upstream) as storage:
        address = f"http://{storage.host}/v2/{store.name}/blobs/{DIGEST}"
        proxy.faults = [Fault("GET", DIGEST, 307, headers={"Location": address})]
        assert b"".join(store.read(DIGEST)) == CONTENT
        assert [call.authorization for call in storage.calls] == [None]
    assert proxy.calls[-1].authorization


def test_a_redirect_without_encryption_is_not_followed(proxy: Proxy) -> None:
    store = Registry("registry.invalid", "test")
    with pytest.raises(ImageError, match=f"sends us to {proxy.host} without encryption"):
        store._same_security("https://registry.invalid/v2/", f"http://{proxy.host}/v2/")


@pytest.mark.parametrize(
    ("host", "plain", "origin"),
    [
        ("localhost:5000", False, "http://localhost:5000"),
        ("127.0.0.1:5000", False, "http://127.0.0.1:5000"),
        ("[::1]:5000", False, "http://[::1]:5000"),
        ("registry.example", False, "https://registry.example"),
        ("registry.example", True, "http://registry.example"),
        ("docker.io", False, "https://registry-1.docker.io"),
    ],
)
def test_http_without_tls_is_for_this_machine_or_on_request(host: str, plain: bool, origin: str) -> None:
    assert Registry(host, "test", plain_http=plain).origin == origin


def test_a_token_is_fetched_for_what_is_done_and_for_no_more(store: Registry, proxy: Proxy, tmp_path: Path) -> None:
    proxy.token = ("somebody", "secret")
    auth = "c29tZWJvZHk6c2VjcmV0"  # somebody:secret
    docker_config(tmp_path, {"auths": {proxy.host: {"auth": auth}}})
    put(store, CONTENT)
    assert proxy.scopes == [f"repository:{store.name}:pull"]
    other = Registry(proxy.host, "test/other")
    assert not other.borrow(DIGEST, 0, store)
    assert f"repository:{store.name}:pull" in proxy.scopes[-2:]


def test_an_identity_token_is_exchanged(store: Registry, proxy: Proxy, tmp_path: Path) -> None:
    proxy.token = "identity"  # noqa: S105 - plays one
    docker_config(tmp_path, {"auths": {proxy.host: {"identitytoken": "identity"}}})
    put(store, CONTENT)
    assert store.size(DIGEST) == len(CONTENT)


def test_without_credentials_the_remedy_is_named(store: Registry, proxy: Proxy) -> None:
    proxy.token = ("somebody", "secret")
    with pytest.raises(ImageError, match=f"docker login {proxy.host}"):
        put(store, CONTENT)


def test_wrong_credentials_are_named_and_not_shown(
    store: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
    monkeypatch.setenv("REGISTRY_PASSWORD", "not-to-be-seen")
    proxy.token = ("somebody", "secret")
    with pytest.raises(ImageError, match="gives no token") as error:
        put(store, CONTENT)
    assert "not-to-be-seen" not in str(error.value)


def test_a_registry_with_basic_authentication_takes_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    settings = {"REGISTRY_AUTH_HTPASSWD_REALM": "test", "REGISTRY_AUTH_HTPASSWD_PATH": str(tmp_path / "htpasswd")}
    with registry(tmp_path / "registry", **settings) as host:
        with pytest.raises(ImageError, match="no credentials are set"):
            put(Registry(host, "test"), CONTENT)
        monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
        monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
        with pytest.raises(ImageError, match="does not accept the credentials"):
            put(Registry(host, "test"), CONTENT)
        monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
        store = Registry(host, "test")
        put(store, CONTENT)
        assert store.size(DIGEST) == len(CONTENT)


def test_what_is_no_registry_is_named(tmp_path: Path, proxy: Proxy) -> None:
    proxy.faults = [Fault("POST", "/", 200, times=10)]
    with pytest.raises(ImageError, match="does not speak a registry's protocol"):
        Registry(proxy.host, "test/nothing").write(DIGEST, len(CONTENT), lambda: iter([CONTENT]))
    assert tmp_path.exists()


def test_the_messages_of_a_registry_are_passed_on(store: Registry) -> None:
    content = runtime(store).content
    content["layers"][0]["digest"] = DIGEST
    with pytest.raises(ImageError, match=r"HTTP 404 to PUT \(.*blob unknown.*\)|HTTP 400 to PUT \(.*blob unknown.*\)"):
        store.tag("1", Manifest(json.dumps(content).encode(), MANIFEST))


def test_a_cut_download_may_be_tried_again(store: Registry, proxy: Proxy) -> None:
    proxy.faults = [Fault("GET", "/blobs/", 0)]
    with pytest.raises(TransientError):
        list(store.read(DIGEST))


def test_crane_like_clients_agree_on_what_was_stored(store: Registry) -> None:
    manifest = runtime(store)
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{store.place}:1"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == manifest.body
