"""Files of the chat page: content negotiation, headers and completeness."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings
from app.ui.routes import STATIC

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
VENDORED = json.loads((STATIC / "vendor/vendor.json").read_text())


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    """Return a client of an application whose model never loads; it serves the page nevertheless."""
    return create_app(ModelServer(Settings(model=Path()), Metrics("none"))).test_client()


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/html, application/json;q=0.9"])
def test_browser_gets_the_page(client: FlaskClient, accept: str) -> None:
    response = client.get("/", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.data == (STATIC / "index.html").read_bytes()
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json, text/html", "text/plain", "text/html;q=0.5, */*", ""]
)
def test_other_clients_get_the_running_message(client: FlaskClient, accept: str | None) -> None:
    response = client.get("/", headers={} if accept is None else {"Accept": accept})
    assert response.get_json() == {"message": "Server is running"}
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_content_security_policy_allows_only_files_of_the_page(client: FlaskClient, path: str) -> None:
    headers = client.get(path, headers={"Accept": BROWSER}).headers
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chat.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/vendor.json", "application/json"),
        ("vendor/marked.LICENSE.txt", "text/plain; charset=utf-8"),
    ],
)
def test_files_have_their_content_type(client: FlaskClient, name: str, kind: str) -> None:
    assert client.get(f"/page/{name}").headers["Content-Type"] == kind


@pytest.mark.parametrize("path", ["/", "/page/chat.js"])
def test_cached_file_is_not_sent_again(client: FlaskClient, path: str) -> None:
    first = client.get(path, headers={"Accept": BROWSER})
    assert first.headers["Cache-Control"] == "no-cache"
    second = client.get(path, headers={"Accept": BROWSER, "If-None-Match": first.headers["ETag"]})
    assert (second.status_code, second.data) == (304, b"")
    assert second.headers["ETag"] == first.headers["ETag"]
    other = client.get(path, headers={"Accept": BROWSER, "If-None-Match": '"another"'})
    assert (other.status_code, other.data) == (200, first.data)


@pytest.mark.parametrize("path", ["/page", "/page/", "/page/nothing.js", "/page/../factory.py", "/page/%2e%2e/app.py"])
def test_other_paths_are_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_static_directory_contains_exactly_the_referenced_files(client: FlaskClient) -> None:
    referenced = set()
    for name in FILES:
        if name.startswith("vendor/"):
            continue
        text = (STATIC / name).read_text()
        if name.endswith(".html"):
            referenced |= set(re.findall(r'(?:href|src)="page/([^"]+)"', text))
        elif name.endswith(".js"):
            referenced |= set(re.findall(r'(?:from|import) "\./([^"]+)"', text))
    vendored = {f"vendor/{name}" for each in VENDORED for name in (each["file"], each["licence_file"])}
    assert referenced | vendored == set(FILES) - {"index.html", "vendor/vendor.json"}
    assert all(client.get(f"/page/{name}").status_code == 200 for name in referenced)


def test_page_references_no_other_server() -> None:
    for name in FILES:
        if not name.startswith("vendor/"):
            text = (STATIC / name).read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
            assert "//" not in re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.MULTILINE), name


@pytest.mark.parametrize("library", VENDORED, ids=lambda library: library["package"])
def test_vendored_library_matches_the_published_package(library: dict[str, str]) -> None:
    content = (STATIC / "vendor" / library["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == library["sha256"]
    assert library["version"] in content.decode()[:1000]
    assert len((STATIC / "vendor" / library["licence_file"]).read_text()) > 1000
