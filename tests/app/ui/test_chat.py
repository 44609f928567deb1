"""Conversations on the chat page, in a real browser with the real server."""

from pathlib import Path

from playwright.sync_api import expect

from tests.app.ui.pages import (
    CAPITAL,
    COMPLETIONS,
    GREEDY,
    LONG,
    RESPONSE,
    RICH,
    OpenPage,
    configure,
    respond_with,
    respond_without_end,
    responses,
    send_message,
    wait_for_text,
    wait_until_idle,
)
from tools.harness.server import Server


def test_page_shows_response_model_and_context_usage(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    expect(page.locator("#context")).to_have_text("context of 512 tokens")
    configure(page, **GREEDY)
    send_message(page, CAPITAL)
    expect(page.locator(".user .content")).to_have_text(CAPITAL)
    expect(responses(page)).to_have_text(RESPONSE)
    wait_until_idle(page)
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    expect(page.locator(".assistant .figures")).to_contain_text("8 tokens in ")
    expect(page).to_have_title("demo · phi3")
    expect(page.get_by_label("Your message")).to_be_focused()


def test_request_contains_conversation_and_settings(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    for label, value in {"Temperature": "0", "Top P": "0.9", "Maximum length": "3", "Seed": "7"}.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Done").click()
    send_message(page, CAPITAL)
    expect(page.locator(".assistant .note")).to_contain_text("Truncated")
    with page.expect_request(COMPLETIONS) as sent:
        send_message(page, "And of Spain?")
    assert sent.value.post_data_json == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": CAPITAL},
            {"role": "assistant", "content": "The capital of"},
            {"role": "user", "content": "And of Spain?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "top_p": 0.9,
        "max_tokens": 3,
        "seed": 7,
    }
    assert sent.value.headers.get("authorization") is None


def test_response_arrives_in_deltas_and_escape_stops_it(open_page: OpenPage, demo: Path) -> None:
    page = open_page()
    respond_without_end(page, demo)
    send_message(page, LONG)
    wait_for_text(page)
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    before = responses(page).inner_text()
    page.wait_for_function("before => document.querySelector('.assistant .content').innerText !== before", arg=before)
    page.keyboard.press("Escape")
    expect(stop).to_be_hidden()
    expect(page.locator(".assistant .note")).to_have_text("Stopped.")
    received = responses(page).inner_text()
    assert len(received) >= len(before) > 0
    page.wait_for_timeout(300)
    assert responses(page).inner_text() == received


def test_stop_button_cancels_the_request_and_focuses_the_composer(
    open_page: OpenPage, server: Server, demo: Path
) -> None:
    page = open_page()
    respond_without_end(page, demo)
    send_message(page, LONG)
    wait_for_text(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_label("Your message")).to_be_focused()
    for _ in range(50):
        if server.metric("vllm:num_requests_running") == 0:
            break
        page.wait_for_timeout(100)
    assert server.metric("vllm:num_requests_running") == 0


def test_regenerate_replaces_the_last_response(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **GREEDY)
    send_message(page, CAPITAL)
    wait_until_idle(page)
    respond_with(page, "Another **response**.")
    page.get_by_role("button", name="Regenerate").click()
    expect(responses(page)).to_have_text("Another response.")
    expect(page.locator(".message")).to_have_count(2)


def test_enter_sends_and_shift_enter_adds_a_line(open_page: OpenPage) -> None:
    page = open_page()
    respond_with(page, "Yes.")
    field = page.get_by_label("Your message")
    send = page.get_by_role("button", name="Send")
    expect(field).to_be_focused()
    expect(send).to_be_disabled()
    page.keyboard.press("Enter")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(field).to_have_value("one\ntwo")
    expect(page.locator(".message")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".user .content")).to_have_text("one\ntwo", use_inner_text=True)
    expect(field).to_have_value("")


def test_copy_buttons_copy_markdown_of_messages_and_text_of_code(open_page: OpenPage) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    respond_with(page, RICH)
    send_message(page, CAPITAL)
    wait_until_idle(page)
    for legacy in (False, True):
        if legacy:  # as without TLS
            page.evaluate("""() => {
                window.read = navigator.clipboard.readText.bind(navigator.clipboard);
                Object.defineProperty(navigator, "clipboard", { value: undefined });
            }""")
        else:
            page.evaluate("window.read = () => navigator.clipboard.readText()")
        page.locator(".assistant").get_by_role("button", name="Copy", exact=True).click()
        expect(page.locator(".assistant .copy")).to_have_text("Copied")
        assert page.evaluate("read()") == RICH
        page.get_by_role("button", name="Copy code").click()
        expect(page.locator(".copy-code")).to_have_text("Copied")
        assert page.evaluate("read()") == RICH.split("```python\n")[1].split("\n```")[0]
        expect(page.locator(".copy-code")).to_have_text("Copy code")
