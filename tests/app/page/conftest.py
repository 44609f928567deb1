"""A browser, and the chat page in it."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app.page.pages import OpenPage
from tests.server import ROOT, Server

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
    """Debian's Chromium, installed on first use."""
    subprocess.run([ROOT / "scripts/packages", "chromium"], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens the page of the demo server, or of `url`, in a fresh profile with the given properties of a device.

    Where it is `watched`, what fails in the page's code, or is blocked by its policy, fails the test.
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
        page.goto(url or server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # The browser itself notes every status above 399, and every server that is not there.
    assert not [problem for problem in problems if not problem.startswith("Failed to load resource")]
