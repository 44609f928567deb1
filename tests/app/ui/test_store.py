"""Storage of the chat page, in a real browser."""

from playwright.sync_api import expect

from tests.app.ui.pages import (
    CAPITAL,
    GREEDY,
    LONG,
    RESPONSE,
    OpenPage,
    configure,
    respond_with,
    responses,
    send_message,
    wait_for_text,
    wait_until_idle,
)


def test_reload_keeps_conversation_and_settings(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Done").click()
    send_message(page, CAPITAL)
    wait_until_idle(page)
    page.reload()
    expect(page.locator(".message .content")).to_have_text([CAPITAL, RESPONSE])
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0")


def test_reload_during_a_response_keeps_the_received_text(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **GREEDY)
    send_message(page, LONG)
    wait_for_text(page)
    received = responses(page).inner_text()
    page.reload()
    expect(responses(page)).to_contain_text(received[:10])
    expect(page.locator(".assistant .note")).to_have_text("Interrupted.")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


def test_new_chat_keeps_earlier_chats_until_they_are_deleted(open_page: OpenPage) -> None:
    page = open_page()
    respond_with(page, "Yes.")
    for text in ("first", "second"):
        send_message(page, text)
        wait_until_idle(page)
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".message")).to_have_count(0)
    titles = page.locator(".earlier-chat")
    expect(titles).to_have_text(["second", "first"])
    titles.last.click()
    expect(page.locator(".message .content")).to_have_text(["first", "Yes."])
    page.get_by_role("button", name="New chat").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete the chat second").click()
    expect(titles).to_have_text(["first"])
    page.reload()
    expect(titles).to_have_text(["first"])


def test_two_tabs_keep_separate_chats(open_page: OpenPage) -> None:
    one = open_page()
    two = one.context.new_page()
    two.goto(one.url)
    for page, text in ((one, "in one"), (two, "in two"), (one, "in one again")):
        respond_with(page, "Yes.")
        send_message(page, text)
        wait_until_idle(page)
    for page, texts in ((one, ["in one", "in one again"]), (two, ["in two"])):
        page.reload()
        expect(page.locator(".user .content")).to_have_text(texts)


def test_setting_out_of_range_shows_the_reason_and_is_not_saved(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    field = page.get_by_label("Temperature")
    field.fill("3")
    expect(page.locator("#temperature-error")).to_have_text("The maximum is 2.")
    expect(field).to_have_attribute("aria-invalid", "true")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    expect(field).to_have_value("0.7")
    field.fill("1.5")
    page.get_by_role("button", name="Reset to defaults").click()
    expect(field).to_have_value("0.7")
