"""Fixtures: a browser and the chat page."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from werkzeug.serving import make_server

from app.factory import create_app
from app.metrics import Metrics
from app.model_server import ModelServer
from app.settings import Settings
from tests.app.ui.pages import OpenPage
from tools.harness.server import ROOT

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium, installed on first use."""
    subprocess.run([ROOT / "scripts/packages", "chromium"], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def loading_url() -> Iterator[str]:
    """Return the address of a server whose model never loads, and which starts immediately."""
    app = create_app(ModelServer(Settings(model=Path()), Metrics("none")))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Open the page of the demo server, or of `url`, in a new profile of a device.

    If it is `watched`, an error in the page's code or a violation of its content security policy fails the test.
    """
    contexts = []
    problems: list[str] = []

    def open_page(url: str | None = None, watched: bool = True, **device: Any) -> Page:
        context = browser.new_context(**device)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        if watched:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda line: problems.extend([line.text] if line.type == "error" else []))
        page.goto(url or request.getfixturevalue("server").url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # The browser itself logs every status above 399 and every unreachable server.
    assert not [problem for problem in problems if not problem.startswith("Failed to load resource")]
