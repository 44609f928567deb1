"""Helpers that the tests of the page share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, expect

OpenPage = Callable[..., Page]

CAPITAL = "What is the capital of France?"
RESPONSE = "The capital of France is Paris."
LONG = "Write a long story about a lighthouse, with many chapters."
GREEDY = {"temperature": 0}
COMPLETIONS = "**/v1/chat/completions"

# Every Markdown element.
RICH = """\
The built-in `sum` is the **shortest** way, and *mostly* the fastest:

```python
total = sum([3.50, 12.00, 7.25])  # and a comment that is so long that it needs to be scrolled on any screen
```

# How they compare

| Way | Time for 1,000,000 |
|:---|---:|
| `sum(list)` | 4 ms |
| `math.fsum(list)`, which is exact where the other one rounds at every step | 21 ms |

1. One
   - nested
2. [Two](https://example.org/two) and ~~three~~

> Measure before you optimise.

---

AWordThatIsLongerThanAnyScreenIsWideAndHasNoPlaceToBreakAWordThatIsLongerThanAnyScreenIsWideAndHasNoPlaceToBreak
"""

HOSTILE = """\
<script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2"><svg onload="window.hacked = 3"></svg>

<iframe src="javascript:parent.hacked = 4"></iframe><form action="https://evil.example"><input name=a></form>

[link](javascript:window.hacked=5) [data](data:text/html,<script>alert(6)</script>) ![image](https://evil.example/a.png)

[![x](x "onerror=window.hacked=7")](java&#115;cript:window.hacked=8)
<a href="https://evil.example" style="position:fixed">x</a>

<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hacked=9&gt;">

```"><script>window.hacked=10</script>
</code></pre><script>window.hacked=11</script>
```

<style>* { display: none }</style><base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example">
"""


def events(text: str) -> str:
    """Return a streamed response in deltas of five characters."""
    deltas = [text[start : start + 5] for start in range(0, len(text), 5)]
    chunks: list[Any] = [{"choices": [{"delta": {"content": delta}, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 80, "total_tokens": 100}})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def respond_with(page: Page, text: str) -> None:
    """Respond to requests with `text`."""
    page.route(COMPLETIONS, lambda route: route.fulfill(content_type="text/event-stream", body=events(text)))


def respond_without_end(page: Page, demo: Path) -> None:
    """Ban the EOS tokens of the model in `demo`, so that a response fills the context."""
    ends = json.loads((demo / "generation_config.json").read_bytes())["eos_token_id"]
    bias = {"logit_bias": {str(end): -100 for end in ends}}
    page.route(COMPLETIONS, lambda route: route.continue_(post_data=route.request.post_data_json | bias))


def refuse(page: Page, status: int, message: str, retry_after: int | None = None) -> None:
    """Refuse the next request."""
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    body = json.dumps({"error": {"message": message}})

    def respond(route: Route) -> None:
        route.fulfill(status=status, headers=headers, content_type="application/json", body=body)

    page.route(COMPLETIONS, respond, times=1)


def configure(page: Page, **values: Any) -> None:
    """Store settings as the dialog does."""
    page.evaluate("values => localStorage.setItem('phi3.settings', JSON.stringify(values))", values)


def send_message(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def responses(page: Page) -> Any:
    return page.locator(".assistant .content")


def wait_for_text(page: Page) -> None:
    """Wait until a response has started."""
    expect(responses(page).last).to_contain_text("e")


def wait_until_idle(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
