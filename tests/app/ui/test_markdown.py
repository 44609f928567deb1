"""Markdown while it is being written, at every length that it can have on its way."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.app.ui.pages import HOSTILE, RICH, OpenPage

EMPHASIS = """\
A list of **bold words**, `code`, and [a link](https://example.org):

- **First**: one
- `second`: two

Then a rule

---

### Title

* star
* stars

1. one
2. two
"""


@pytest.fixture
def page(open_page: OpenPage, loading_url: str) -> Page:
    return open_page(loading_url)


def shown(page: Page, text: str) -> Any:
    """What is shown at the end, and at each step on the way: text, names of blocks, and whether the first is kept."""
    return page.evaluate(
        """async (text) => {
            const { Markdown } = await import("/page/markdown.js");
            const element = document.createElement("div");
            const whole = document.createElement("div");
            new Markdown(whole).show(text, true);
            const markdown = new Markdown(element);
            const steps = [];
            let first = null;
            for (let end = 1; end <= text.length; end += 1) {
                markdown.show(text.slice(0, end), false);
                first ??= element.firstChild?.firstChild;
                steps.push({
                    text: element.textContent,
                    names: [...element.children].map((block) => block.firstElementChild?.nodeName),
                    kept: !first || element.firstChild.firstChild === first,
                });
            }
            markdown.show(text, true);
            return { steps, grown: element.innerHTML, whole: whole.innerHTML };
        }""",
        text,
    )


@pytest.mark.parametrize("text", [RICH, EMPHASIS, HOSTILE], ids=["rich", "emphasis", "hostile"])
def test_what_grew_is_what_comes_at_once(page: Page, text: str) -> None:
    result = shown(page, text)
    assert result["grown"] == result["whole"]


@pytest.mark.parametrize("text", [RICH, EMPHASIS], ids=["rich", "emphasis"])
def test_blocks_never_change_into_others_or_go_away(page: Page, text: str) -> None:
    result = shown(page, text)
    before: list[str] = []
    for step in result["steps"]:
        names = step["names"]
        assert names[: len(before)] == before, json.dumps(step)
        assert step["kept"]
        before = names


def test_marks_are_never_seen(page: Page) -> None:
    for step in shown(page, EMPHASIS)["steps"]:
        assert not set("*`[]|#") & set(step["text"]), step["text"]


def test_line_breaks_and_tasks_and_html_are_shown(page: Page) -> None:
    html = shown(page, "one\ntwo\n\n- [x] done\n- [ ] open\n\n<b>bold</b> and <br> here")["whole"]
    assert "one<br>two" in html
    assert "☑ done" in html
    assert "☐ open" in html
    assert "&lt;b&gt;bold&lt;/b&gt; and <br> here" in html


def test_links_lead_elsewhere_in_a_tab_of_their_own(page: Page) -> None:
    html = shown(
        page,
        "[one](https://example.org) [two](/metrics) [three][3] ![four](https://example.org/4.png)\n\n"
        "[3]: mailto:a@example.org",
    )["whole"]
    assert html.count('target="_blank" rel="noopener noreferrer nofollow"') == 4
    assert 'href="https://example.org"' in html
    assert 'href="mailto:a@example.org"' in html
    assert "/metrics" not in html
    assert "<img" not in html
