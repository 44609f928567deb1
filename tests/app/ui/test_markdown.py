"""Incremental rendering of Markdown, at every length that a text has while it grows."""

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
    """Return the final HTML and, for each step, the text, the block names and whether the first block was kept."""
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
def test_incremental_rendering_equals_complete_rendering(page: Page, text: str) -> None:
    result = shown(page, text)
    assert result["grown"] == result["whole"]


@pytest.mark.parametrize("text", [RICH, EMPHASIS], ids=["rich", "emphasis"])
def test_rendered_blocks_never_change_type_or_disappear(page: Page, text: str) -> None:
    result = shown(page, text)
    before: list[str] = []
    for step in result["steps"]:
        names = step["names"]
        assert names[: len(before)] == before, json.dumps(step)
        assert step["kept"]
        before = names


def test_markdown_marks_are_never_visible(page: Page) -> None:
    for step in shown(page, EMPHASIS)["steps"]:
        assert not set("*`[]|#") & set(step["text"]), step["text"]


def test_line_breaks_tasks_and_html_are_rendered(page: Page) -> None:
    html = shown(page, "one\ntwo\n\n- [x] done\n- [ ] open\n\n<b>bold</b> and <br> here")["whole"]
    assert "one<br>two" in html
    assert "☑ done" in html
    assert "☐ open" in html
    assert "&lt;b&gt;bold&lt;/b&gt; and <br> here" in html


def test_links_open_external_sites_in_a_new_tab(page: Page) -> None:
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
