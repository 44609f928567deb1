"""The registry client against a real registry, and against a proxy that imitates the faults of others."""

import json
import subprocess
from pathlib import Path

import pytest

from images.errors import ImageError, TransientError
from images.oci.digest import digest_of
from images.oci.manifest import MANIFEST, Manifest
from images.oci.registry import Registry
from images.oci.store import push_bytes
from images.oci.transport import Transport
from tools.harness.images import push_runtime
from tools.harness.registry import Fault, Proxy, registry

# The user "somebody" with the password "secret", from `htpasswd -nbB`.
HTPASSWD = "somebody:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
CONTENT = b"a small blob"
DIGEST = digest_of(CONTENT)


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Registry:
    return Registry(proxy.host, f"test/{abs(hash(tmp_path))}")


def docker_config(tmp_path: Path, content: dict[str, object]) -> None:
    directory = tmp_path / ".docker"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(content))


def test_blob_is_uploaded_by_one_post_and_one_put(store: Registry, proxy: Proxy) -> None:
    assert store.stat_blob(DIGEST) is None
    push_bytes(store, CONTENT)
    assert store.stat_blob(DIGEST) == len(CONTENT) == store.bytes_sent
    assert b"".join(store.pull_blob(DIGEST)) == CONTENT
    assert [call.method for call in proxy.calls] == ["HEAD", "HEAD", "POST", "PUT", "HEAD", "HEAD", "GET"]


def test_blob_with_another_digest_is_not_stored(store: Registry) -> None:
    wrong = digest_of(b"something else")
    with pytest.raises(ImageError, match="digest"):
        store.push_blob(wrong, len(CONTENT), lambda: iter([CONTENT]))
    assert store.stat_blob(wrong) is None


def test_interrupted_upload_is_cancelled(store: Registry, proxy: Proxy) -> None:
    def broken() -> object:
        yield b"some"
        raise ImageError("no more")

    with pytest.raises(ImageError, match="no more"):
        store.push_blob(DIGEST, len(CONTENT), broken)  # type: ignore[arg-type]
    # The proxy may record the second request after the third.
    assert sorted(call.method for call in proxy.calls) in (["DELETE", "POST"], ["DELETE", "POST", "PUT"])
    assert store.stat_blob(DIGEST) is None


def test_blob_is_mounted_from_another_repository(store: Registry, proxy: Proxy) -> None:
    other = Registry(proxy.host, "test/other")
    push_bytes(other, CONTENT)
    proxy.calls.clear()
    assert store.mount_blob(DIGEST, len(CONTENT), other)
    assert store.stat_blob(DIGEST) == len(CONTENT)
    assert proxy.blob_bytes == 0


@pytest.mark.parametrize("status", [201, 202])
def test_failed_mount_is_detected_whatever_the_registry_reports(store: Registry, proxy: Proxy, status: int) -> None:
    other = Registry(proxy.host, "test/other")
    push_bytes(other, CONTENT)
    location = {"Location": f"http://{proxy.host}/v2/{store.name}/blobs/uploads/1"}
    proxy.faults = [Fault("POST", "mount=", status, headers=location)]
    assert not store.mount_blob(DIGEST, len(CONTENT), other)


def test_blobs_of_another_registry_are_not_mounted(store: Registry, upstream: str, proxy: Proxy) -> None:
    assert not store.mount_blob(DIGEST, len(CONTENT), Registry(upstream, "test/other"))
    assert proxy.calls == []


def test_manifest_is_read_back_with_its_media_type(store: Registry) -> None:
    assert store.get_manifest("1") is None
    manifest = push_runtime(store)
    assert store.get_manifest("1") == manifest == store.get_manifest(manifest.digest)


def test_manifest_with_another_digest_is_refused(store: Registry, proxy: Proxy) -> None:
    manifest = push_runtime(store)
    other = Manifest(json.dumps(manifest.content).encode(), MANIFEST)
    store.put_manifest("2", other)
    location = {"Location": f"/v2/{store.name}/manifests/2"}
    proxy.faults = [Fault("GET", manifest.digest, 307, headers=location)]
    with pytest.raises(ImageError, match="do not trust this registry"):
        store.get_manifest(manifest.digest)


