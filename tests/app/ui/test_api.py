"""Error handling of the chat page, in a real browser."""

import signal
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Route, expect

from tests.app.ui.pages import (
    CAPITAL,
    COMPLETIONS,
    GREEDY,
    HOSTILE,
    LONG,
    RESPONSE,
    OpenPage,
    configure,
    events,
    refuse,
    respond_with,
    respond_without_end,
    responses,
    send_message,
    wait_for_text,
    wait_until_idle,
)
from tools.harness.server import START_SECONDS, Server


@pytest.mark.slow
def test_page_reports_a_lost_server_and_reconnects(open_page: OpenPage, demo: Path) -> None:
    server = Server(demo, "--name", "demo", "--dtype", "float32", "--max-context", "512")
    try:
        page = open_page(server.url)  # while the model loads
        notice = page.locator("#notice")
        expect(page.locator("#context")).to_have_text("context of 512 tokens", timeout=START_SECONDS * 1000)
        respond_without_end(page, demo)
        send_message(page, LONG)
        wait_for_text(page)
    finally:
        for worker in psutil.Process(server.process.pid).children(recursive=True):
            worker.kill()
        server.stop(signal.SIGKILL)
    expect(notice).to_contain_text("The connection to the server was lost")
    expect(page.locator(".assistant .note")).to_have_text("Interrupted.")
    assert len(responses(page).inner_text()) > 0
    page.get_by_role("button", name="Try again").click()
    expect(notice).to_contain_text("The server cannot be reached.")
    expect(notice).to_contain_text("Retrying in ")
    respond_with(page, RESPONSE)
    expect(responses(page)).to_have_text(RESPONSE)
    expect(notice).to_be_hidden()


def test_page_retries_while_the_server_loads(open_page: OpenPage, loading_url: str) -> None:
    page = open_page(loading_url)
    expect(page.locator("#notice p")).to_contain_text("The model is loading. Try again later. Retrying in ")
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "demo", "max_model_len": 512}]}))
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    expect(page.locator("#notice")).to_be_hidden()


def test_page_waits_for_a_loading_or_busy_server(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **GREEDY)
    for status, message in ((503, "The model is loading."), (429, "Too many requests wait.")):
        refuse(page, status, message, retry_after=1)
        send_message(page, CAPITAL)
        expect(page.locator("#notice p")).to_have_text(f"{message} Retrying in 1 s.")
        expect(responses(page).last).to_have_text(RESPONSE)
        expect(page.locator("#notice")).to_be_hidden()
        page.get_by_role("button", name="New chat").click()


def test_waiting_can_be_stopped_and_resumed(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **GREEDY)
    refuse(page, 503, "The model is loading.", retry_after=60)
    send_message(page, CAPITAL)
    expect(page.locator("#notice")).to_contain_text("Retrying in")
    page.keyboard.press("Escape")
    expect(page.locator("#notice")).to_be_hidden()
    expect(responses(page)).to_have_count(0)
    page.get_by_role("button", name="Resend").click()
    expect(responses(page)).to_have_text(RESPONSE)


def test_api_key_is_requested_and_kept_for_the_tab(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **GREEDY)

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "no"}})

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("This server requires an API key.")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("The server rejected this API key.")
    send_message(page, CAPITAL)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("right")
    page.keyboard.press("Enter")
    expect(responses(page)).to_have_text(RESPONSE)
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    wait_until_idle(page)  # a reload during the response interrupts it
    page.reload()
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    assert "right" not in page.evaluate("JSON.stringify(localStorage)")


def test_refused_request_shows_the_server_message_and_loses_nothing(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, max_tokens=100_000)
    send_message(page, CAPITAL)
    expect(page.locator("#notice p")).to_contain_text("100000")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.get_by_label("Your message")).to_have_value(CAPITAL)
    configure(page, **GREEDY)
    page.get_by_role("button", name="Send").click()
    expect(responses(page)).to_have_text(RESPONSE)
    wait_until_idle(page)
    refuse(page, 500, "The server failed.")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#notice p")).to_have_text("The server failed.")
    expect(responses(page)).to_have_text(RESPONSE)
    refuse(page, 400, HOSTILE)
    send_message(page, "And then?")
    expect(page.locator("#notice p")).to_have_text(HOSTILE)
    expect(page.get_by_label("Your message")).to_have_value("And then?")
    expect(page.locator(".message .content")).to_have_text([CAPITAL, RESPONSE])
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_error_in_a_stream_is_shown_and_keeps_the_received_text(open_page: OpenPage) -> None:
    page = open_page()
    body = events("Half a response").replace("data: [DONE]", 'event: error\ndata: {"error": {"message": "It broke."}}')
    page.route(COMPLETIONS, lambda route: route.fulfill(content_type="text/event-stream", body=body))
    send_message(page, CAPITAL)
    expect(page.locator("#notice p")).to_have_text("It broke.")
    expect(responses(page)).to_have_text("Half a response")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
