"""The chat page in a real browser, against the real server."""

import importlib.resources
import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.page.pages import HOSTILE, RICH, OpenPage
from tests.server import START_SECONDS, Server

CAPITAL = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
LONG = "Write a long story about a lighthouse, with many chapters."
SURE = {"temperature": 0}
COMPLETIONS = "**/v1/chat/completions"
AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()


def events(text: str) -> str:
    """The stream of an answer, in pieces of a few characters."""
    pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
    chunks: list[Any] = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 80, "total_tokens": 100}})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def answer_with(page: Page, text: str) -> None:
    """Have requests answered by `text`."""
    page.route(COMPLETIONS, lambda route: route.fulfill(content_type="text/event-stream", body=events(text)))


def refuse(page: Page, status: int, message: str, retry_after: int | None = None) -> None:
    """Have the next request refused."""
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    body = json.dumps({"error": {"message": message}})

    def respond(route: Route) -> None:
        route.fulfill(status=status, headers=headers, content_type="application/json", body=body)

    page.route(COMPLETIONS, respond, times=1)


def configure(page: Page, **values: Any) -> None:
    """Set settings as the dialog does."""
    page.evaluate("values => localStorage.setItem('phi3.settings', JSON.stringify(values))", values)


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answers(page: Page) -> Any:
    return page.locator(".assistant .content")


def wait_for_text(page: Page) -> None:
    """Until an answer has begun."""
    expect(answers(page).last).to_contain_text("e")


def wait_until_idle(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


# ---- asking


def test_a_question_is_answered_and_the_model_and_its_context_are_told(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_have_text("demo")
    expect(page.locator("#context")).to_have_text("context of 512 tokens")
    configure(page, **SURE)
    say(page, CAPITAL)
    expect(page.locator(".user .content")).to_have_text(CAPITAL)
    expect(answers(page)).to_have_text(ANSWER)
    wait_until_idle(page)
    expect(page.locator("#context")).to_have_text("18 of 512 tokens")
    expect(page.locator(".assistant .figures")).to_contain_text("8 tokens in ")
    expect(page).to_have_title("demo · phi3")
    expect(page.get_by_label("Your message")).to_be_focused()


def test_the_conversation_and_the_settings_go_to_the_model(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    for label, value in {"Temperature": "0", "Top P": "0.9", "Longest answer": "3", "Seed": "7"}.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Done").click()
    say(page, CAPITAL)
    expect(page.locator(".assistant .note")).to_contain_text("Cut off")
    with page.expect_request(COMPLETIONS) as asked:
        say(page, "And of Spain?")
    assert asked.value.post_data_json == {
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
    assert asked.value.headers.get("authorization") is None


def test_an_answer_comes_in_pieces_and_is_stopped_by_escape(open_page: OpenPage) -> None:
    page = open_page()
    say(page, LONG)
    wait_for_text(page)
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    before = answers(page).inner_text()
    page.wait_for_function("before => document.querySelector('.assistant .content').innerText !== before", arg=before)
    page.keyboard.press("Escape")
    expect(stop).to_be_hidden()
    expect(page.locator(".assistant .note")).to_have_text("Stopped.")
    kept = answers(page).inner_text()
    assert len(kept) >= len(before) > 0
    page.wait_for_timeout(300)
    assert answers(page).inner_text() == kept


def test_stop_frees_the_server_and_returns_to_the_message(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    say(page, LONG)
    wait_for_text(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_label("Your message")).to_be_focused()
    for _ in range(50):
        if server.metric("vllm:num_requests_running") == 0:
            break
        page.wait_for_timeout(100)
    assert server.metric("vllm:num_requests_running") == 0


def test_regenerating_replaces_the_last_answer(open_page: OpenPage) -> None:
    page = open_page()
    configure(page, **SURE)
    say(page, CAPITAL)
    wait_until_idle(page)
    answer_with(page, "Another **answer**.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Another answer.")
    expect(page.locator(".message")).to_have_count(2)


def test_enter_sends_and_shift_enter_breaks_the_line(open_page: OpenPage) -> None:
    page = open_page()
    answer_with(page, "Yes.")
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


def test_copying_gives_the_markdown_of_a_message_and_the_text_of_code(open_page: OpenPage) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    answer_with(page, RICH)
    say(page, CAPITAL)
    wait_until_idle(page)
    for old_way in (False, True):
        if old_way:  # as without TLS
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


# ---- keeping


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


# ---- errors


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


# ---- safety


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


# ---- everyone


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


def test_the_end_is_followed_only_by_a_reader_who_is_there(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 800, "height": 400})
    answer_with(page, RICH)
    say(page, CAPITAL)
    wait_until_idle(page)
    gap = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)(conversation)"
    assert page.evaluate(gap) < 2
    page.unroute(COMPLETIONS)
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
