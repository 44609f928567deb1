"""What the tests of the page share."""

from collections.abc import Callable

from playwright.sync_api import Page

OpenPage = Callable[..., Page]

# All that Markdown has.
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
