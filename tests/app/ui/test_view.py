"""What the chat page shows, and to whom: safely, and to everyone."""

import importlib.resources
import json
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
    answer_with,
    answer_without_end,
    answers,
    refuse,
    say,
    wait_for_text,
    wait_until_idle,
)
from tools.harness.server import Server

AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()


def test_hostile_markdown_and_html_is_text(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.evaluate("addEventListener('securitypolicyviolation', () => { window.violated = true; })")
    answer_with(page, HOSTILE)
    say(page, HOSTILE)
    wait_until_idle(page)
    page.wait_for_timeout(200)
    page.reload()
    expect(answers(page)).to_contain_text("<script>window.hacked = 1</script>")
    assert page.evaluate("[window.hacked, window.violated]") == [None, None]
    assert all(url.startswith(server.url) for url in asked)
    for content in page.locator(".content").all():
        assert not content.locator("script, img, svg, iframe, form, input, style, base, meta, math").count()
        attributes = content.evaluate("e => [...e.querySelectorAll('*')].flatMap((child) => child.getAttributeNames())")
        assert set(attributes) <= {"class", "href", "rel", "tabindex", "target", "type"}
    links = answers(page).locator("a[href]").evaluate_all("links => links.map(({ href, rel }) => [href, rel])")
    assert links == [["https://evil.example/a.png", "noopener noreferrer nofollow"]]


def test_the_policy_stops_what_would_slip_through(open_page: OpenPage) -> None:
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
def test_axe_finds_nothing(open_page: OpenPage, scheme: Any) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate(AXE)

    def check(state: str) -> None:
        page.wait_for_timeout(50)
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert told == [], state

    expect(page.locator("#context")).to_contain_text("tokens")
    check("empty")
    answer_with(page, RICH)
    say(page, CAPITAL)
    wait_until_idle(page)
    check("answered")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("3")
    check("settings")
    page.keyboard.press("Escape")
    for status in (400, 401):
        refuse(page, status, "It was refused.")
        say(page, CAPITAL)
        expect(page.locator("#notice")).to_be_visible()
        check(f"status {status}")
    page.get_by_role("button", name="New chat").click()
    check("earlier chats")
    page.unroute(COMPLETIONS)
    say(page, LONG)
    wait_for_text(page)
    check("streaming")


def test_a_screen_reader_hears_blocks_and_not_tokens(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate("""() => {
        window.heard = [];
        new MutationObserver((changes) => {
            for (const { addedNodes } of changes) for (const node of addedNodes) heard.push(node.textContent);
        }).observe(document.querySelector("[role=log]"), { childList: true });
    }""")
    answer_with(page, "First **thing**.\n\nSecond thing.")
    say(page, CAPITAL)
    wait_until_idle(page)
    assert page.evaluate("heard") == ["The model answers.", "First thing.", "Second thing."]
    refuse(page, 503, "The model is loading.", retry_after=1)
    say(page, CAPITAL)
    expect(page.locator("#notice")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    wait_until_idle(page)
    said = page.evaluate("heard")[3:]
    assert said[:2] == ["The model answers.", "The model is loading. The page tries again by itself."]
    assert said[2:] == ["First thing.", "Second thing."]


def test_all_of_it_is_reached_by_keyboard_in_reading_order(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 1000, "height": 1600})
    answer_with(page, RICH)
    say(page, CAPITAL)
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
def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: OpenPage, width: int) -> None:
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
    answer_with(page, RICH)
    page.get_by_label("Your message").fill(RICH)
    page.keyboard.press("Enter")  # breaks the line
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("button", name="Send").tap()
    wait_until_idle(page)
    check("answered")
    refuse(page, 401, "no")
    page.get_by_role("button", name="Regenerate").tap()
    expect(page.locator("#notice")).to_be_visible()
    check("key")
    page.get_by_role("button", name="Settings").tap()
    check("settings")


def test_nothing_moves_where_less_motion_is_wanted(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    say(page, LONG)
    wait_for_text(page)
    assert page.evaluate("document.getAnimations().length") == 0


def test_the_end_is_followed_only_by_a_reader_who_is_there(open_page: OpenPage, demo: Path) -> None:
    page = open_page(viewport={"width": 800, "height": 400})
    answer_with(page, RICH)
    say(page, CAPITAL)
    wait_until_idle(page)
    gap = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)(conversation)"
    assert page.evaluate(gap) < 2
    page.unroute(COMPLETIONS)
    answer_without_end(page, json.loads((demo / "generation_config.json").read_bytes())["eos_token_id"])
    say(page, LONG)
    wait_for_text(page)
    assert page.evaluate(gap) < 2
    page.locator("#conversation").hover()
    page.mouse.wheel(0, -200)
    latest = page.get_by_role("button", name="To the latest")
    expect(latest).to_be_visible()
    place = page.evaluate("conversation.scrollTop")
    came = answers(page).last.inner_text()
    page.wait_for_function(
        "came => [...document.querySelectorAll('.assistant .content')].at(-1).innerText.length > came.length + 20",
        arg=came,
    )
    assert page.evaluate("conversation.scrollTop") == place
    latest.click()
    expect(latest).to_be_hidden()
    page.wait_for_timeout(100)
    assert page.evaluate(gap) < 2
