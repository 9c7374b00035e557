"""What tests of pages share: a real browser, and what they look at in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from specdec.errors import ConfigError

EVIL = "</script ><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"

LOOK = """() => {
  const backdrop = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color;
    }
    return "none";
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((e) => own(e) && e.checkVisibility() && !e.closest("script, .mark-text.role-mark"))
    .map((e) => [e.textContent.slice(0, 30), getComputedStyle(e)[e.ownerSVGElement ? "fill" : "color"], backdrop(e)]);
}"""
"""Each visible text of its own: how it begins, its colour, and the colour behind it."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; no test of its module may run an event loop beside it."""
    from specdec.commands.report import browser  # most tests need no page, and no library of charts

    with ExitStack() as stack:
        try:
            chromium = stack.enter_context(browser())
        except ConfigError:
            pytest.skip("no browser: apt-get install chromium, or python -m playwright install chromium,")
        yield chromium


def spoken(page: Any) -> list[tuple[str, str]]:
    """Role and name of everything that a screen reader tells of."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]


def luminance(color: str) -> float:
    """WCAG 2.2, of `rgb(…)` or `#rrggbb`."""
    parts = (
        [int(color[i : i + 2], 16) for i in (1, 3, 5)] if color[0] == "#" else map(int, re.findall(r"\d+", color)[:3])
    )
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
