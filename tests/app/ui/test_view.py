"""Display of the chat page: security, accessibility and layout."""

import importlib.resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.app.ui.pages import (
    CAPITAL,
    COMPLETIONS,
    HOSTILE,
    LONG,
    RICH,
    OpenPage,
    refuse,
    respond_with,
    respond_without_end,
    responses,
    send_message,
    wait_for_text,
    wait_until_idle,
)
from tools.harness.server import Server

AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()


def test_hostile_markdown_and_html_are_shown_as_text(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.evaluate("addEventListener('securitypolicyviolation', () => { window.violated = true; })")
    respond_with(page, HOSTILE)
    send_message(page, HOSTILE)
    wait_until_idle(page)
    page.wait_for_timeout(200)
    page.reload()
    expect(responses(page)).to_contain_text("<script>window.hacked = 1</script>")
    assert page.evaluate("[window.hacked, window.violated]") == [None, None]
    assert all(url.startswith(server.url) for url in requested)
    for content in page.locator(".content").all():
        assert not content.locator("script, img, svg, iframe, form, input, style, base, meta, math").count()
        attributes = content.evaluate("e => [...e.querySelectorAll('*')].flatMap((child) => child.getAttributeNames())")
        assert set(attributes) <= {"class", "href", "rel", "tabindex", "target", "type"}
    links = responses(page).locator("a[href]").evaluate_all("links => links.map(({ href, rel }) => [href, rel])")
    assert links == [["https://evil.example/a.png", "noopener noreferrer nofollow"]]


def test_content_security_policy_blocks_injected_content(open_page: OpenPage) -> None:
    page = open_page(watched=False)
    violations = page.evaluate("""async () => {
        const seen = [];
        addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.hacked = true";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", '<img src="https://evil.example/a.png" onerror="hacked = true">');
        await fetch("https://evil.example").catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 200));
        document.body.lastChild.remove();
        return [...new Set(seen), window.hacked];
    }""")
    assert set(violations) == {"script-src-elem", "img-src", "script-src-attr", "connect-src", None}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violations(open_page: OpenPage, scheme: Any) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate(AXE)

    def check(state: str) -> None:
        page.wait_for_timeout(50)
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        violations = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert violations == [], state

    expect(page.locator("#context")).to_contain_text("tokens")
    check("empty")
    respond_with(page, RICH)
    send_message(page, CAPITAL)
    wait_until_idle(page)
    check("responded")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("3")
    check("settings")
    page.keyboard.press("Escape")
    for status in (400, 401):
        refuse(page, status, "It was refused.")
        send_message(page, CAPITAL)
        expect(page.locator("#notice")).to_be_visible()
        check(f"status {status}")
    page.get_by_role("button", name="New chat").click()
    check("earlier chats")
    page.unroute(COMPLETIONS)
    send_message(page, LONG)
    wait_for_text(page)
    check("streaming")


def test_screen_reader_announces_blocks_not_tokens(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("""() => {
        window.heard = [];
        new MutationObserver((changes) => {
            for (const { addedNodes } of changes) for (const node of addedNodes) heard.push(node.textContent);
        }).observe(document.querySelector("[role=log]"), { childList: true });
    }""")
    respond_with(page, "First **thing**.\n\nSecond thing.")
    send_message(page, CAPITAL)
    wait_until_idle(page)
    assert page.evaluate("heard") == ["The model is responding.", "First thing.", "Second thing."]
    refuse(page, 503, "The model is loading.", retry_after=1)
    send_message(page, CAPITAL)
    expect(page.locator("#notice")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    wait_until_idle(page)
    later = page.evaluate("heard")[3:]
    assert later[:2] == ["The model is responding.", "The model is loading. The page retries automatically."]
    assert later[2:] == ["First thing.", "Second thing."]


def test_keyboard_reaches_all_controls_in_reading_order(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 1000, "height": 1600})
    respond_with(page, RICH)
    send_message(page, CAPITAL)
    wait_until_idle(page)
    page.keyboard.press("Tab")  # out of the page
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("""() => {
                const { id, className } = document.activeElement;
                const shown = getComputedStyle(document.activeElement).outlineStyle !== "none" || id === "message";
                return shown ? id || className.split(" ").pop() || document.activeElement.nodeName : "unseen";
            }""")
        )
    user, code, table = ["copy"], ["copy-code", "PRE"], ["table"]
    assert reached == ["new", "open-settings", "conversation", *user, *code, *table, "A", "copy", "again", "message"]


@pytest.mark.parametrize("width", [320, 390])
def test_phone_layout_never_scrolls_sideways(open_page: OpenPage, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True)

    def check(state: str) -> None:
        wide = page.evaluate(f"""[...document.querySelectorAll("body *")].filter((element) => {{
            const {{ left, right, width }} = element.getBoundingClientRect();
            const clipped = element.closest("pre, .table, .unseen, .tools span");
            return width > 1 && (left < 0 || right > {width}) && !clipped;
        }}).map((element) => element.outerHTML.slice(0, 100))""")
        assert wide == [], state
        assert page.evaluate("document.documentElement.scrollWidth") == width, state

    expect(page.locator("#context")).to_contain_text("tokens")
    check("empty")
    respond_with(page, RICH)
    page.get_by_label("Your message").fill(RICH)
    page.keyboard.press("Enter")  # breaks the line
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("button", name="Send").tap()
    wait_until_idle(page)
    check("responded")
    refuse(page, 401, "no")
    page.get_by_role("button", name="Regenerate").tap()
    expect(page.locator("#notice")).to_be_visible()
    check("key")
    page.get_by_role("button", name="Settings").tap()
    check("settings")


def test_page_has_no_animations_with_reduced_motion(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    send_message(page, LONG)
    wait_for_text(page)
    assert page.evaluate("document.getAnimations().length") == 0


def test_view_follows_new_text_only_from_the_end(open_page: OpenPage, demo: Path) -> None:
    page = open_page(viewport={"width": 800, "height": 400})
    respond_with(page, RICH)
    send_message(page, CAPITAL)
    wait_until_idle(page)
    gap = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)(conversation)"
    assert page.evaluate(gap) < 2
    page.unroute(COMPLETIONS)
    respond_without_end(page, demo)
    send_message(page, LONG)
    wait_for_text(page)
    assert page.evaluate(gap) < 2
    page.locator("#conversation").hover()
    page.mouse.wheel(0, -200)
    latest = page.get_by_role("button", name="Jump to latest")
    expect(latest).to_be_visible()
    place = page.evaluate("conversation.scrollTop")
    came = responses(page).last.inner_text()
    page.wait_for_function(
        "came => [...document.querySelectorAll('.assistant .content')].at(-1).innerText.length > came.length + 20",
        arg=came,
    )
    assert page.evaluate("conversation.scrollTop") == place
    latest.click()
    expect(latest).to_be_hidden()
    page.wait_for_timeout(100)
    assert page.evaluate(gap) < 2
