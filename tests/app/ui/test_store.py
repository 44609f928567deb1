"""What the chat page keeps, in a real browser."""

from playwright.sync_api import expect

from tests.app.ui.pages import (
    ANSWER,
    CAPITAL,
    LONG,
    SURE,
    OpenPage,
    answer_with,
    answers,
    configure,
    say,
    wait_for_text,
    wait_until_idle,
)


def test_a_reload_keeps_the_conversation_and_the_settings(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Done").click()
    say(page, CAPITAL)
    wait_until_idle(page)
    page.reload()
    expect(page.locator(".message .content")).to_have_text([CAPITAL, ANSWER])
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0")


def test_a_reload_in_the_middle_keeps_what_came(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **SURE)
    say(page, LONG)
    wait_for_text(page)
    came = answers(page).inner_text()
    page.reload()
    expect(answers(page)).to_contain_text(came[:10])
    expect(page.locator(".assistant .note")).to_have_text("Broken off.")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


def test_a_new_chat_keeps_the_earlier_ones_until_they_are_deleted(open_page: OpenPage) -> None:
    page = open_page()
    answer_with(page, "Yes.")
    for text in ("first", "second"):
        say(page, text)
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


def test_two_tabs_keep_a_chat_each(open_page: OpenPage) -> None:
    one = open_page()
    two = one.context.new_page()
    two.goto(one.url)
    for page, text in ((one, "in one"), (two, "in two"), (one, "in one again")):
        answer_with(page, "Yes.")
        say(page, text)
        wait_until_idle(page)
    for page, texts in ((one, ["in one", "in one again"]), (two, ["in two"])):
        page.reload()
        expect(page.locator(".user .content")).to_have_text(texts)


def test_a_setting_out_of_range_says_why_and_is_not_kept(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    field = page.get_by_label("Temperature")
    field.fill("3")
    expect(page.locator("#temperature-error")).to_have_text("The most is 2.")
    expect(field).to_have_attribute("aria-invalid", "true")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    expect(field).to_have_value("0.7")
    field.fill("1.5")
    page.get_by_role("button", name="Back to the defaults").click()
    expect(field).to_have_value("0.7")
