"""What the chat page says of errors, in a real browser."""

import signal
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Route, expect

from tests.app.ui.pages import (
    ANSWER,
    CAPITAL,
    COMPLETIONS,
    HOSTILE,
    LONG,
    SURE,
    OpenPage,
    answer_with,
    answers,
    configure,
    events,
    refuse,
    say,
    wait_for_text,
    wait_until_idle,
)
from tools.harness.server import START_SECONDS, Server


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_is_told_and_its_successor_is_found(open_page: OpenPage, demo: Path) -> None:
    server = Server(demo, "--name", "demo", "--dtype", "float32", "--max-context", "512")
    try:
        page = open_page(server.url)  # while the model loads
        notice = page.locator("#notice")
        expect(page.locator("#context")).to_have_text("context of 512 tokens", timeout=START_SECONDS * 1000)
        say(page, LONG)
        wait_for_text(page)
    finally:
        for worker in psutil.Process(server.process.pid).children(recursive=True):
            worker.kill()
        server.stop(signal.SIGKILL)
    expect(notice).to_contain_text("The connection to the server was lost")
    expect(page.locator(".assistant .note")).to_have_text("Broken off.")
    assert len(answers(page).inner_text()) > 0
    page.get_by_role("button", name="Try again").click()
    expect(notice).to_contain_text("The server cannot be reached.")
    expect(notice).to_contain_text("Trying again in ")
    answer_with(page, ANSWER)
    expect(answers(page)).to_have_text(ANSWER)
    expect(notice).to_be_hidden()


def test_a_server_that_loads_is_told_and_asked_again(open_page: OpenPage, loading_url: str) -> None:
    page = open_page(loading_url)
    expect(page.locator("#notice p")).to_contain_text("The model is loading: try again later. Trying again in ")
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "demo", "max_model_len": 512}]}))
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_server_that_loads_or_is_busy_is_waited_for(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **SURE)
    for status, message in ((503, "The model is loading."), (429, "Too many requests wait.")):
        refuse(page, status, message, retry_after=1)
        say(page, CAPITAL)
        expect(page.locator("#notice p")).to_have_text(f"{message} Trying again in 1 s.")
        expect(answers(page).last).to_have_text(ANSWER)
        expect(page.locator("#notice")).to_be_hidden()
        page.get_by_role("button", name="New chat").click()


def test_waiting_can_be_stopped_and_taken_up_again(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **SURE)
    refuse(page, 503, "The model is loading.", retry_after=60)
    say(page, CAPITAL)
    expect(page.locator("#notice")).to_contain_text("Trying again")
    page.keyboard.press("Escape")
    expect(page.locator("#notice")).to_be_hidden()
    expect(answers(page)).to_have_count(0)
    page.get_by_role("button", name="Ask again").click()
    expect(answers(page)).to_have_text(ANSWER)


def test_a_server_that_wants_a_key_is_given_one_for_this_tab(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **SURE)

    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "no"}})

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("This server wants an API key.")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("The server does not take this API key.")
    say(page, CAPITAL)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("right")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(ANSWER)
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    page.reload()
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    assert "right" not in page.evaluate("JSON.stringify(localStorage)")


def test_what_the_server_refuses_is_told_in_its_words_and_loses_nothing(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, max_tokens=100_000)
    say(page, CAPITAL)
    expect(page.locator("#notice p")).to_contain_text("100000")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.get_by_label("Your message")).to_have_value(CAPITAL)
    configure(page, **SURE)
    page.get_by_role("button", name="Send").click()
    expect(answers(page)).to_have_text(ANSWER)
    wait_until_idle(page)
    refuse(page, 500, "The server failed.")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#notice p")).to_have_text("The server failed.")
    expect(answers(page)).to_have_text(ANSWER)
    refuse(page, 400, HOSTILE)
    say(page, "And then?")
    expect(page.locator("#notice p")).to_have_text(HOSTILE)
    expect(page.get_by_label("Your message")).to_have_value("And then?")
    expect(page.locator(".message .content")).to_have_text([CAPITAL, ANSWER])
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_an_error_within_a_stream_is_told_and_keeps_what_came(open_page: OpenPage) -> None:
    page = open_page()
    body = events("Half an answer").replace("data: [DONE]", 'event: error\ndata: {"error": {"message": "It broke."}}')
    page.route(COMPLETIONS, lambda route: route.fulfill(content_type="text/event-stream", body=body))
    say(page, CAPITAL)
    expect(page.locator("#notice p")).to_have_text("It broke.")
    expect(answers(page)).to_have_text("Half an answer")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