def test_redirect_to_another_host_is_followed_without_credentials(
    store: Registry, proxy: Proxy, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    proxy.token = ("somebody", "secret")
    push_bytes(store, CONTENT)
    with Proxy(upstream) as storage:
        address = f"http://{storage.host}/v2/{store.name}/blobs/{DIGEST}"
        proxy.faults = [Fault("GET", DIGEST, 307, headers={"Location": address})]
        assert b"".join(store.pull_blob(DIGEST)) == CONTENT
        assert [call.authorization for call in storage.calls] == [None]
    assert proxy.calls[-1].authorization


def test_redirect_without_tls_is_not_followed(proxy: Proxy) -> None:
    transport = Transport("registry.invalid", "registry.invalid/test", plain_http=False)
    with pytest.raises(ImageError, match=f"redirects to {proxy.host} without TLS"):
        transport.resolve("https://registry.invalid/v2/", f"http://{proxy.host}/v2/")


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
def test_plain_http_is_used_for_localhost_or_on_request(host: str, plain: bool, origin: str) -> None:
    assert Registry(host, "test", plain_http=plain).origin == origin


def test_token_is_requested_for_the_needed_scopes_only(store: Registry, proxy: Proxy, tmp_path: Path) -> None:
    proxy.token = ("somebody", "secret")
    auth = "c29tZWJvZHk6c2VjcmV0"  # somebody:secret
    docker_config(tmp_path, {"auths": {proxy.host: {"auth": auth}}})
    push_bytes(store, CONTENT)
    assert proxy.scopes == [f"repository:{store.name}:pull"]
    other = Registry(proxy.host, "test/other")
    assert not other.mount_blob(DIGEST, 0, store)
    assert f"repository:{store.name}:pull" in proxy.scopes[-2:]


def test_identity_token_is_exchanged(store: Registry, proxy: Proxy, tmp_path: Path) -> None:
    proxy.token = "identity"  # noqa: S105 - plays one
    docker_config(tmp_path, {"auths": {proxy.host: {"identitytoken": "identity"}}})
    push_bytes(store, CONTENT)
    assert store.stat_blob(DIGEST) == len(CONTENT)


def test_missing_credentials_are_reported_with_the_remedy(store: Registry, proxy: Proxy) -> None:
    proxy.token = ("somebody", "secret")
    with pytest.raises(ImageError, match=f"docker login {proxy.host}"):
        push_bytes(store, CONTENT)


def test_wrong_credentials_are_reported_but_not_shown(
    store: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
    monkeypatch.setenv("REGISTRY_PASSWORD", "not-to-be-seen")
    proxy.token = ("somebody", "secret")
    with pytest.raises(ImageError, match="issues no token") as error:
        push_bytes(store, CONTENT)
    assert "not-to-be-seen" not in str(error.value)


def test_registry_with_basic_authentication_accepts_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    settings = {"REGISTRY_AUTH_HTPASSWD_REALM": "test", "REGISTRY_AUTH_HTPASSWD_PATH": str(tmp_path / "htpasswd")}
    with registry(tmp_path / "registry", **settings) as host:
        with pytest.raises(ImageError, match="requires credentials, and none are set"):
            push_bytes(Registry(host, "test"), CONTENT)
        monkeypatch.setenv("REGISTRY_USERNAME", "somebody")
        monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
        with pytest.raises(ImageError, match="rejected the credentials"):
            push_bytes(Registry(host, "test"), CONTENT)
        monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
        store = Registry(host, "test")
        push_bytes(store, CONTENT)
        assert store.stat_blob(DIGEST) == len(CONTENT)


def test_server_that_is_not_a_registry_is_named(tmp_path: Path, proxy: Proxy) -> None:
    proxy.faults = [Fault("POST", "/", 200, times=10)]
    with pytest.raises(ImageError, match="it is not a registry"):
        Registry(proxy.host, "test/nothing").push_blob(DIGEST, len(CONTENT), lambda: iter([CONTENT]))
    assert tmp_path.exists()


def test_error_messages_of_the_registry_are_shown(store: Registry) -> None:
    content = push_runtime(store).content
    content["layers"][0]["digest"] = DIGEST
    with pytest.raises(ImageError, match=r"HTTP 404 to PUT \(.*blob unknown.*\)|HTTP 400 to PUT \(.*blob unknown.*\)"):
        store.put_manifest("1", Manifest(json.dumps(content).encode(), MANIFEST))


def test_dropped_download_raises_a_transient_error(store: Registry, proxy: Proxy) -> None:
    proxy.faults = [Fault("GET", "/blobs/", 0)]
    with pytest.raises(TransientError):
        list(store.pull_blob(DIGEST))


def test_skopeo_reads_the_stored_image(store: Registry) -> None:
    manifest = push_runtime(store)
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{store.location}:1"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == manifest.body
